"""SuperSuit's and PettingZoo's wrappers by name, for configuration files; nothing else is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import supersuit
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import wrappers as pettingzoo_wrappers

from sb3_matrl.utils.suggest import unknown

# Wrappers whose options YAML can express; the others take functions, or make vector environments.
_SUPERSUIT = (
    "agent_indicator_v0",
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
# A name, {name: options}, or a list of these, the innermost first.
Wrappers = str | Mapping[str, Any] | Sequence[Any] | None


def read_wrappers(value: Wrappers) -> list[tuple[str, dict[str, Any]]]:
    """
    Check wrappers and their options.

    :param value: name, ``{name: options}``, or a list of these, the innermost first, e.g.
        ``["supersuit.clip_actions_v0", {"supersuit.frame_stack_v1": {"stack_size": 4}}]``
    :return: name and options of each wrapper, the innermost first
    :raises ValueError: if a wrapper or an option is unknown, an option is missing, or the form is wrong
    """
    entries = [value] if isinstance(value, (str, Mapping)) else list(value or ())
    return [_read_wrapper(entry) for entry in entries]


def _read_wrapper(entry: Any) -> tuple[str, dict[str, Any]]:
    named = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(named, Mapping) or len(named) != 1:
        raise ValueError(f"expected the name of a wrapper or {{name: {{option: value}}}} per entry, got {entry!r}")
    ((name, options),) = named.items()
    if name not in WRAPPERS:
        if str(name).startswith("supersuit.black_death"):
            raise ValueError(f"{name} is not needed: rows of agents that have ended are masked from every loss; leave it out")
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
    """Parameters of a wrapper except the first, which is the environment."""
    # SuperSuit's functions accept any arguments and forward them to one of these.
    inner = next((one for kind in ("parallel", "aec") if (one := getattr(wrapper, f"{kind}_wrapper", None))), wrapper)
    return dict(list(inspect.signature(inner).parameters.items())[1:])


def wrap(env: Any, wrappers: Wrappers) -> Any:
    """
    Wrap an environment.

    :param env: a ParallelEnv or AECEnv
    :param wrappers: name of a wrapper in :data:`WRAPPERS`, ``{name: options}``, or a list of these, the innermost first
    :return: the wrapped environment
    :raises ValueError: if a wrapper is unknown, does not fit the environment, or rejects its options
    """
    for name, options in read_wrappers(wrappers):
        _check_kind(name, env)
        _check_actions(name, env)
        try:
            env = WRAPPERS[name](env, **options)
        except Exception as error:  # SuperSuit uses assertions, and some mistakes only fail in NumPy
            raise ValueError(f"env_wrapper {name}: {' '.join(str(error).split()) or repr(error)}") from error
    return env


def _check_kind(name: str, env: Any) -> None:
    """Check that a PettingZoo wrapper fits the kind of environment, which PettingZoo does not check."""
    wrapper = WRAPPERS[name]
    for kind, base in (("AEC", AECEnv), ("parallel", ParallelEnv)):
        if isinstance(wrapper, type) and issubclass(wrapper, base) and not isinstance(env, base):
            raise ValueError(f"env_wrapper {name}: it is for {kind} environments, which {env} is not: leave it out")


def _check_actions(name: str, env: Any) -> None:
    """Check that all actions can be clipped, which SuperSuit would find out in the first step."""
    for agent in getattr(env, "possible_agents", ()) if name == "supersuit.clip_actions_v0" else ():
        if not isinstance(space := env.action_space(agent), spaces.Box):
            raise ValueError(f"env_wrapper {name}: it is for Box actions, not {space} of agent {agent!r}: leave it out")
