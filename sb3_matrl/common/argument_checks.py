"""Types and ranges of constructor arguments, checked before anything is built."""

from __future__ import annotations

import math
import os
import types
from collections import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

import numpy as np
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from sb3_matrl.common.arguments import DICT_VALUED, ArgumentSpec
from sb3_matrl.utils.suggest import unknown

# Values at which a schedule is checked: share of the training that is left at its beginning and at its end.
_SCHEDULE_ENDS = (1.0, 0.0)


@dataclass(frozen=True)
class Range:
    """
    Numbers that an argument may have.

    :param words: description that follows "must be"
    :param low: smallest number
    :param high: largest number
    :param above_low: whether ``low`` itself is excluded
    """

    words: str
    low: float = -math.inf
    high: float = math.inf
    above_low: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above_low else self.low <= value) and value <= self.high


_LARGEST = float(np.finfo(np.float64).max)
_SHARE = Range("between 0 and 1", 0.0, 1.0)
_POSITIVE = Range("greater than 0", 0.0, above_low=True)
_FINITE = Range("a finite number", -_LARGEST, _LARGEST)
_RATE = Range("a finite number that is not negative", 0.0, _LARGEST)
_COUNT = Range("at least 1", 1, 2**63 - 1)
_NATURAL = Range("at least 0", 0)

#: Argument -> its range. ``None`` and the type are the annotation's concern.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("n_timesteps", "n_steps", "batch_size", "n_epochs", "n_envs", "stats_window_size"), _COUNT),
    **dict.fromkeys(("buffer_size", "target_update_interval", "mixing_embed_dim", "hypernet_embed"), _COUNT),
    **dict.fromkeys(("joint_embed_dim", "feature_dim"), _COUNT),
    **dict.fromkeys(("br_n_epochs", "distill_steps", "learning_starts"), _NATURAL),
    **dict.fromkeys(("gamma", "gae_lambda", "tau", "exploration_initial_eps", "exploration_final_eps"), _SHARE),
    **dict.fromkeys(("learning_rate", "br_learning_rate", "action_noise", "actor_reg"), _RATE),
    **dict.fromkeys(("opt_coef", "nopt_coef", "logdet_coef"), _RATE),
    **dict.fromkeys(("clip_range", "clip_range_vf", "br_clip_range", "payoff_clip_range"), _POSITIVE),
    **dict.fromkeys(("max_grad_norm", "target_kl", "clip_obs", "clip_reward", "env_timeout"), _POSITIVE),
    **dict.fromkeys(("gumbel_temperature", "temperature"), _POSITIVE),
    "jitter": Range("between 0.0001 and 1", 1e-4, 1.0),
    **dict.fromkeys(("ent_coef", "vf_coef", "br_kl_coef"), _FINITE),
    "cem_iterations": _COUNT,
    "optimism": Range("greater than 0 and finite", 0.0, _LARGEST, above_low=True),
    **dict.fromkeys(("cem_samples", "cem_elites"), Range("at least 2", 2)),
    "exploration_fraction": Range("greater than 0 and at most 1", 0.0, 1.0, above_low=True),
    **dict.fromkeys(("gradient_steps", "sde_sample_freq"), Range("at least -1", -1)),
    "seed": Range("between 0 and 2**32 - 1", 0, 2**32 - 1),
}
# Options of policy_kwargs, also nested ones, that are sizes of networks.
_SIZES = frozenset({"net_arch", "lstm_hidden_size", "n_lstm_layers", "features_dim", "cnn_output_dim"})
_TYPE_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text",
    abc.Mapping: "a dict",
    abc.Callable: "a function of the remaining progress",
    type(None): "None",
}


def check_range(name: str, value: Any) -> None:
    """
    Check a number against :data:`RANGES`; values that are no numbers are skipped.

    :param name: name of the argument
    :param value: its value
    :raises ValueError: if the number is out of the argument's range
    """
    fault = _range_fault(name, value)
    if fault is not None:
        raise ValueError(f"{name} {fault}")


