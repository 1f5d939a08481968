"""VDN: value decomposition networks, the team's value as the sum of the agents' values."""

from __future__ import annotations

from typing import Any

import torch as th

from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.team_value import MixedValues
from sb3_matrl.off_policy.value_based import ValueBased


class VDN(MixedValues):
    """
    Value decomposition networks (Sunehag et al. 2018): Q_tot = sum_i Q_i(o_i, u_i), learned from the team's reward.

    y = r + gamma (1 - d) sum_i Q_i^-(o'_i, a*_i), with one loss and one optimiser. The arguments are those of
    :class:`~sb3_matrl.off_policy.value_based.ValueBased`, and

    :param loss: ``"huber"``, SB3's smooth L1 loss, or ``"mse"``, the mean squared error
    :param team_reward: ``"sum"`` or ``"mean"`` of the agents' rewards
    """

    @adds_arguments_to(ValueBased)
    def __init__(self, *args: Any, loss: str = "huber", team_reward: str = "sum", **kwargs: Any) -> None:
        super().__init__(*args, loss=loss, team_reward=team_reward, **kwargs)

    def mix(self, values: th.Tensor, batch: JointBatch) -> th.Tensor:
        return values.sum(dim=1)

    def mix_next(self, values: th.Tensor, batch: JointBatch) -> th.Tensor:
        return values.sum(dim=1)
