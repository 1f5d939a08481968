"""Rewards of a batch as the losses see them: shared or not, summed or averaged, scaled by their running deviation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_matrl.common.normalize import Normalizer, NormalizerConfig
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.transitions import JointTransition

TEAM_REWARDS = ("sum", "mean")
# Joint steps after which equal rewards of all agents are no coincidence.
_STEPS_OF_CHECK = 100


class Rewards:
    """
    Rewards of a batch, and the statistics that scale them.

    :param agents: agents in the model's order
    :param how: ``"sum"`` or ``"mean"`` for one reward of the team; ``"shared"`` for the sum as everybody's reward; ``"own"``
        for each agent its own
    :param norm_reward: whether rewards are divided by the running standard deviation of the discounted return
    :param gamma: discount factor
    :param n_envs: number of copies of the environment
    """

    def __init__(self, agents: Sequence[str], how: str, norm_reward: bool, gamma: float, n_envs: int) -> None:
        self.how = how
        self.n_agents = len(agents)
        names = list(agents) if how == "own" else ["team"]
        config = NormalizerConfig(norm_reward=True, clip_reward=np.inf, gamma=gamma)
        nothing = spaces.Discrete(1)
        self.normalizers = {name: Normalizer(config, nothing, n_envs) for name in names} if norm_reward else {}
        self._steps_left = _STEPS_OF_CHECK if how == "sum" and len(agents) > 1 else 0
        self._seen: set[float] = set()

    def observe(self, transition: JointTransition) -> None:
        """
        Update the statistics; warn if a team's reward is paid to every agent and then summed.

        :param transition: joint step
        """
        alive = transition.before.alive
        rewards = np.where(alive, transition.rewards, 0.0)
        if self._steps_left:
            self._check_equal(rewards, alive)
        ended = transition.terminated | transition.truncated | transition.dones[:, None]
        if self.how == "own":
            for i, normalizer in enumerate(self.normalizers.values()):
                normalizer.reward(rewards[:, i], alive[:, i], ended[:, i])
        else:
            for normalizer in self.normalizers.values():
                team = rewards.mean(axis=1) if self.how == "mean" else rewards.sum(axis=1)
                normalizer.reward(team, np.asarray(alive.any(axis=1)), transition.dones)

    def _check_equal(self, rewards: np.ndarray, alive: np.ndarray) -> None:
        if not (np.isclose(rewards, rewards.max(axis=1, keepdims=True)) | ~alive).all():
            self._steps_left = 0
            return
        # One number alone may be everybody's price of a step.
        self._seen |= set(rewards[rewards != 0.0].tolist()[:2])
        self._steps_left -= 1
        if self._steps_left == 0 and len(self._seen) > 1:
            warnings.warn(
                f"the rewards of all agents were equal in the first {_STEPS_OF_CHECK} steps: if the env pays every agent the "
                "reward of the whole team, its sum counts it once per agent; team_reward='mean' counts it once",
                stacklevel=2,
            )

    def begin(self) -> None:
        """Begin new episodes in all copies."""
        for normalizer in self.normalizers.values():
            normalizer.begin()

    def of_agents(self, batch: JointBatch) -> th.Tensor:
        """:return: (B, n), every agent's reward"""
        if self.how == "own":
            return batch.rewards / self._deviations(batch.rewards) if self.normalizers else batch.rewards
        return self.of_team(batch).unsqueeze(1).expand(-1, self.n_agents)

    def of_team(self, batch: JointBatch) -> th.Tensor:
        """:return: (B,), reward of the team"""
        rewards = batch.team_rewards("mean" if self.how == "mean" else "sum")
        return rewards / self._deviations(rewards) if self.normalizers else rewards

    def _deviations(self, like: th.Tensor) -> th.Tensor:
        """Running standard deviations, as SB3's ``VecNormalize`` divides by them: (n,), or (1,) of a team."""
        variances = [float(normalizer.returns.var) for normalizer in self.normalizers.values()]
        return th.tensor(np.sqrt(np.array(variances) + 1e-8), dtype=like.dtype, device=like.device)

    def state(self) -> dict[str, Any]:
        """:return: name -> state of its statistics"""
        return {name: normalizer.state() for name, normalizer in self.normalizers.items()}

    def restore(self, states: dict[str, Any], with_running: bool = True) -> None:
        """
        Restore the statistics.

        :param states: return value of :meth:`state`
        :param with_running: whether to restore the running returns of the episodes under way
        :raises ValueError: if they do not fit
        """
        if set(states) != set(self.normalizers):
            raise ValueError(f"statistics of the rewards of {sorted(states)}, expected {sorted(self.normalizers)}")
        for name, normalizer in self.normalizers.items():
            normalizer.restore(states[name], with_running)
