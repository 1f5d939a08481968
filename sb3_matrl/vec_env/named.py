"""View of a ParallelEnv whose agents are named by text, for environments that name them in another way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gymnasium import spaces

from sb3_matrl.utils.agent_names import agent_name, are_plain_strings


def own_names(env: Any, agents: Iterable[str]) -> list[Any]:
    """
    Names that an env itself uses.

    :param env: return value of :func:`named_by_text`
    :param agents: names as text
    """
    return [env.own_name(agent) for agent in agents] if isinstance(env, TextNamedEnv) else list(agents)


def named_by_text(env: Any) -> Any:
    """
    View of an env whose agents are named by text.

    :param env: a ParallelEnv
    :return: the env itself if its names are strings
    """
    return env if are_plain_strings(env.possible_agents) else TextNamedEnv(env)


class TextNamedEnv:
    """
    The part of a ParallelEnv's interface that has to do with agents, with their names as text.

    :param env: env that is stepped; it gets and returns its own names
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self._own_names = {agent_name(agent): agent for agent in env.possible_agents}

    @property
    def possible_agents(self) -> list[str]:
        """Possible agents, in the env's order."""
        return _texts(self.env.possible_agents) or []

    @property
    def agents(self) -> list[str] | None:
        """Live agents; ``None`` if the env has no such attribute."""
        return _texts(getattr(self.env, "agents", None))

    @property
    def acting_agents(self) -> list[str] | None:
        """Agents that choose the next action; ``None`` if the env has no such attribute."""
        return _texts(getattr(self.env, "acting_agents", None))

    def own_name(self, agent: str) -> Any:
        """The env's own name of an agent."""
        return self._own_names[agent]

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Delegate to the env."""
        space: spaces.Space[Any] = self.env.observation_space(self._own_names[agent])
        return space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Delegate to the env."""
        space: spaces.Space[Any] = self.env.action_space(self._own_names[agent])
        return space

    def __str__(self) -> str:
        return str(self.env)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start a new episode; the result has the names as text."""
        return _renamed(self.env.reset(seed=seed, options=options))

    def step(self, actions: dict[str, Any]) -> Any:
        """Step the env; the result has the names as text."""
        return _renamed(self.env.step({self._own_names[agent]: action for agent, action in actions.items()}))


def _texts(agents: Iterable[Any] | None) -> list[str] | None:
    return None if agents is None else [agent_name(agent) for agent in agents]


def _renamed(result: Any) -> Any:
    """Rename the agents in the dicts of a result; anything else is left to the checks of results."""
    if not isinstance(result, tuple):
        return result
    return tuple(
        {agent_name(agent): value for agent, value in part.items()} if isinstance(part, Mapping) else part for part in result
    )
