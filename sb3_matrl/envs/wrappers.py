"""Wrappers around environments, as configuration files name them: SuperSuit's and PettingZoo's, nothing else is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import supersuit
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import wrappers as pettingzoo_wrappers

from sb3_matrl.utils.suggest import unknown

# Those whose options YAML can write; SuperSuit's others take functions, or make vector environments.
_SUPERSUIT = (
    "agent_indicator_v0",
    "black_death_v3",
    "clip_actions_v0",
    "clip_reward_v0",
    "color_reduction_v0",
    "delay_observations_v0",
    "dtype_v0",
    "flatten_v0",
    "frame_skip_v0",
    "frame_stack_v1",
    "frame_stack_v2",
    "max_observation_v0",
    "nan_noop_v0",
    "nan_random_v0",
    "nan_zeros_v0",
    "normalize_obs_v0",
    "pad_action_space_v0",
    "pad_observations_v0",
    "reshape_v0",
    "resize_v1",
    "scale_actions_v0",
    "sticky_actions_v0",
)
_PETTINGZOO = (
    "AssertOutOfBoundsWrapper",
    "ClipOutOfBoundsWrapper",
    "MultiEpisodeEnv",
    "MultiEpisodeParallelEnv",
    "OrderEnforcingWrapper",
    "TerminateIllegalWrapper",
)
WRAPPERS: dict[str, Callable[..., Any]] = {
    **{f"supersuit.{name}": getattr(supersuit, name) for name in _SUPERSUIT},
    **{f"pettingzoo.utils.wrappers.{name}": getattr(pettingzoo_wrappers, name) for name in _PETTINGZOO},
}
# As a file writes them: a name, {name: options}, or a list of such, from the inside outwards.
Wrappers = str | Mapping[str, Any] | Sequence[Any] | None


def read_wrappers(value: Wrappers) -> list[tuple[str, dict[str, Any]]]:
    """
    Check the wrappers of a configuration file.

    :param value: e.g. ``["supersuit.clip_actions_v0", {"supersuit.frame_stack_v1": {"stack_size": 4}}]``
    :return: name and options of each, the innermost first
    :raises ValueError: on an unknown wrapper or option, a missing option, or another form
    """
    entries = [value] if isinstance(value, (str, Mapping)) else list(value or ())
    return [_read_wrapper(entry) for entry in entries]


def _read_wrapper(entry: Any) -> tuple[str, dict[str, Any]]:
    named = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(named, Mapping) or len(named) != 1:
        raise ValueError(f"expected the name of a wrapper or {{name: {{option: value}}}} per entry, got {entry!r}")
    ((name, options),) = named.items()
    if name not in WRAPPERS:
        raise ValueError(unknown("wrapper", str(name), WRAPPERS))
    if not isinstance(options or {}, Mapping):
        raise ValueError(f"{name}: expected a mapping of options, got {options!r}")
    _check_options(name, dict(options or {}))
    return name, dict(options or {})


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    parameters = _options_of(WRAPPERS[name])
    for option in options:
        if option not in parameters:
            raise ValueError(unknown(f"{name}: option", str(option), parameters))
    missing = [option for option, one in parameters.items() if one.default is one.empty and option not in options]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}: write {{{name}: {{{missing[0]}: ...}}}}")


def _options_of(wrapper: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The wrapper's parameters but the first, which is the environment."""
    # SuperSuit's choosers take anything and pass it on to one of these.
    inner = next((one for kind in ("parallel", "aec") if (one := getattr(wrapper, f"{kind}_wrapper", None))), wrapper)
    return dict(list(inspect.signature(inner).parameters.items())[1:])


def wrap(env: Any, wrappers: Wrappers) -> Any:
    """
    :param env: ParallelEnv or AECEnv
    :param wrappers: as :func:`read_wrappers` takes them
    :return: the environment in its wrappers
    :raises ValueError: when a wrapper does not fit the environment, or refuses its options
    """
    for name, options in read_wrappers(wrappers):
        _check_kind(name, env)
        try:
            env = WRAPPERS[name](env, **options)
        except Exception as error:  # SuperSuit checks by assertions, and some mistakes are met in NumPy
            raise ValueError(f"env_wrapper {name}: {' '.join(str(error).split()) or repr(error)}") from error
    return env


def _check_kind(name: str, env: Any) -> None:
    """PettingZoo's wrappers are for one kind of environment each, and do not say so."""
    wrapper = WRAPPERS[name]
    for kind, base in (("AEC", AECEnv), ("parallel", ParallelEnv)):
        if isinstance(wrapper, type) and issubclass(wrapper, base) and not isinstance(env, base):
            raise ValueError(f"env_wrapper {name}: it is for {kind} environments, which {env} is not: leave it out")
