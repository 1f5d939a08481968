"""IQL: independent Q-learning, one DQN per agent on common transitions."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.utilities import chosen_values
from sb3_matrl.off_policy.value_based import LOSSES, ValueBased


class IQL(ValueBased):
    """
    Independent Q-learning: every agent is a DQN that takes the others for a part of the environment.

    y_i = r_i + gamma (1 - d_i) Q_i^-(o'_i, a*_i), with an optimiser for every agent; all learn from the same transitions. The
    arguments are those of :class:`~sb3_matrl.off_policy.value_based.ValueBased`, and

    :param loss: ``"huber"``, SB3's smooth L1 loss, or ``"mse"``, the mean squared error
    :param share_reward: whether every agent gets the sum of all rewards; ``False`` for each its own
    """

    @adds_arguments_to(ValueBased)
    def __init__(self, *args: Any, loss: str = "huber", share_reward: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, loss=loss, share_reward=share_reward, **kwargs)

    def gradient_step(self, batch: JointBatch) -> dict[str, th.Tensor]:
        targets = self.rewards.of_agents(batch) + batch.bootstrap() * self.gamma * self.next_values(batch)
        values = chosen_values(self.utilities.values(batch.observations), batch.actions)
        losses = LOSSES[self.arguments["loss"]](values, targets, reduction="none")
        of_agent = {
            agent: losses[:, i].mean() if batch.acted[agent] is None else _mean_over(losses[:, i], batch.alive[:, i])
            for i, agent in enumerate(self.possible_agents)
        }
        optimizers = {agent: policy.optimizer for agent, policy in self.utilities.policies.items()}
        norms = self.minimise(of_agent, optimizers)
        logged = {f"{agent}/train/loss": loss.detach() for agent, loss in of_agent.items()}
        logged["train/loss"] = th.stack(list(logged.values())).mean()
        logged["train/td_error_abs"] = _mean_over((values.detach() - targets).abs(), batch.alive)
        logged["train/grad_norm"] = th.stack(list(norms.values())).mean()
        return logged


def _mean_over(losses: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """Mean of the losses in some rows; 0 if there are none."""
    kept = th.where(rows, losses, th.zeros((), dtype=losses.dtype, device=losses.device))
    return kept.sum() / rows.sum().clamp(min=1)