def checked_arguments(specs: Mapping[str, ArgumentSpec], values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments of a constructor with their types and ranges checked.

    :param specs: name -> argument, see :func:`~sb3_matrl.common.arguments.constructor_arguments`
    :param values: name -> value as given; further names are left out
    :return: name -> value, with NumPy's numbers as Python's and paths as text
    :raises ValueError: on a wrong type, or a number out of its range; names the argument, and the agent of a dict's entry
    """
    return {name: checked_argument(spec, values[name]) for name, spec in specs.items()}


def checked_argument(spec: ArgumentSpec, value: Any) -> Any:
    """
    One argument with its type and range checked; see :func:`checked_arguments`.

    :param spec: argument
    :param value: value, or a dict keyed by agent if the argument accepts one
    :raises ValueError: on a wrong type, or a number out of its range
    """
    if spec.per_agent and isinstance(value, Mapping) and spec.name not in DICT_VALUED:
        return {agent: _checked(spec, one, f"{spec.name} of {agent!r}") for agent, one in value.items()}
    return _checked(spec, value, spec.name)


def _checked(spec: ArgumentSpec, value: Any, where: str) -> Any:
    value = _plain_value(value)
    fault = value_fault(spec, value)
    if fault is not None:
        raise ValueError(f"{where} {fault}")
    return value


def value_fault(spec: ArgumentSpec, value: Any) -> str | None:
    """
    What is wrong with one value of an argument.

    :param spec: argument
    :param value: its value, in Python's types
    :return: words that follow the argument's name, such as "must be at least 1, got 0"; ``None`` if nothing is wrong
    """
    fault = _type_fault(spec, value)
    if fault is not None:
        return fault
    if spec.is_schedule and callable(value):
        faults = (_schedule_fault(spec.name, value, progress) for progress in _SCHEDULE_ENDS)
        return next((fault for fault in faults if fault is not None), None)
    return _range_fault(spec.name, value) or _sizes_fault(spec.name, value)


def check_policy_name(policy: Any, known: Iterable[str]) -> None:
    """
    Check the name of a policy; classes of policies are left to the learner.

    :param policy: name or class of a policy
    :param known: names of the policies that the learner has
    :raises ValueError: if the name is none of them, which suggests the closest one, or the class is none of a policy
    """
    names = list(known)
    if not isinstance(policy, str) and not (isinstance(policy, type) and issubclass(policy, BasePolicy)):
        raise ValueError(f"policy must be one of {', '.join(names)} or a class of SB3's policies, got {policy!r}")
    if isinstance(policy, str) and policy not in names:
        raise ValueError(unknown("policy", policy, names))


def _plain_value(value: Any) -> Any:
    """NumPy's numbers as Python's, paths as text."""
    if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0:
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _range_fault(name: str, value: Any) -> str | None:
    allowed = RANGES.get(name)
    if allowed is None or not isinstance(value, Real) or value in allowed:  # type: ignore[operator]
        return None
    return f"must be {allowed.words}, got {value!r}"


def schedules_of(specs: Mapping[str, ArgumentSpec], values: Mapping[str, Any]) -> list[tuple[str, str, Schedule]]:
    """
    The functions among a constructor's arguments.

    :param specs: name -> argument
    :param values: name -> checked value
    :return: name of the argument, words for its place in errors, and the schedule
    """
    found = []
    for name in (name for name, spec in specs.items() if spec.is_schedule):
        value = values[name]
        places = {f"{name} of {agent!r}": one for agent, one in value.items()} if isinstance(value, Mapping) else {name: value}
        found += [(name, where, one) for where, one in places.items() if callable(one)]
    return found


def check_schedules(schedules: Iterable[tuple[str, str, Schedule]], progress: float) -> None:
    """
    Check the values of schedules at one moment of a training.

    :param schedules: see :func:`schedules_of`
    :param progress: share of the training that is left
    :raises ValueError: if a value is no number, or out of the range of its argument
    """
    for name, where, schedule in schedules:
        fault = _schedule_fault(name, schedule, progress)
        if fault is not None:
            raise ValueError(f"{where} {fault}")


def _schedule_fault(name: str, schedule: Schedule, progress: float) -> str | None:
    """What is wrong with a value of a schedule, which may end at 0 even if a constant may not be 0."""
    value = _plain_value(schedule(progress))
    fault = f"must return a number, got {value!r}" if not isinstance(value, Real) else _range_fault(name, value)
    if fault is None or (progress < 1.0 and value == 0.0):
        return None
    return f"{fault} from its schedule where {progress:.0%} of the training is left"


def _sizes_fault(name: str, value: Any) -> str | None:
    """What is wrong with the sizes of networks in ``policy_kwargs``."""
    if name != "policy_kwargs" or not isinstance(value, Mapping):
        return None
    for option, one in value.items():
        sizes = list(_leaves(one)) if option in _SIZES else []
        if any(isinstance(size, bool) or not isinstance(size, Integral) or size < 1 for size in sizes):
            return f"needs integers of at least 1 as {option}, got {one!r}"
        fault = _sizes_fault(name, one)
        if fault is not None:
            return fault
    return None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(one)
    elif value is not None:
        yield value


def _type_fault(spec: ArgumentSpec, value: Any) -> str | None:
    """What is wrong with the type of a value; nothing if the annotation has a type that this module does not know."""
    members = [get_origin(member) or member for member in _members(spec.annotation)]
    if any(member not in _TYPE_WORDS for member in members) or any(_fits(value, member, spec.name) for member in members):
        return None
    return f"must be {' or '.join(_TYPE_WORDS[member] for member in members)}, got {value!r}"


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _fits(value: Any, member: Any, name: str) -> bool:
    if isinstance(value, bool):
        return member is bool or name == "verbose"  # SB3's users write verbose=True, too
    if member is abc.Callable:
        return callable(value)
    return isinstance(value, Real if member is float else member)
