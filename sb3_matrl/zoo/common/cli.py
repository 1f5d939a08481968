"""Shared parts of the command lines: strict parsers, types of arguments, errors in one line instead of a traceback."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import did_you_mean, unknown
from sb3_matrl.zoo.common.invocation import command_prefix, in_used_form

USER_ERROR = 2
# What names an environment, in the texts of flags.
ENV_IDS = "a registered id, pettingzoo:<family>/<name>-v<version>, openspiel:<game> or module:callable"
VEC_ENVS = ("auto", "batched", "dummy", "subproc", "supersuit", "supersuit-subproc")
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu|hpu|mtia|xla)(:(0|[1-9]\d*))?")


class StrictParser(argparse.ArgumentParser):
    """
    Argument parser that accepts no abbreviations, shows defaults and suggests the nearest flag for a misspelt one.

    :param command: name of the command; ``""`` for the program itself
    :param description: purpose of the command
    :param examples: command lines in the form ``sb3-matrl train ...``, shown below the flags in the form in use
    """

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=shlex.join(command_prefix(command)),
            description=description,
            epilog=f"examples:\n{in_used_form(examples)}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        :param arguments: words of the command line, without the program's name
        :raises ValueError: on an unknown flag or a word that belongs to no flag
        """
        return self._parse(arguments, argparse.Namespace())

    def parse_given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """
        Parse as :meth:`parse_strictly` does, without the defaults.

        :param arguments: words of the command line, without the program's name
        :return: name -> value of the flags among them
        """
        unset = object()
        names = {action.dest: [] if isinstance(action.default, list) else unset for action in self._actions}
        values = vars(self._parse(arguments, argparse.Namespace(**names)))
        return {name: value for name, value in values.items() if value is not unset and value != []}

    def _parse(self, arguments: Sequence[str], namespace: argparse.Namespace) -> argparse.Namespace:
        for word in arguments:
            if self._is_abbreviation(word):
                raise self.unknown_flag(word)
        namespace, rest = self.parse_known_args(arguments, namespace)
        for word in rest:
            if word.startswith("-"):
                raise self.unknown_flag(word)
        if rest:
            raise ValueError(f"argument {rest[0]!r} belongs to no flag. See --help.")
        return namespace

    @property
    def flags(self) -> list[str]:
        """All flags, with their dashes."""
        return list(self._option_string_actions)

    def default_of(self, flag: str) -> Any:
        """Value of a flag that is not given."""
        return self._option_string_actions[flag].default

    def unknown_flag(self, word: str, others: Sequence[str] = ()) -> ValueError:
        """
        :param word: word of the command line, with or without a value
        :param others: names beside the flags that may have been meant
        """
        flag = word.split("=")[0]
        return ValueError(f"flag {flag} is unknown{did_you_mean(flag, [*self.flags, *others]) or '.'} See --help.")

    def _is_abbreviation(self, word: str) -> bool:
        """Whether argparse would complete it; ``allow_abbrev=False`` does not stop that after a single dash."""
        flags = self.flags
        single = len(word) > 1 and word[0] == "-" and word[1].isalpha()
        return single and word not in flags and any(flag.startswith(word) for flag in flags)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, unknown("value", str(value), map(str, action.choices)))

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. See --help.")


