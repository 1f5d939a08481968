"""Scripts for shell completion, made from the parsers of the commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_matrl.zoo.common import cli

PROGRAM = "sb3-matrl"
_FILE_TYPES = (cli.path, Path)


@dataclass(frozen=True)
class Argument:
    """
    A flag, or an argument without one.

    :param names: spellings of the flag, with their dashes; empty for an argument without one
    :param purpose: one line
    :param takes_value: whether a word follows the flag
    :param several: whether more than one word may follow
    :param values: known values
    :param files: whether a value may be a path
    """

    names: tuple[str, ...]
    purpose: str
    takes_value: bool
    several: bool
    values: tuple[str, ...]
    files: bool


@dataclass(frozen=True)
class Command:
    """
    A command of the program.

    :param words: e.g. ``("train",)`` or ``("games", "table1")``
    :param purpose: one line
    :param arguments: its flags and other arguments
    :param commands: commands that may follow instead
    """

    words: tuple[str, ...]
    purpose: str
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...] = ()

    @property
    def flags(self) -> list[str]:
        """All spellings of all flags."""
        return [name for argument in self.arguments for name in argument.names]


def read_command(words: Sequence[str], parser: cli.StrictParser, values: Mapping[Any, Sequence[str]]) -> Command:
    """
    :param words: the command
    :param parser: its parser
    :param values: type of an argument -> known values
    """
    purpose = _one_line(parser.description)
    if isinstance(parser, cli.CommandParser):
        inner = tuple(read_command((*words, name), one, values) for name, one in parser.commands.items())
        return Command(tuple(words), purpose, (), inner)
    return Command(tuple(words), purpose, tuple(_argument(action, values) for action in parser._actions))


def _argument(action: argparse.Action, values: Mapping[Any, Sequence[str]]) -> Argument:
    known = values.get(action.type, ()) if action.choices is None else [str(choice) for choice in action.choices]
    # The value of a switch, true or false, is optional: flags are more likely after it, unless its values have names.
    takes_value = action.nargs != 0 and (action.nargs != "?" or bool(known))
    several = action.nargs == "+" or (isinstance(action.nargs, int) and action.nargs > 1)
    names = tuple(action.option_strings)
    return Argument(names, _one_line(action.help), takes_value, several, tuple(known), action.type in _FILE_TYPES)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("%%", "%").split())


# ---------------------------------------------------------------- bash and zsh

_BASH = """\
# Completion of {program} for {shell}.
{start}_sb3_matrl() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" near=1 i=$((COMP_CWORD - 1)) known="" files="" place="${{COMP_WORDS[1]}}"
    # bash splits --flag=value into three words.
    if [[ $current == "=" ]]; then current=""; elif [[ ${{COMP_WORDS[i]}} == "=" ]]; then i=$((i - 1)); fi
    case "$place" in {groups}) if ((COMP_CWORD > 2)); then place="$place ${{COMP_WORDS[2]}}"; fi ;; esac
    # The last flag before the word, and whether it stands right before it.
    while ((i > 0)) && [[ ${{COMP_WORDS[i]}} != -* ]]; do i=$((i - 1)); near=0; done
    if ((COMP_CWORD == 1)); then place=""; i=0; near=0; fi
    if [[ $current == -* ]]; then near=0; fi
    local flag=""
    if ((i > 0)) && [[ $current != -* ]]; then flag="${{COMP_WORDS[i]}}"; fi
    case "$place|$flag|$near" in
{cases}
    esac
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "${{known// /$IFS}}" -- "$current"))
{quoting}    if [[ -n $files ]]; then {as_files}COMPREPLY+=($(compgen -f -- "$current")); fi
}}
complete -F _sb3_matrl {program}
"""

_BASH_QUOTING = """\
    for i in "${!COMPREPLY[@]}"; do printf -v "COMPREPLY[$i]" %q "${COMPREPLY[i]}"; done
