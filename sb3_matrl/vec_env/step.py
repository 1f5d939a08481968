"""Transitions of a vectorised multi-agent environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# agent -> array with leading axis num_envs (a dict of arrays if the agent's observation space is a Dict)
JointObservation = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Transition:
    """
    One joint step of all copies, after the automatic reset of copies whose episode is over.

    :param observations: agent -> (num_envs, *shape), the observations for the next actions; zeros where not ``alive``
    :param rewards: float (num_envs, n_agents); 0 for agents that were not alive
    :param terminated: bool (num_envs, n_agents); the agent's episode ended by the rules in this step
    :param truncated: bool (num_envs, n_agents); the agent's episode was cut off (time limit) in this step
    :param alive: bool (num_envs, n_agents); agents present in the next step
    :param acting: bool (num_envs, n_agents); agents whose actions count in the next step: all that are alive, unless
        agents take turns
    :param dones: bool (num_envs,); the copy's episode is over and a new one has begun
    :param final_observations: agent -> (num_envs, *shape), valid where ``terminated | truncated``: last observation of
        the agent's episode, for bootstrapping; ``None`` if no agent ended
    :param states: float32 (num_envs, state size), global states that belong to ``observations``; ``None`` unless the envs
        were made with ``states=True``
    :param final_states: float32 (num_envs, state size), valid where ``dones``: state in which the copy's episode ended, zeros
        elsewhere; ``None`` if no episode is over
    """

    observations: JointObservation
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    alive: np.ndarray
    acting: np.ndarray
    dones: np.ndarray
    final_observations: JointObservation | None
    states: np.ndarray | None = None
    final_states: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class JointStep(Transition):
    """
    Transition of a :class:`~sb3_matrl.vec_env.JointVecEnv`; rewards are float32.

    :param action_masks: agent -> bool (num_envs, mask size), legal next actions of agents that have masks; all True
        where the agent does not act. See :class:`~sb3_matrl.vec_env.masks.ActionMasks`
    :param infos: one dict per copy
    """

    action_masks: dict[str, np.ndarray]
    infos: list[dict[str, Any]]
