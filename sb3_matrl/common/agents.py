"""Agents and their learners: groups that share a learner, spaces of a learner, and the team that acts in an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.normalize import Normalizer
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env import JointObservation


class SpacesVecEnv(VecEnv):
    """
    The environment as one learner sees it: spaces and number of columns, without steps.

    SB3's algorithms take spaces only from an environment. Agents act together, so one learner cannot step the joint
    environment.

    :param num_envs: number of columns: copies of the joint environment times agents of the learner
    :param observation_space: observation space of each agent of the learner
    :param action_space: action space of each agent of the learner
    """

    def __init__(self, num_envs: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        super().__init__(num_envs, observation_space, action_space)

    def _refuse(self) -> Any:
        raise RuntimeError(
            "an agent cannot step the joint environment alone: call learn() of the model it belongs to, or give the agent an "
            "environment of its own with set_env"
        )

    def reset(self) -> Any:
        return self._refuse()

    def step_async(self, actions: np.ndarray) -> None:
        self._refuse()

    def step_wait(self) -> Any:
        return self._refuse()

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self._refuse()

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        return list(self._refuse())

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def learner_groups(
    agents: Sequence[str], share: Mapping[str, Sequence[str]] | None, frozen: Mapping[str, Any] | None
) -> dict[str, tuple[str, ...]]:
    """
    The learners and the agents of each.

    :param agents: all agents, in the env's order
    :param share: name of a learner -> agents that share it
    :param frozen: dict whose keys are the agents that do not learn
    :return: name of the learner -> its agents, both in the env's order; a learner of one agent has that agent's name
    :raises ValueError: if an agent is unknown, in two groups, or both frozen and shared; if a group has the name of an agent
        outside it, or no agents; if no agent learns
    """
    groups = _checked_groups(agents, share or {})
    for agent in frozen or {}:
        if agent not in agents:
            raise ValueError(f"frozen: {unknown('agent', str(agent), agents)}")
        group = next((name for name, members in groups.items() if agent in members), None)
        if group is not None:
            raise ValueError(f"frozen: {agent!r} learns in the shared group {group!r}: leave it out of one of the two")
    of_agent = {agent: name for name, members in groups.items() for agent in members}
    learners: dict[str, tuple[str, ...]] = {}
    for agent in agents:
        if agent not in (frozen or {}):
            name = of_agent.get(agent, agent)
            learners[name] = (*learners.get(name, ()), agent)
    if not learners:
        raise ValueError(f"frozen: all agents ({', '.join(agents)}) are frozen: at least one must learn")
    return learners


def _checked_groups(agents: Sequence[str], share: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    taken: dict[str, str] = {}
    for name, members in share.items():
        if isinstance(members, str) or not isinstance(members, Sequence) or not members:
            raise ValueError(f"share: group {name!r} must be a list of agents, got {members!r}")
        if name in agents and name not in members:
            raise ValueError(f"share: group {name!r} has the name of an agent that is not in it: choose another name")
        for agent in members:
            if agent not in agents:
                raise ValueError(f"share: group {name!r}: {unknown('agent', str(agent), agents)}")
            if agent in taken:
                raise ValueError(f"share: {agent!r} is in group {taken[agent]!r} and again in {name!r}: name it once")
            taken[agent] = name
    return {name: tuple(members) for name, members in share.items()}


def group_env(
    name: str, members: Sequence[str], spaces_of: Mapping[str, Mapping[str, spaces.Space[Any]]], n_envs: int
) -> SpacesVecEnv:
    """
    The environment as a learner sees it: the spaces of its agents, and one column for each copy of each agent.

    :param name: name of the learner
    :param members: agents of the learner
    :param spaces_of: ``"observation"`` and ``"action"`` -> agent -> space
    :param n_envs: number of copies of the environment
    :raises ValueError: if the spaces of two agents differ; names them
    """
    first = members[0]
    for kind, of_agent in spaces_of.items():
        for other in members[1:]:
            if of_agent[other] != of_agent[first]:
                raise ValueError(
                    f"share: {first!r} and {other!r} of group {name!r} have different {kind} spaces ({of_agent[first]} and "
                    f"{of_agent[other]}): pad them to equal ones (SuperSuit's pad_observations_v0, pad_action_space_v0) or "
                    "leave one out"
                )
    return SpacesVecEnv(n_envs * len(members), spaces_of["observation"][first], spaces_of["action"][first])


@dataclass(frozen=True)
class Position:
    """
    Where a rollout begins or ended: what the next actions are based on.

    :param observations: agent -> raw observations (num_envs, ...)
    :param episode_starts: bool (num_envs, n_agents), True where the agent's next step opens an episode
    :param states: float32 (num_envs, size), what central critics see; ``None`` without them, and between two rollouts
    """

    observations: JointObservation
    episode_starts: np.ndarray
    states: np.ndarray | None = None


@dataclass(frozen=True)
class Team:
    """
    The agents of an environment, and who chooses their actions.

    A learner that several agents share sees their observations as one batch, agent by agent: n_columns is the number of copies
    times the number of its agents.

    :param agents: all agents, in the env's order
    :param learners: name -> learner; empty for algorithms without SB3 learners
    :param members: name of the learner -> its agents
    :param normalizers: name of the learner -> its normaliser; learners without one use raw observations and rewards
    :param frozen: agent -> policy that plays it without learning
    """

    agents: Sequence[str]
    learners: Mapping[str, Any]
    members: Mapping[str, tuple[str, ...]]
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)
    frozen: Mapping[str, FrozenAgent] = field(default_factory=dict)

    def learner_of(self, agent: str) -> str:
        """
        :param agent: agent that learns
        :return: name of its learner: the agent itself, or the group that shares one
        """
        return next(name for name, members in self.members.items() if agent in members)

    def rows(self, name: str, observations: JointObservation) -> Any:
        """
        Raw observations of a learner's agents as one batch.

        :param name: name of the learner
        :param observations: agent -> (num_envs, ...)
        :return: (n_columns, ...), or a dict of such arrays
        """
        members = self.members[name]
        first = observations[members[0]]
        if len(members) == 1:
            return first
        if isinstance(first, dict):
            return {key: np.concatenate([observations[agent][key] for agent in members]) for key in first}
        return np.concatenate([observations[agent] for agent in members])

    def normalized_rows(self, name: str, observations: JointObservation) -> Any:
        """Observations of a learner's agents as its policy sees them, by the current statistics; see :meth:`rows`."""
        rows = self.rows(name, observations)
        return self.normalizers[name].normalize(rows) if name in self.normalizers else rows

    def columns(self, name: str, values: np.ndarray) -> np.ndarray:
        """
        Columns of a learner's agents, one after the other.

        :param name: name of the learner
        :param values: (num_envs, n_agents)
        :return: (n_columns,)
        """
        return values[:, self._places[name]].T.reshape(-1)

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Name of the learner -> places of its agents in the env's order."""
        return {name: [self.agents.index(agent) for agent in members] for name, members in self.members.items()}

    def observe(self, observations: JointObservation, alive: np.ndarray, states: np.ndarray | None = None) -> None:
        """
        Update the statistics of the normalisers.

        :param observations: agent -> (num_envs, ...)
        :param alive: bool (num_envs, n_agents)
        :param states: states of the env, (num_envs, size); ``None`` if no learner reads them
        """
        for name, normalizer in self.normalizers.items():
            normalizer.observe(self.rows(name, observations), self.columns(name, alive))
            if states is not None:
                normalizer.observe_states(states)

    def begin(self, observations: JointObservation, alive: np.ndarray, states: np.ndarray | None = None) -> Position:
        """
        Begin new episodes in all copies.

        :param observations: observations that ``reset`` returned, agent -> (num_envs, ...)
        :param alive: bool (num_envs, n_agents)
        :param states: as in :meth:`observe`
        """
        for normalizer in self.normalizers.values():
            normalizer.begin()
        self.observe(observations, alive, states)
        return Position(observations, np.ones_like(alive))
