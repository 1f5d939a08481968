"""Print a script for shell completion: ``sb3-matrl completion bash``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.zoo.common.cli import StrictParser, algorithm, device, environment, user_errors
from sb3_matrl.zoo.common.completion_scripts import SCRIPTS, read_command
from sb3_matrl.zoo.main import COMMANDS, module_of

EXAMPLES = """\
  sb3-matrl completion bash > ~/.local/share/bash-completion/completions/sb3-matrl
  sb3-matrl completion fish > ~/.config/fish/completions/sb3-matrl.fish
  source <(sb3-matrl completion zsh)        (in ~/.zshrc, after compinit)
"""


def build_parser() -> StrictParser:
    """:return: parser of the shell's name"""
    parser = StrictParser("completion", "Print a script that completes commands, flags, their values and files.", EXAMPLES)
    parser.add_argument("shell", choices=list(SCRIPTS), help="shell that reads the script")
    return parser


def completion_script(shell: str) -> str:
    """
    :param shell: one of ``SCRIPTS``
    :return: script for it
    """
    from sb3_matrl.envs import registered_ids

    values = {algorithm: algorithm_names(), environment: registered_ids(), device: ("auto", "cpu", "cuda")}
    parsers = {name: import_module(module_of(name)).build_parser() for name in COMMANDS}
    return SCRIPTS[shell]([read_command((name,), parser, values) for name, parser in parsers.items()])


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    with user_errors():
        given = build_parser().parse_strictly(list(sys.argv[1:] if arguments is None else arguments))
    print(completion_script(given.shell), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
