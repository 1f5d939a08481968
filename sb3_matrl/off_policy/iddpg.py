"""IDDPG: independent DDPG, one DDPG per agent on common transitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th

from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.ddpg_family import DDPGFamily
from sb3_matrl.off_policy.deterministic_gradient import DeterministicGradient, Values, mean_over
from sb3_matrl.off_policy.joint_batch import JointBatch


class IDDPG(DeterministicGradient):
    """
    Independent DDPG (Lillicrap et al. 2016): every agent is a DDPG that takes the others for a part of the environment.

    y_i = r_i + gamma (1 - d_i) Q_i^-(o'_i, mu_i^-(o'_i)); the critic minimises the mean squared error, the actor
    -Q_i(o_i, mu_i(o_i)). All learn from the same transitions. With one agent this is SB3's DDPG. The arguments are those of
    :class:`~sb3_matrl.off_policy.ddpg_family.DDPGFamily`, and

    :param share_reward: whether every agent gets the sum of all rewards; ``False`` for each its own
    """

    @adds_arguments_to(DDPGFamily)
    def __init__(self, *args: Any, share_reward: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, share_reward=share_reward, **kwargs)

    def next_values(self, batch: JointBatch) -> Values:
        values = {}
        for agent, networks in self.networks.items():
            following = batch.next_observations[agent]
            actions = networks.actor_target(following).clamp(-1, 1)
            values[agent] = th.cat(networks.critic_target(following, actions), dim=1).min(dim=1, keepdim=True).values
        return values

    def critic_values(self, batch: JointBatch) -> dict[str, Sequence[th.Tensor]]:
        return {
            agent: networks.critic(batch.observations[agent], batch.actions[agent])
            for agent, networks in self.networks.items()
        }

    def actor_losses(self, batch: JointBatch) -> dict[str, th.Tensor]:
        losses = {}
        for agent, networks in self.networks.items():
            observations = batch.observations[agent]
            values = networks.critic.q1_forward(observations, networks.actor(observations))
            losses[agent] = -mean_over(values, batch.acted[agent])
        return losses
