"""Import of packages that only some environments need."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from gymnasium.error import DependencyNotInstalled


def import_optional(name: str, what: str, extra: str) -> ModuleType:
    """
    Import a module of an optional dependency.

    :param name: name of the module
    :param what: feature that needs the module, for the message
    :param extra: extra of sb3-matrl that installs the module
    :raises ImportError: if the module cannot be imported; the message says what to install
    """
    try:
        return importlib.import_module(name)
    except (ImportError, DependencyNotInstalled) as error:
        raise ImportError(f"{what} needs more packages: pip install 'sb3-matrl[{extra}]' ({error})") from error


def rom_folder(what: str) -> str:
    """
    Folder of the Atari ROMs that ale-py includes.

    :param what: feature that needs the ROMs, for the message
    :raises ImportError: if ale-py is not installed
    """
    return str(Path(str(import_optional("ale_py", what, "atari").__file__)).parent)
