"""
Environment ids: those shipped here, PettingZoo's as ``pettingzoo:family/name-vN``, OpenSpiel's games as ``openspiel:game``,
any other as ``module:callable``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from sb3_matrl.envs import mamujoco, openspiel_ids, pettingzoo_ids
from sb3_matrl.utils.suggest import did_you_mean, unknown

_IDS = {
    "checkers_v0": "sb3_matrl.envs.checkers_v0:parallel_env",
    "switch_v0": "sb3_matrl.envs.switch_v0:parallel_env",
    "stag_hunt_v0": "sb3_matrl.envs.stag_hunt_v0:parallel_env",
    "escalation_v0": "sb3_matrl.envs.escalation_v0:parallel_env",
    "predator_prey_v0": "sb3_matrl.envs.predator_prey_v0:parallel_env",
    "matrix_game_v0": "sb3_matrl.envs.matrix_game_v0:parallel_env",
    "pong_v3": "sb3_matrl.envs.pong_v3:parallel_env",
}


def registered_ids() -> list[str]:
    """Ids of the environments shipped here, whether or not the packages that some of them need are installed."""
    return [*_IDS, *mamujoco.env_ids()]


def is_registered(env_id: str) -> bool:
    """
    Whether an id can only make an environment of this package, PettingZoo or OpenSpiel: it names no module to import.

    :param env_id: id of an environment, known or not
    """
    of_library = env_id.startswith((pettingzoo_ids.PREFIX, openspiel_ids.PREFIX))
    return of_library or env_id in _IDS or env_id.partition("_")[0] in mamujoco.robot_names()


def factory(env_id: str) -> Callable[..., Any]:
    """
    Look up the function that makes an environment.

    :param env_id: one of

        - :func:`registered_ids`
        - ``"manysegmentant_<agents>x<joints>"`` or ``"manysegmentswimmer_<agents>x<joints>"``
        - ``"pettingzoo:<family>/<name>-v<version>"``, e.g. ``"pettingzoo:sisl/multiwalker-v9"``
        - ``"openspiel:<game>"``, with or without parameters, e.g. ``"openspiel:kuhn_poker(players=3)"``
        - ``"module:callable"``, e.g. ``"my_package.my_envs:parallel_env"``
    :return: function of keyword options that returns a PettingZoo parallel environment, or an AEC environment where
        PettingZoo has no other
    :raises ValueError: if the id is unknown, or the module cannot be imported or has no such callable
    :raises ImportError: if PettingZoo's environment or OpenSpiel's game needs packages that are not installed; the message
        says what to install
    """
    if env_id.startswith(pettingzoo_ids.PREFIX):
        return pettingzoo_ids.factory(env_id)
    if env_id.startswith(openspiel_ids.PREFIX):
        return openspiel_ids.factory(env_id)
    if env_id.partition("_")[0] in mamujoco.robot_names():
        return mamujoco.factory(env_id)
    if env_id not in _IDS and ":" not in env_id:
        others = f"'{pettingzoo_ids.PREFIX}<family>/<name>-v<version>', '{openspiel_ids.PREFIX}<game>' or 'module:callable'"
        raise ValueError(_hint(env_id) or f"{unknown('env', env_id, registered_ids())}; or give {others}")
    return _load_callable(env_id, _IDS.get(env_id, env_id))


def _hint(env_id: str) -> str:
    """Message for the name of an environment of PettingZoo that is no id; empty if there is no such environment."""
    known = pettingzoo_ids.meant(env_id)
    return f"env {env_id!r} is unknown; did you mean {known!r}?" if known else ""


def _load_callable(env_id: str, target: str) -> Callable[..., Any]:
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise ValueError(f"env {env_id!r} must have the form 'module:callable'")
    module = _import_module(env_id, module_name)
    found = getattr(module, name, None)
    if not callable(found):
        if hint := _hint(env_id):
            raise ValueError(hint)
        what = "is not callable" if hasattr(module, name) else f"does not exist{_callable_hint(module, name)}"
        raise ValueError(f"env {env_id!r}: {name!r} in module {module_name!r} {what}")
    return found  # type: ignore[no-any-return]


def _import_module(env_id: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (ImportError, TypeError, ValueError) as error:  # the last two: names such as ".x" or "x."
        hint = _hint(env_id)
        raise ValueError(hint or f"env {env_id!r}: module {module_name!r} cannot be imported: {error}") from error


def _callable_hint(module: ModuleType, name: str) -> str:
    return did_you_mean(name, [other for other in vars(module) if callable(getattr(module, other))])
