"""Algorithms that mix the agents' action values into a value of the team."""

from __future__ import annotations

import torch as th

from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.mixers import present_values
from sb3_matrl.off_policy.utilities import chosen_values
from sb3_matrl.off_policy.value_based import LOSSES, ValueBased


class MixedValues(ValueBased):
    """Base class of VDN and QMIX: one loss on the mixed values of the agents' actions."""

    is_team = True

    def mix(self, values: th.Tensor, batch: JointBatch) -> th.Tensor:
        """
        Value of the team.

        :param values: values of the agents' actions, 0 for absent agents, (B, n)
        :param batch: batch of transitions
        :return: (B,)
        """
        raise NotImplementedError

    def mix_next(self, values: th.Tensor, batch: JointBatch) -> th.Tensor:
        """Value of the team after the step, by the targets; see :meth:`mix`."""
        raise NotImplementedError

    def gradient_step(self, batch: JointBatch) -> dict[str, th.Tensor]:
        with th.no_grad():
            following = self.mix_next(present_values(self.next_values(batch), batch.counts_next()), batch)
            targets = self.rewards.of_team(batch) + batch.team_bootstrap() * self.gamma * following
        chosen = chosen_values(self.utilities.values(batch.observations), batch.actions)
        values = self.mix(present_values(chosen, batch.alive), batch)
        loss = LOSSES[self.arguments["loss"]](values, targets)
        norms = self.minimise({"TD": loss}, {"the team": self.optimizer})
        return {
            "train/loss": loss.detach(),
            "train/td_error_abs": (values.detach() - targets).abs().mean(),
            "train/q_tot": values.detach().mean(),
            "train/grad_norm": norms["the team"],
        }
