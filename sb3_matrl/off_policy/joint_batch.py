"""A batch of joint transitions, sampled from a replay buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th


@dataclass(frozen=True, kw_only=True)
class JointBatch:
    """
    A batch of joint transitions; columns of agents are in the model's order.

    :param observations: agent -> (B, \\*shape), or a dict of such tensors, as SB3's networks take them
    :param next_observations: the same after the step; the final one where an agent's episode ended
    :param actions: agent -> int64 (B,), index of a Discrete action, or float32 (B, size), Box action scaled to [-1, 1]
    :param rewards: float32 (B, n); 0 for agents that were not alive
    :param alive: bool (B, n), agents that acted
    :param acted: agent -> int64 (k,), rows in which it acted; ``None`` for all
    :param next_alive: bool (B, n), agents that continue their episode
    :param terminated: bool (B, n), agents whose episode ended by the rules in this step
    :param truncated: bool (B, n), agents whose episode was cut off in this step
    :param done: bool (B,), whether the episode of the copy is over
    :param masks: agent -> bool (B, n_actions), legal actions; only agents that have masks
    :param next_masks: the same after the step
    :param states: float32 (B, size), or ``None``
    :param next_states: the same after the step
    :param handle_timeout_termination: whether values are bootstrapped where an episode was cut off
    """

    observations: dict[str, Any]
    next_observations: dict[str, Any]
    actions: dict[str, th.Tensor]
    rewards: th.Tensor
    alive: th.Tensor
    acted: dict[str, th.Tensor | None]
    next_alive: th.Tensor
    terminated: th.Tensor
    truncated: th.Tensor
    done: th.Tensor
    masks: dict[str, th.Tensor]
    next_masks: dict[str, th.Tensor]
    states: th.Tensor | None = None
    next_states: th.Tensor | None = None
    handle_timeout_termination: bool = True

    @property
    def _cut(self) -> th.Tensor:
        """Agents whose value at the final observation counts: cut off without an end by the rules, bool (B, n)."""
        if not self.handle_timeout_termination:
            return th.zeros_like(self.truncated)
        return self.truncated & ~self.terminated

    def team_rewards(self, how: str) -> th.Tensor:
        """
        Reward of the team.

        :param how: ``"sum"`` of the agents' rewards, or ``"mean"`` over all n agents
        :return: (B,)
        """
        return self.rewards.sum(dim=1) if how == "sum" else self.rewards.mean(dim=1)

    def bootstrap(self) -> th.Tensor:
        """:return: float (B, n), factor of an agent's next value: 0 where its episode ended, 1 elsewhere"""
        return (~self.terminated & (self.next_alive | self._cut)).to(self.rewards.dtype)

    def team_bootstrap(self) -> th.Tensor:
        """:return: float (B,), factor of the team's next value: 0 where the copy's episode ended, unless it was cut off"""
        return (~self.done | self._cut.any(dim=1)).to(self.rewards.dtype)

    def counts_next(self) -> th.Tensor:
        """:return: bool (B, n), agents that have a part in the team's next value: those that continue or were cut off"""
        return self.next_alive | self._cut