"""


def bash_script(commands: Sequence[Command], shell: str = "bash") -> str:
    """
    :param commands: all commands of the program
    :param shell: ``bash``, or ``zsh`` for a script that zsh runs in its mode for bash's completions
    """
    names = " ".join(command.words[0] for command in commands)
    cases = [_bash_case(['"|"*'], f"{names} --help --version", False)]
    for command in commands:
        for one in command.commands or (command,):
            cases += _bash_cases(one)
        if command.commands:
            inner = " ".join(one.words[-1] for one in command.commands)
            cases.append(_bash_case([f'"{command.words[0]}|"*'], f"{inner} --help", False))
    return _BASH.format(
        program=PROGRAM,
        shell=shell,
        start="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        groups="|".join(command.words[0] for command in commands if command.commands) or '""',
        cases="\n".join(cases),
        # Ids such as humanoid_9|8 need quotes; zsh adds them itself.
        quoting="" if shell == "zsh" else _BASH_QUOTING,
        as_files="" if shell == "zsh" else "compopt -o filenames 2>/dev/null; ",
    )


def zsh_script(commands: Sequence[Command]) -> str:
    """:param commands: all commands of the program"""
    return bash_script(commands, "zsh")


def _bash_cases(command: Command) -> Iterator[str]:
    place = " ".join(command.words)
    for argument in command.arguments:
        if argument.names and argument.takes_value:
            patterns = [f'"{place}|{name}|"{"*" if argument.several else "1"}' for name in argument.names]
            yield _bash_case(patterns, " ".join(argument.values), argument.files)
    others = [argument for argument in command.arguments if not argument.names]
    words = [*(value for argument in others for value in argument.values), *command.flags]
    yield _bash_case([f'"{place}|"*'], " ".join(words), any(argument.files for argument in others))


def _bash_case(patterns: Sequence[str], words: str, files: bool) -> str:
    return f'        {"|".join(patterns)}) known="{words}"{" files=1" if files else ""} ;;'


# ---------------------------------------------------------------- fish


def fish_script(commands: Sequence[Command]) -> str:
    """:param commands: all commands of the program"""
    lines = [f"# Completion of {PROGRAM} for fish.", f"complete -c {PROGRAM} -f"]
    for command in commands:
        lines.append(_fish_line("__fish_use_subcommand", f"-a {command.words[0]}", command.purpose))
        for inner in command.commands:
            others = " ".join(one.words[-1] for one in command.commands)
            outside = f"{_fish_condition(command)}; and not __fish_seen_subcommand_from {others}"
            lines.append(_fish_line(outside, f"-a {inner.words[-1]}", inner.purpose))
        for one in command.commands or (command,):
            lines += [
                _fish_line(_fish_condition(one), _fish_options(argument), argument.purpose) for argument in one.arguments
            ]
    return "\n".join(lines) + "\n"


def _fish_condition(command: Command) -> str:
    return "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.words)


def _fish_options(argument: Argument) -> str:
    words = [_fish_flag(name) for name in argument.names]
    if argument.takes_value and argument.names:
        words.append("-r" if argument.files else "-x")
    if argument.files:
        words.append("-F")
    if argument.values:
        quoted = (value if re.fullmatch(r"[\w.-]+", value) else f'"{value}"' for value in argument.values)
        words.append(f"-a '{' '.join(quoted)}'")
    return " ".join(words)


def _fish_flag(name: str) -> str:
    if name.startswith("--"):
        return f"-l {name[2:]}"
    return f"-{'s' if len(name) == 2 else 'o'} {name[1:]}"


def _fish_line(condition: str, options: str, purpose: str) -> str:
    text = purpose.replace("\\", "\\\\").replace("'", "\\'")
    return f"complete -c {PROGRAM} -n '{condition}' {options} -d '{text}'"


SCRIPTS: dict[str, Callable[[Sequence[Command]], str]] = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
