"""Names of agents as text, for environments that name their agents by numbers, tuples or other objects."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

T = TypeVar("T")


def agent_name(agent: Any) -> str:
    """
    Convert the name that an environment gives an agent to text, which files, logs and command lines use.

    :param agent: any name; NumPy's scalars count as the Python values that they hold
    :return: the string itself, otherwise ``str`` of the name, e.g. ``"0"`` or ``"('scout', 0)"``
    :raises ValueError: if the name is not hashable, or is an object without a text of its own
    """
    if type(agent) is str:
        return agent
    if not isinstance(agent, Hashable):
        raise ValueError(f"{agent!r} cannot name an agent: a name must be hashable, such as a string, a number or a tuple")
    if type(agent).__str__ is object.__str__ and type(agent).__repr__ is object.__repr__:
        raise ValueError(
            f"{agent!r} cannot name an agent: its class has no __str__; name agents by strings, numbers or tuples"
        )
    return str(_plain(agent))


def _plain(name: Any) -> Any:
    if isinstance(name, np.generic):
        return name.item()
    if type(name) is tuple:
        return tuple(_plain(part) for part in name)
    return name


def are_plain_strings(agents: Iterable[Any]) -> bool:
    """Whether all names are ``str``, so that no name needs a conversion."""
    return all(type(agent) is str for agent in agents)


def keyed_by_text(value: Any) -> Any:
    """
    Convert the keys of a dict keyed by agent to text.

    :param value: anything; only dicts with keys that are no strings are converted
    :raises ValueError: if two keys have the same text
    """
    if not isinstance(value, Mapping) or are_plain_strings(value):
        return value
    converted = {agent_name(agent): content for agent, content in value.items()}
    if len(converted) < len(value):
        raise ValueError(f"two of the agents {list(value)} have the same name as text; give them different ones")
    return converted


def members_by_text(share: Any) -> Any:
    """
    Convert the agents in groups to text.

    :param share: name of a group -> list, tuple or array of agents; anything else is left to the checks of groups
    """
    if not isinstance(share, Mapping):
        return share
    return {name: _list_by_text(members) for name, members in share.items()}


def _list_by_text(agents: Any) -> Any:
    if not isinstance(agents, list | tuple | np.ndarray) or are_plain_strings(agents):
        return agents
    return [agent_name(agent) for agent in agents]


class AgentDict(dict[str, T]):
    """Dict keyed by agents' names as text, which also finds an agent by the name that its environment uses."""

    def __missing__(self, agent: Any) -> T:
        if type(agent) is str:
            raise KeyError(agent)
        return self[agent_name(agent)]

    def __contains__(self, agent: object) -> bool:
        return super().__contains__(agent_name(agent))

    def get(self, agent: Any, default: Any = None) -> Any:
        """Value of an agent, or ``default``."""
        return super().get(agent_name(agent), default)


class FixedAgentDict(AgentDict[T]):
    """An :class:`AgentDict` that cannot be changed, because others hold its values, too."""

    def _refuse(self, *arguments: Any, **keywords: Any) -> NoReturn:
        raise TypeError(
            "the agents of a model cannot be replaced here: give one of them other numbers by agents[name].set_parameters(...)"
        )

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)
