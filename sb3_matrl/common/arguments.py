"""
Constructor arguments of the algorithms: what a signature says about them, and their values for each learner.

The signature of an algorithm's constructor is the one place where its arguments are named, typed and given defaults. Saving,
hyper-parameter files, flags of the command lines and the documentation read it with :func:`constructor_arguments`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from stable_baselines3.common.type_aliases import Schedule

from sb3_matrl.utils.suggest import did_you_mean

T = TypeVar("T")

PER_AGENT = "one value, or one per agent"
#: Annotation of an argument that may also be a dict keyed by agent.
PerAgent = Annotated[Union[T, Mapping[str, T]], PER_AGENT]  # noqa: UP007  a TypeVar has no |

# Arguments whose value is itself a dict: such a dict is per agent only if its keys name agents.
DICT_VALUED = frozenset({"policy_kwargs", "learner_kwargs", "rollout_buffer_kwargs"})
# Parameters of a constructor that say where and how a model is built, not which model.
_NOT_SAVED = ("self", "env", "device", "_init_setup_model")


@dataclass(frozen=True)
class ArgumentSpec:
    """
    One argument of a constructor.

    :param name: name of the argument
    :param default: default value; ``inspect.Parameter.empty`` if there is none
    :param annotation: type of one value, e.g. ``float | Schedule``
    :param per_agent: whether a dict keyed by agent is accepted as well
    """

    name: str
    default: Any
    annotation: Any
    per_agent: bool

    @property
    def is_schedule(self) -> bool:
        """Whether a function of the remaining progress is accepted, which a file cannot hold."""
        return Schedule in get_args(self.annotation)


def constructor_arguments(cls: type[Any]) -> dict[str, ArgumentSpec]:
    """
    The arguments that make up a model: all of the constructor's but ``env``, ``device`` and ``_init_setup_model``.

    A subclass whose constructor passes on ``*args`` or ``**kwargs`` has the arguments of its base class.

    :param cls: class of an algorithm
    :return: name -> argument, in the order of the signature
    """
    constructors = [vars(one)["__init__"] for one in cls.__mro__ if "__init__" in vars(one)]
    own = next((one for one in constructors if not _passes_on(one)), cls.__init__)
    hints = get_type_hints(own, include_extras=True)
    parameters = inspect.signature(own).parameters.values()
    return {one.name: _argument_spec(one, hints.get(one.name, Any)) for one in parameters if one.name not in _NOT_SAVED}


def _passes_on(constructor: Any) -> bool:
    """Whether a constructor takes arguments that it does not name."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(one.kind in variadic for one in inspect.signature(constructor).parameters.values())


def _argument_spec(parameter: inspect.Parameter, hint: Any) -> ArgumentSpec:
    per_agent = get_origin(hint) is Annotated and PER_AGENT in get_args(hint)[1:]
    return ArgumentSpec(parameter.name, parameter.default, _value_type(hint) if per_agent else hint, per_agent)


def _value_type(hint: Any) -> Any:
    """``T`` of ``PerAgent[T]``: all members of the union but the last, ``Mapping[str, T]``."""
    *members, _ = get_args(get_args(hint)[0])
    return Union[tuple(members)]  # noqa: UP007


def per_agent(name: str, value: Any, agents: Sequence[str]) -> dict[str, Any]:
    """
    One value per agent: a dict keyed by agent as it is, anything else repeated.

    :param name: name of the argument, for the error
    :param value: one value, or a dict keyed by agent
    :param agents: names of all agents
    :raises ValueError: if a dict keyed by agent lacks an agent or names one that does not exist
    """
    if not isinstance(value, Mapping) or (name in DICT_VALUED and not set(value) & set(agents)):
        return dict.fromkeys(agents, value)
    missing = [agent for agent in agents if agent not in value]
    extra = [str(key) for key in value if key not in agents]
    if missing or extra:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(extra)}{did_you_mean(extra[0], agents)}"] if extra else []
        raise ValueError(f"{name} as a dict needs exactly the keys {', '.join(agents)}: {'; '.join(parts)}")
    return {agent: value[agent] for agent in agents}


class LearnerArguments:
    """
    The constructor's arguments, one value per learner.

    :param values: arguments as given to the constructor; a dict may have one entry per learner
    :param learners: names of the learners
    """

    def __init__(self, values: Mapping[str, Any], learners: Iterable[str]) -> None:
        self.values = values
        self.learners = list(learners)

    def of(self, name: str, learner: str) -> Any:
        """
        Value of one argument for one learner.

        :param name: name of the argument
        :param learner: name of the learner
        :raises ValueError: if a dict lacks a learner or names an unknown one
        """
        return per_agent(name, self.values[name], self.learners)[learner]

    def all_of(self, names: Iterable[str], learner: str) -> dict[str, Any]:
        """
        Values of several arguments for one learner.

        :param names: names of the arguments
        :param learner: name of the learner
        :raises ValueError: as :meth:`of`
        """
        return {name: self.of(name, learner) for name in names}
