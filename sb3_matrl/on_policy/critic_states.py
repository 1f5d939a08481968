"""What central critics see: the state of the environment, or the observations of all agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.common.agents import Position, Team
from sb3_matrl.common.joint_observations import JointObservations
from sb3_matrl.vec_env import JointStep, JointVecEnv

#: Values of the argument ``critic``: the critic sees its agent's observation, or a state.
CRITICS = ("own", "central")
#: Values of the argument ``state``: the env's state if it has one, else observations; the env's state; all observations.
STATES = ("auto", "env", "observations")


@dataclass(frozen=True)
class StateSource:
    """
    Where a model's central critics take their states from.

    :param env_size: number of elements of the env's state; 0 if the critics see all agents' observations
    :param joint: encoder of those observations
    """

    env_size: int
    joint: JointObservations | None

    @classmethod
    def of(
        cls,
        state_space: spaces.Box | None,
        observation_spaces: Mapping[str, spaces.Space[Any]],
        action_spaces: Mapping[str, spaces.Space[Any]],
    ) -> StateSource:
        """
        :param state_space: space of the env's state; ``None`` for all agents' observations
        :param observation_spaces: agent -> space, in the model's order
        :param action_spaces: agent -> space
        :raises ValueError: if observations are images
        """
        if state_space is not None:
            return cls(state_space.shape[0], None)
        return cls(0, JointObservations(observation_spaces, action_spaces))

    def size(self, n_members: int) -> int:
        """
        Number of elements that a critic sees: the state and, for a learner that several agents share, which of them it is.

        :param n_members: number of agents of the learner
        """
        state_size = self.env_size if self.joint is None else self.joint.size
        return state_size + (n_members if n_members > 1 else 0)


class CriticStates:
    """
    States of a rollout.

    :param source: where they come from
    :param env: environment
    :param team: all learners
    """

    def __init__(self, source: StateSource, env: JointVecEnv, team: Team) -> None:
        self.source, self.env, self.team = source, env, team

    @property
    def of_env(self) -> np.ndarray | None:
        """The env's states (num_envs, size), which normalisers observe; ``None`` if critics see all observations."""
        return self.env.states if self.source.joint is None else None

    def now(self, position: Position) -> np.ndarray:
        """
        States in which the next actions are chosen, by the normalisers' current statistics.

        :param position: observations that belong to the env's current state
        :return: float32 (num_envs, size)
        """
        if self.source.joint is None:
            return np.array(self.env.states)
        return self._joint(position.observations, self.env.alive)

    def final(self, step: JointStep) -> np.ndarray:
        """
        States after a step as truncated agents saw them, before the reset of copies whose episode is over.

        In the concatenated observations, agents that were truncated have their final observation, agents that live on their
        current one, and agents that terminated or were dead before have zeros.

        :param step: joint step in which an agent was truncated
        :return: float32 (num_envs, size), valid where an agent was truncated
        """
        if self.source.joint is None:
            if step.final_states is None:
                return self.env.states  # the episodes of all copies continue
            return np.where(step.dones[:, None], step.final_states, self.env.states)
        assert step.final_observations is not None
        cut = step.truncated & ~step.terminated
        present = cut | (step.alive & ~step.dones[:, None])
        mixed = {
            agent: _where(cut[:, column], step.final_observations[agent], step.observations[agent])
            for column, agent in enumerate(self.env.agents)
        }
        return self._joint(mixed, present)

    def _joint(self, observations: Mapping[str, Any], present: np.ndarray) -> np.ndarray:
        """All agents' observations as their policies see them, (num_envs, size)."""
        assert self.source.joint is not None
        seen = dict(observations)
        for name, normalizer in self.team.normalizers.items():
            seen |= {agent: normalizer.normalize(observations[agent]) for agent in self.team.members[name]}
        for agent, frozen in self.team.frozen.items():
            if frozen.normalizer is not None:
                seen[agent] = frozen.normalizer.normalize(observations[agent])
        return self.source.joint.encode(seen, dict(zip(self.env.agents, present.T, strict=True)))

    def rows(self, name: str, states: np.ndarray) -> np.ndarray:
        """
        States as the critic of a learner sees them, for all its columns.

        :param name: name of the learner
        :param states: float32 (num_envs, size)
        :return: float32 (n_columns, size of the critic's input)
        """
        normalizer, n_members = self.team.normalizers.get(name), len(self.team.members[name])
        if normalizer is not None and self.source.joint is None:
            states = normalizer.normalize_states(states)
        if n_members == 1:
            return states
        which = np.repeat(np.eye(n_members, dtype=np.float32), len(states), axis=0)
        return np.concatenate([np.tile(states, (n_members, 1)), which], axis=1)


def _where(condition: np.ndarray, chosen: Any, other: Any) -> Any:
    """Rows of ``chosen`` where the condition (num_envs,) holds, of ``other`` elsewhere; arrays or dicts of arrays."""
    if isinstance(chosen, Mapping):
        return {key: _where(condition, value, other[key]) for key, value in chosen.items()}
    return np.where(condition.reshape(-1, *[1] * (chosen.ndim - 1)), chosen, other)
