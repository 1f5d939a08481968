"""QMIX: a monotone mixing network of the agents' values, with weights that the state chooses."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch as th

from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.mixers import QMixer
from sb3_matrl.off_policy.team_value import MixedValues
from sb3_matrl.off_policy.value_based import ValueBased


class QMIX(MixedValues):
    """
    QMIX (Rashid et al. 2018): Q_tot = mixer(s, Q_1(o_1, u_1), .., Q_n(o_n, u_n)), monotone in every agent's value.

    y = r + gamma (1 - d) mixer^-(s', Q_1^-(o'_1, a*_1), ..), with one loss and one optimiser over utilities and mixer; see
    :class:`~sb3_matrl.off_policy.mixers.QMixer`. The arguments are those of
    :class:`~sb3_matrl.off_policy.value_based.ValueBased`, and

    :param loss: ``"huber"``, SB3's smooth L1 loss, or ``"mse"``, the mean squared error
    :param team_reward: ``"sum"`` or ``"mean"`` of the agents' rewards
    :param state: ``"env"`` for the env's ``state()``, ``"observations"`` for all observations concatenated, ``"auto"`` for the
        env's state if it has one
    :param mixing_embed_dim: width of the mixer's hidden layer
    :param hypernet_layers: layers of the networks that make the mixer's weights, 1 or 2
    :param hypernet_embed: width of their hidden layer
    """

    mixer: QMixer
    mixer_target: QMixer

    @adds_arguments_to(ValueBased)
    def __init__(
        self,
        *args: Any,
        loss: str = "huber",
        team_reward: str = "sum",
        state: str = "auto",
        mixing_embed_dim: int = 32,
        hypernet_layers: int = 2,
        hypernet_embed: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            loss=loss,
            team_reward=team_reward,
            state=state,
            mixing_embed_dim=mixing_embed_dim,
            hypernet_layers=hypernet_layers,
            hypernet_embed=hypernet_embed,
            **kwargs,
        )

    def build_team(self) -> dict[str, tuple[th.nn.Module, th.nn.Module | None]]:
        sizes = {name: self.arguments[name] for name in ("mixing_embed_dim", "hypernet_layers", "hypernet_embed")}
        self.mixer = QMixer(len(self.possible_agents), self.state_size, **sizes).to(self.device)
        self.mixer_target = deepcopy(self.mixer).requires_grad_(False)
        return {"mixer": (self.mixer, self.mixer_target)}

    def mix(self, values: th.Tensor, batch: JointBatch) -> th.Tensor:
        assert batch.states is not None
        mixed: th.Tensor = self.mixer(values, batch.states)
        return mixed

    def mix_next(self, values: th.Tensor, batch: JointBatch) -> th.Tensor:
        assert batch.next_states is not None
        mixed: th.Tensor = self.mixer_target(values, batch.next_states)
        return mixed
