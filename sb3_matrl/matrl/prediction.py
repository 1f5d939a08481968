"""The policies of all strategies on one rollout, and what the meta-game is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th

from sb3_matrl.matrl.joint_samples import JointRollout, Samples
from sb3_matrl.on_policy.batch import AgentBatch
from sb3_matrl.utils.distributions import ActionDistribution

Parameters = dict[str, th.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A learner's policy at one moment: parameters of its actor, its action distributions and log-densities on the rollout."""

    parameters: Parameters
    distribution: ActionDistribution
    log_prob: th.Tensor


@dataclass(frozen=True)
class Prediction:
    """
    The rollout of all learners with their policies of every strategy.

    :param rollout: the rollout
    :param policies: strategy -> learner -> its policy; the current ones first
    :param ratios: ratios to the current policies at every row, over the scope: (B, n), or (B, n, K - 1) of K > 2 strategies
    :param samples: samples of the meta-game
    """

    rollout: JointRollout
    policies: list[list[Snapshot]]
    ratios: th.Tensor
    samples: Samples

    @property
    def batches(self) -> list[AgentBatch]:
        """Batch of each learner."""
        return list(self.rollout.batches)

    @property
    def current(self) -> list[Snapshot]:
        """Current policy of each learner."""
        return self.policies[0]

    @property
    def predicted(self) -> list[Snapshot]:
        """Policy of each learner after the first trial step, by default the predicted one."""
        return self.policies[1]

    @property
    def advantages(self) -> th.Tensor:
        """Doubles (B, n), 0 where masked."""
        return self.rollout.advantages

    @property
    def mask(self) -> th.Tensor:
        """Bool (B, n)."""
        return self.rollout.mask
