"""The schema of hyper-parameters: the arguments of an algorithm's constructor, in YAML's types."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from inspect import Parameter
from typing import Any, Union, get_args, get_origin

from sb3_matrl.common.argument_checks import value_fault
from sb3_matrl.common.arguments import DICT_VALUED, ArgumentSpec, constructor_arguments
from sb3_matrl.common.foreign_arguments import unknown_argument
from sb3_matrl.common.registry import AlgorithmSpec, algorithm_spec
from sb3_matrl.envs.wrappers import read_wrappers
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.listed_callbacks import read_callbacks
from sb3_matrl.zoo.common.names import (
    CLASS_ARGUMENTS,
    ON_POLICY_CLASSES,
    POLICIES,
    policy_options,
    resolve_argument,
    resolve_policy_kwargs,
    resolve_schedule,
    to_yaml,
)
from sb3_matrl.zoo.common.python_text import read_python_text

# The policy that is chosen by the observations: see sb3_matrl.zoo.common.policies.
AUTO = "auto"
# Arguments that have flags of their own on the command line.
_FLAGS = ("seed", "verbose", "tensorboard_log", "vec_env", "env_timeout", "rollout_workers", "worker_backend")
#: Arguments that files do not set: those that are flags, and those for Python only.
NOT_IN_FILES = (*_FLAGS, "rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class")
#: Hyper-parameters of the zoo, which are no constructor arguments.
ZOO_ARGUMENTS = {
    "n_timesteps": ArgumentSpec("n_timesteps", 1_000_000, int, per_agent=False),
    "env_wrapper": ArgumentSpec("env_wrapper", None, list[Any] | dict[str, Any] | str | None, per_agent=False),
    "callback": ArgumentSpec("callback", None, list[Any] | dict[str, Any] | str | None, per_agent=False),
}
# Defaults of the zoo where the constructor has none or another one.
_ZOO_DEFAULTS: dict[str, Any] = {"policy": "MlpPolicy", "env_kwargs": {}}
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text", dict: "a mapping", list: "a list"}
_TYPE_NAMES[type(None)] = "null"


@dataclass(frozen=True)
class Schema:
    """
    Hyper-parameters of one algorithm.

    :param spec: the algorithm
    :param cls: its class
    :param arguments: name -> argument, those of the zoo first
    """

    spec: AlgorithmSpec
    cls: type[Any]
    arguments: Mapping[str, ArgumentSpec]

    @staticmethod
    @cache
    def of(algorithm: str) -> Schema:
        """
        Schema of an algorithm.

        :param algorithm: its name in the registry
        :raises ValueError: if there is no such algorithm
        """
        spec = algorithm_spec(algorithm)
        cls = spec.load_class()
        own = {name: one for name, one in constructor_arguments(cls).items() if _is_settable(one, spec)}
        return Schema(spec, cls, {**ZOO_ARGUMENTS, **own})

    @property
    def policies(self) -> tuple[str, ...]:
        """What ``policy`` may be: names of policies of the class or of its learners, and ``auto``."""
        return (AUTO, *(POLICIES if "learner_class" in self.arguments else self.cls.policy_aliases))

    @property
    def policy_options(self) -> list[str]:
        """Keys that ``policy_kwargs`` may have."""
        own = tuple(self.cls.policy_aliases.values()) if self.cls.policy_aliases else ()
        return policy_options(ON_POLICY_CLASSES if "learner_class" in self.arguments or not own else own)

    def defaults(self) -> dict[str, Any]:
        """Name -> default in YAML's types, without the arguments that have none."""
        found = {one.name: _ZOO_DEFAULTS.get(one.name, one.default) for one in self.arguments.values()}
        return {name: deepcopy(to_yaml(value)) for name, value in found.items() if value is not Parameter.empty}

    def read(self, name: str, value: Any) -> Any:
        """
        Check one value and convert it to the argument's type.

        :param name: name of the hyper-parameter
        :param value: the value as YAML reads it
        :raises ValueError: on an unknown name, or a value of the wrong type or range
        """
        if name not in self.arguments:
            raise ValueError(self._unknown(name))
        argument = self.arguments[name]
        if isinstance(value, str) and dict in (kinds := yaml_types(argument)) and str not in kinds:
            value = read_python_text(value)  # as rl-baselines3-zoo writes mappings
        if argument.per_agent and is_per_agent(name, value):
            return {str(agent): self._read_one(argument, one) for agent, one in value.items()}
        return self._read_one(argument, value)

    def resolve(self, name: str, value: Any) -> Any:
        """
        The constructor's argument for a value that :meth:`read` returned: classes and schedules in place of their names.

        :param name: name of the hyper-parameter
        :param value: the value
        """
        argument = self.arguments[name]
        if argument.per_agent and is_per_agent(name, value):
            return {agent: self._resolve_one(argument, one) for agent, one in value.items()}
        return self._resolve_one(argument, value)

    def _read_one(self, argument: ArgumentSpec, value: Any) -> Any:
        name, value = argument.name, _convert(value, yaml_types(argument))
        if name == "policy" and value not in self.policies:
            raise ValueError(unknown(name, value, self.policies))
        if name == "learner_class" and value == AUTO:
            return value
        if value is not None and name in _CHECKS:
            _CHECKS[name](value)
        fault = value_fault(argument, self._resolve_one(argument, value))
        if fault is not None:
            raise ValueError(fault)
        return value

    def _resolve_one(self, argument: ArgumentSpec, value: Any) -> Any:
        if value is None:
            return None
        if argument.name == "policy_kwargs":
            return resolve_policy_kwargs(value, self.policy_options)
        return _resolver(argument)(value)

    def _unknown(self, name: str) -> str:
        if name in self.spec.fixed:
            return f"{name!r} is fixed by the algorithm {self.spec.name!r}; choose another algorithm to change it"
        if name in _FLAGS:
            return f"{name!r} is no hyper-parameter of files and -params: it is the flag --{name.replace('_', '-')}"
        return unknown_argument(self.cls, name, self.arguments, "hyper-parameter")


