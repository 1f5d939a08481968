"""Joint transitions: what one step of all copies of an environment tells an off-policy algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.vec_env.masks import MaskReader, observed_mask_name
from sb3_matrl.vec_env.step import JointObservation, JointStep

# agent -> actions (num_envs, *action shape)
Actions = dict[str, np.ndarray]
# agent -> bool (num_envs, n_actions)
Masks = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """
    What the agents know when they choose a joint action.

    :param observations: agent -> (num_envs, *shape), or a dict of such arrays
    :param masks: agent -> bool (num_envs, n_actions), legal actions; only agents that have masks
    :param alive: bool (num_envs, n_agents), agents that are present; columns in the model's order
    :param states: float32 (num_envs, size), states of the environment; ``None`` if the algorithm does not ask for them
    """

    observations: JointObservation
    masks: Masks
    alive: np.ndarray
    states: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class JointTransition:
    """
    One joint step of all copies; columns of agents are in the model's order.

    :param before: moment in which the actions were chosen
    :param actions: agent -> int64 (num_envs,), index of a Discrete action, or float32 (num_envs, size), Box action scaled to
        [-1, 1]
    :param rewards: float32 (num_envs, n_agents)
    :param terminated: bool (num_envs, n_agents), agents whose episode ended by the rules in this step
    :param truncated: bool (num_envs, n_agents), agents whose episode was cut off in this step
    :param dones: bool (num_envs,), copies whose episode is over
    :param after: moment after the automatic resets, in which the next actions are chosen
    :param final: moment in which an agent's episode ended, before the reset: valid in the rows of agents that ended, and in
        copies that are done; ``None`` if no agent ended
    """

    before: Moment
    actions: Actions
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    dones: np.ndarray
    after: Moment
    final: Moment | None

    @property
    def next_alive(self) -> np.ndarray:
        """Agents that continue their episode, bool (num_envs, n_agents)."""
        return np.asarray(self.after.alive & ~self.dones[:, None])

    def as_tree(self) -> dict[str, Any]:
        """The transition as nested dicts of arrays and ``None``; :meth:`from_tree` reads it."""
        return {
            field.name: vars(value) if isinstance(value := getattr(self, field.name), Moment) else value
            for field in fields(self)
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> JointTransition:
        """
        :param tree: return value of :meth:`as_tree`
        :raises ValueError: if parts are missing or unknown
        """
        try:
            moments = {name: Moment(**tree[name]) for name in ("before", "after")}
            final = None if tree["final"] is None else Moment(**tree["final"])
            return cls(**{**tree, **moments, "final": final})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a joint transition: {error!r}") from error


class TransitionReader:
    """
    Builds joint transitions from the steps of an environment.

    :param agents: agents in the model's order
    :param observation_spaces: agent -> space
    :param action_spaces: agent -> space
    """

    def __init__(
        self,
        agents: Sequence[str],
        observation_spaces: Mapping[str, spaces.Space[Any]],
        action_spaces: Mapping[str, spaces.Space[Any]],
    ) -> None:
        self.agents = list(agents)
        self._readers = {agent: MaskReader(agent, i, action_spaces[agent]) for i, agent in enumerate(agents)}
        self._observed = {agent: observed_mask_name(observation_spaces[agent], action_spaces[agent]) for agent in agents}

    def columns(self, env_agents: Sequence[str]) -> slice | list[int]:
        """:return: columns of the agents, in the model's order, in arrays of an env that lists them as ``env_agents``"""
        return slice(None) if list(env_agents) == self.agents else [list(env_agents).index(agent) for agent in self.agents]

    def transition(
        self,
        before: Moment,
        actions: Actions,
        step: JointStep,
        columns: slice | list[int],
    ) -> JointTransition:
        """
        The transition of a joint step.

        :param before: moment in which the actions were chosen
        :param actions: actions as they are stored, see :class:`JointTransition`
        :param step: step of the environment
        :param columns: see :meth:`columns`
        """
        terminated, truncated = step.terminated[:, columns], step.truncated[:, columns]
        after = Moment(
            observations=step.observations, masks=step.action_masks, alive=step.alive[:, columns], states=step.states
        )
        final = None
        if step.final_observations is not None:
            final = Moment(
                observations=step.final_observations,
                masks=self._final_masks(step, terminated | truncated),
                alive=terminated | truncated,
                states=step.final_states,
            )
        return JointTransition(
            before=before,
            actions=actions,
            rewards=step.rewards[:, columns],
            terminated=terminated,
            truncated=truncated,
            dones=step.dones,
            after=after,
            final=final,
        )

    def _final_masks(self, step: JointStep, ended: np.ndarray) -> Masks:
        """Legal actions at the final observations: from these, or from the infos of the step; all if none is given."""
        masks: Masks = {}
        for agent, now in step.action_masks.items():
            legal = np.ones_like(now)
            for copy in np.flatnonzero(ended[:, self.agents.index(agent)]).tolist():
                mask = self._final_mask(step, agent, copy)
                if mask is not None and mask.any():
                    legal[copy] = mask
            masks[agent] = legal
        return masks

    def _final_mask(self, step: JointStep, agent: str, copy: int) -> np.ndarray | None:
        observed, reader = self._observed[agent], self._readers[agent]
        if observed is not None:
            assert step.final_observations is not None
            return np.asarray(step.final_observations[agent][observed][copy]).reshape(-1).astype(bool)
        info = step.infos[copy].get("agents", {}).get(agent, {})
        name = reader.name_in(info)
        return None if name is None else reader.single(info[name], copy, lambda _: "at the end of the episode")
