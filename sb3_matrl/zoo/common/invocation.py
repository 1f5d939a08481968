"""The form in which the command line was started, so that printed commands have the same form."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

CONSOLE = "sb3-matrl {command}"
MODULE = "python -m sb3_matrl.zoo {command}"
# An environment variable, because worker processes print commands, too.
VARIABLE = "SB3_MATRL_COMMAND"


def set_form(form: str) -> None:
    """
    Set the form of printed commands, for this process and its children.

    :param form: ``CONSOLE``, ``MODULE`` or the result of :func:`script_form`
    """
    os.environ[VARIABLE] = form


def script_form(script: str) -> str:
    """
    :param script: path of one of the scripts in ``zoo/``, as the user typed it
    :return: form of the commands of all scripts in that folder
    """
    return shlex.join(["python", str(Path(script).with_name("{command}.py"))])


def command_prefix(command: str) -> list[str]:
    """
    :param command: e.g. ``"train"``; ``""`` for the program alone
    :return: first words of a command line, e.g. ``["sb3-matrl", "train"]`` or ``["python", "zoo/train.py"]``
    """
    words = shlex.split(os.environ.get(VARIABLE, CONSOLE))
    file = f"{command.replace('-', '_')}.py"  # as Python files are named
    given = [word.replace("{command}.py", file).replace("{command}", command) for word in words]
    return [word for word in given if word]


def in_used_form(text: str) -> str:
    """
    :param text: with commands in the form ``sb3-matrl train ...``
    :return: the text with the commands in the form in which this process was started
    """
    return re.sub(r"(?<!\S)sb3-matrl ([\w-]+)", lambda found: shlex.join(command_prefix(found[1])), text)