def _is_settable(argument: ArgumentSpec, spec: AlgorithmSpec) -> bool:
    return argument.name not in NOT_IN_FILES and argument.name not in spec.fixed and bool(yaml_types(argument))


def yaml_types(argument: ArgumentSpec) -> tuple[type, ...]:
    """
    The types of an argument's value in YAML.

    :param argument: an argument
    :return: types of :mod:`yaml`, in the order of the annotation; empty if YAML cannot hold the argument
    """
    kinds = dict.fromkeys(kind for member in _members(argument.annotation) for kind in _yaml_type(member, argument.name))
    return tuple(kinds) if set(kinds) - {type(None)} else ()


def _yaml_type(member: Any, name: str) -> tuple[type, ...]:
    origin = get_origin(member) or member
    if origin is type:
        return (str,) if name in CLASS_ARGUMENTS else ()
    if origin is Callable:
        return (str,)  # a schedule
    by_origin = {Mapping: dict, Sequence: list, tuple: list}
    kind = by_origin.get(origin, origin)
    return (kind,) if kind in _TYPE_NAMES else ()


def is_per_agent(name: str, value: Any) -> bool:
    """
    Whether a value is a mapping agent -> value.

    Where one value is a mapping itself, it is a mapping of mappings none of which is named as an option of the policies.

    :param name: name of an argument that may be per agent
    :param value: its value
    """
    if not isinstance(value, Mapping) or not value:
        return False
    if name not in DICT_VALUED:
        return True
    return all(isinstance(one, Mapping) and agent not in policy_options() for agent, one in value.items())


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _convert(value: Any, kinds: Sequence[type]) -> Any:
    """
    ``value`` as one of some types.

    YAML 1.1 reads ``1e-3`` as text; such text counts as a number where one is expected, and so does ``1e6`` as an integer.
    """
    for kind in kinds:
        if type(value) is kind and kind is not str and not (isinstance(value, float) and math.isnan(value)):
            return value
    number = _number(value)
    if number is not None and float in kinds:
        return float(number)
    if number is not None and int in kinds and float(number).is_integer():
        return int(number)
    if isinstance(value, str) and str in kinds:
        return value
    raise ValueError(f"expected {' or '.join(_TYPE_NAMES[kind] for kind in kinds)}, got {value!r}")


def _number(value: Any) -> float | int | None:
    if isinstance(value, bool):
        return None
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _check_share(groups: Mapping[str, Any]) -> None:
    for name, agents in groups.items():
        if not isinstance(agents, list) or not agents or not all(isinstance(agent, str | int) for agent in agents):
            raise ValueError(
                f"expected a list of agents for the group {name!r}, as in {{team: [agent_0, agent_1]}}, got {agents!r}"
            )


def _check_frozen(sources: Mapping[str, Any]) -> None:
    for agent, source in sources.items():
        words = source if isinstance(source, list) else [source]
        path, *agents = words or [None]
        if not (path and isinstance(path, str)) or len(agents) > 1 or not all(isinstance(one, str | int) for one in agents):
            raise ValueError(f"expected the path of a model, or [path, agent there], for {agent!r}, got {source!r}")


_CHECKS: dict[str, Callable[[Any], object]] = {
    "env_wrapper": read_wrappers,
    "callback": read_callbacks,
    "share": _check_share,
    "frozen": _check_frozen,
}


def _resolver(argument: ArgumentSpec) -> Callable[[Any], Any]:
    """Function that turns a value in YAML's types into the constructor's argument; raises ``ValueError`` on unknown names."""
    if argument.is_schedule:
        return resolve_schedule
    if argument.name in CLASS_ARGUMENTS:
        return partial(resolve_argument, argument.name)
    return _RESOLVERS.get(argument.name, _same)


def _same(value: Any) -> Any:
    return value


def _resolve_frozen(sources: Mapping[str, Any]) -> dict[str, Any]:
    return {agent: tuple(source) if isinstance(source, list) else source for agent, source in sources.items()}


def _resolve_train_freq(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_RESOLVERS: dict[str, Callable[[Any], Any]] = {"frozen": _resolve_frozen, "train_freq": _resolve_train_freq}
