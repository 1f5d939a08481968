"""Packages that only some environments need: imported when such an environment is made."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType


def import_optional(name: str, what: str, extra: str) -> ModuleType:
    """
    Import a module of an optional dependency.

    :param name: the module
    :param what: what needs it, for the message
    :param extra: the extra of sb3-matrl that brings it
    :raises ImportError: when it cannot be imported; one line that says what to install
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{what} needs more packages: pip install 'sb3-matrl[{extra}]' ({error})") from error


def rom_folder(what: str) -> str:
    """
    Where ale-py keeps the Atari games that come with it.

    :param what: what needs them, for the message
    :raises ImportError: when ale-py is not installed
    """
    return str(Path(str(import_optional("ale_py", what, "atari").__file__)).parent)