class CommandParser(StrictParser):
    """
    Parser of a command that has commands of its own, each with its own flags.

    :param command: name of the command
    :param description: purpose of all of them
    :param examples: shown below
    :param commands: name -> parser of the words after it
    """

    def __init__(self, command: str, description: str, examples: str, commands: Mapping[str, StrictParser]) -> None:
        super().__init__(command, description, examples)
        self.commands = commands
        self.add_argument("command", metavar="|".join(commands), help="see <command> --help for its flags")
        for name, parser in commands.items():
            parser.prog = f"{self.prog} {name}"

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        :param arguments: words of the command line, without the program's name
        :return: the flags of the command, and its name as ``command``
        :raises ValueError: on an unknown command or flag
        """
        if not arguments or arguments[0].startswith("-"):
            return super().parse_strictly(arguments)
        command, *rest = arguments
        if command not in self.commands:
            raise ValueError(unknown("command", command, self.commands))
        namespace = self.commands[command].parse_strictly(rest)
        namespace.command = command
        return namespace


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """
    Examples as they are, and defaults behind the flags that have one; switches are off by default. The line of usage names
    only flags that are required: all follow below.
    """

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        words = [self._prog, "[options]"]
        for one in actions:
            if one.required:
                flag = max(one.option_strings, key=len, default=None)
                metavar = one.metavar or (one.dest if flag is None else one.dest.upper())
                words += [*([] if flag is None else [flag]), self._format_args(one, metavar)]  # type: ignore[arg-type]
        super().add_usage(usage or " ".join(words).replace("%", "%%"), actions, groups, prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = shown_default(action.default) if action.option_strings else ""
        return f"{action.help} (default: {default.replace('%', '%%')})" if default else action.help


@contextmanager
def user_errors() -> Iterator[None]:
    """
    Report a mistake of the user in one line and exit with code 2.

    SB3 reports bad hyper-parameters with assertions, JointVecEnv an unsuitable environment with ``TypeError``, and one that
    fails with ``EnvError``.
    """
    try:
        yield
    except (ValueError, TypeError, AssertionError, ImportError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            text = f"{error.filename}: {error.strerror}"
        elif not isinstance(error, RuntimeError):
            text = str(error)
        elif _is_env_error(error):
            text = one_line(error)  # whatever the environment said
        else:
            raise
        print(f"error: {text}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _is_env_error(error: RuntimeError) -> bool:
    """Whether an environment failed; its module is heavy, and has raised nothing before it is imported."""
    module = sys.modules.get("sb3_matrl.vec_env.errors")
    return module is not None and isinstance(error, module.EnvError)


def count(text: str) -> int:
    """A whole number; ``1e5`` is one too."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(number)


def _bounded(text: str, minimum: int, *others: int) -> int:
    number = count(text)
    if number < minimum and number not in others:
        alternatives = f", or {' or '.join(map(str, others))}" if others else ""
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}{alternatives}, got {text!r}")
    return number


def positive_count(text: str) -> int:
    """A whole number of at least 1."""
    return _bounded(text, 1)


def non_negative_count(text: str) -> int:
    """A whole number of at least 0."""
    return _bounded(text, 0)


def thread_count(text: str) -> int:
    """A whole number of at least 1, or -1."""
    return _bounded(text, 1, -1)


def log_interval(text: str) -> int:
    """A whole number of at least 1, or -1 or -2."""
    return _bounded(text, 1, -1, -2)


def minutes(text: str) -> float:
    """A number of minutes, at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of minutes, at least 0, got {text!r}")
    return number


def picture_size(text: str) -> float:
    """A size in a picture: a number above 0, at most 100."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0.0 < size <= 100.0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 100, got {text!r}")
    return size


def boolean(text: str) -> bool:
    """``true`` or ``false`` in upper or lower case."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def seed(text: str) -> int:
    """A seed: a whole number from 0 to 2**32 - 1, the range of every generator."""
    number = count(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**32 - 1, got {text!r}")
    return number


def device(text: str) -> str:
    """Name of a device of PyTorch, or ``auto``. Checked without PyTorch, whose import takes seconds."""
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:<index>, got {text!r}")
    return text


def algorithm(text: str) -> str:
    """Name of a registered algorithm."""
    if text not in algorithm_names():
        raise argparse.ArgumentTypeError(unknown("algorithm", text, algorithm_names()))
    return text


def shown_default(default: Any) -> str:
    """
    A default as one would type it.

    :param default: value of a flag that is not given
    :return: its text; empty for a switch, an empty list and a flag without a default
    """
    if default is None or default is argparse.SUPPRESS or isinstance(default, bool):
        return ""
    return " ".join(map(str, default)) if isinstance(default, (list, tuple)) else str(default)


def environment(text: str) -> str:
    """Id of an environment, or ``module:callable``; checked when it is made."""
    return text


def path(text: str) -> str:
    """Path of a file or folder."""
    return text
