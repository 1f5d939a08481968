"""Ids of PettingZoo's own environments, such as ``pettingzoo:sisl/multiwalker-v9``, read from the installed packages."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from sb3_matrl.envs.optional import import_optional, rom_folder
from sb3_matrl.utils.suggest import unknown

PREFIX = "pettingzoo:"
# Family -> package. mpe has become a separate package.
_FAMILIES = {
    "atari": "pettingzoo.atari",
    "butterfly": "pettingzoo.butterfly",
    "classic": "pettingzoo.classic",
    "mpe": "mpe2",
    "sisl": "pettingzoo.sisl",
}


def factory(env_id: str) -> Callable[..., Any]:
    """
    Look up the function that makes one of PettingZoo's environments.

    :param env_id: ``"pettingzoo:<family>/<name>-v<version>"``
    :return: ``parallel_env`` of the environment's module, or ``env`` if there is only an AEC version; Atari's functions use
        the ROMs that ale-py includes
    :raises ValueError: if the family, environment or version does not exist; the message lists those that do
    :raises ImportError: if packages are missing; the message says what to install
    """
    family, slash, name = env_id.removeprefix(PREFIX).partition("/")
    if not slash:
        example = f"{PREFIX}sisl/multiwalker-v9"
        raise ValueError(f"env {env_id!r} must have the form '{PREFIX}<family>/<name>-v<version>', e.g. {example!r}")
    if family not in _FAMILIES:
        raise ValueError(unknown(f"env {env_id!r}: family", family, _FAMILIES))
    what = f"env {env_id!r}"
    known = names(family)
    if not known:
        import_optional(_FAMILIES[family], what, "pettingzoo")
    if name not in known:
        raise ValueError(unknown(f"{what}: environment", name, known))
    return _function(what, family, name)


def names(family: str) -> list[str]:
    """
    Names of the environments of a family, in the form ``name-v1``.

    :param family: ``"atari"``, ``"butterfly"``, ``"classic"``, ``"mpe"`` or ``"sisl"``
    :return: names; empty if the family's package is not installed
    """
    spec = find_spec(_FAMILIES[family])
    modules = pkgutil.iter_modules(spec.submodule_search_locations if spec else [])
    matches = [re.fullmatch(r"(\w+)_v(\d+)", module.name) for module in modules]
    return sorted(f"{match[1]}-v{match[2]}" for match in matches if match)


def meant(name: str) -> str | None:
    """
    Find the id of an environment of PettingZoo that another name may mean, such as that of its module.

    :param name: e.g. ``"multiwalker_v9"``, ``"multiwalker-v9"`` or ``"pettingzoo.sisl.multiwalker_v9"``
    :return: e.g. ``"pettingzoo:sisl/multiwalker-v9"``; ``None`` if there is no such environment
    """
    parts = (re.sub(r"_v(\d+)$", r"-v\1", part) for part in re.split(r"[.:/]", name))
    wanted = {part for part in parts if re.search(r"-v\d+$", part)}
    found = (
        f"{PREFIX}{family}/{known}" for family in _FAMILIES for known in (names(family) if wanted else ()) if known in wanted
    )
    return next(found, None)


def _function(what: str, family: str, name: str) -> Callable[..., Any]:
    extra = "atari" if family == "atari" else "pettingzoo"
    module = import_optional(f"{_FAMILIES[family]}.{name.replace('-', '_')}", what, extra)
    make: Callable[..., Any] = getattr(module, "parallel_env", None) or module.env
    return partial(make, auto_rom_install_path=rom_folder(what)) if family == "atari" else make
