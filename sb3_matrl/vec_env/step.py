"""What one joint step of a vectorised multi-agent environment returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# agent -> array with leading axis num_envs (a dict of arrays where the agent's observation space is a Dict)
JointObservation = dict[str, Any]


@dataclass(frozen=True)
class JointStep:
    """
    One transition of all copies, after the automatic reset of those whose episode is over.

    :param observations: agent -> (num_envs, *shape), what the next actions are based on; zeros where not ``alive``
    :param rewards: float32 (num_envs, n_agents); 0 for an agent that was not alive
    :param terminated: bool (num_envs, n_agents); the agent's episode ended by the rules in this step
    :param truncated: bool (num_envs, n_agents); the agent was cut off (time limit) in this step
    :param alive: bool (num_envs, n_agents); the agents that are there in the next step
    :param acting: bool (num_envs, n_agents); those of them whose actions count in the next step: all, unless agents take
        turns
    :param action_masks: agent -> bool (num_envs, mask size), which of its next actions are legal, for agents that have
        masks; all True where it does not act. See :class:`~sb3_matrl.vec_env.masks.ActionMasks`
    :param dones: bool (num_envs,); the copy's episode is over and a new one has begun
    :param final_observations: agent -> (num_envs, *shape), meaningful where ``terminated | truncated``: the last
        observation of the agent's episode, for bootstrapping; ``None`` when no agent ended
    :param infos: one dict per copy
    """

    observations: JointObservation
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    alive: np.ndarray
    acting: np.ndarray
    action_masks: dict[str, np.ndarray]
    dones: np.ndarray
    final_observations: JointObservation | None
    infos: list[dict[str, Any]]
