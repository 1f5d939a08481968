"""The console script ``sb3-matrl`` and its commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sb3_matrl import __version__
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.cli import StrictParser, user_errors
from sb3_matrl.zoo.common.invocation import CONSOLE, script_form, set_form
from sb3_matrl.zoo.common.screen import output_without_reader_discarded

#: Name -> purpose. A command is the function ``main`` of the module that :func:`module_of` names.
COMMANDS = {
    "train": "train agents",
    "enjoy": "play trained agents: returns, window, video",
    "benchmark": "compare algorithms over environments and seeds",
    "sweep": "search hyper-parameters",
    "report": "write an HTML page about runs",
    "crossplay": "let agents of several runs play with or against each other",
    "exploit": "train opponents against agents: bounds on their regrets",
    "plot": "draw learning curves of runs and benchmarks",
    "push-to-hub": "send trained agents to the Hugging Face Hub",
    "load-from-hub": "fetch trained agents from the Hugging Face Hub",
    "games": "make the paper's table and figures of exact games",
    "doctor": "check the installation or a saved model",
    "completion": "print a script for shell completion",
}
EXAMPLES = """\
  sb3-matrl train --env checkers_v0
  sb3-matrl train --help
"""


def module_of(name: str) -> str:
    """
    :param name: one of ``COMMANDS``, or the name of its script
    :return: name of the command's module
    """
    return f"sb3_matrl.zoo.{name.replace('-', '_')}"


def build_parser() -> StrictParser:
    """:return: parser of a command line without a command"""
    listed = "\n".join(f"  {name:<15}{purpose}" for name, purpose in COMMANDS.items())
    parser = StrictParser("", f"Multi-agent trust region learning.\n\ncommands:\n{listed}", EXAMPLES)
    parser.usage = f"{parser.prog} COMMAND ...\n       {parser.prog} --version"
    parser.add_argument("--version", action="version", version=f"sb3-matrl {__version__}", help="print the version")
    return parser


def main(arguments: Sequence[str] | None = None, form: str = CONSOLE) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :param form: form of printed commands, see :mod:`sb3_matrl.zoo.common.invocation`
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    set_form(form)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        build_parser().print_help()
        return 0
    with user_errors():
        if words[0].startswith("-"):
            build_parser().parse_strictly(words)
        if words[0] not in COMMANDS:
            raise ValueError(unknown("command", words[0], COMMANDS))
    return run_command(words[0], words[1:])


def run_script(script: str) -> int:
    """
    Run the command of a script in ``zoo/``.

    :param script: path of the script, as the user typed it
    :return: exit code
    """
    set_form(script_form(script))
    return run_command(os.path.splitext(os.path.basename(script))[0], sys.argv[1:])


def run_command(name: str, words: Sequence[str]) -> int:
    """
    Run a command; modules in the current folder can be imported, e.g. for ``--env my_games.chase:Chase``.

    :param name: one of ``COMMANDS``
    :param words: words after it
    :return: exit code
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    with output_without_reader_discarded():
        return int(import_module(module_of(name)).main(words))
