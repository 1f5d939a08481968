"""QTRAN: utilities whose sum agrees with a joint value at the best joint action, for games that are not monotone."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.joint_values import (
    VARIANTS,
    CounterfactualValues,
    JointValue,
    QtranLosses,
    StateValue,
    alt_losses,
    base_losses,
    chosen_values,
    counterfactual_targets,
    mean_over_present,
)
from sb3_matrl.off_policy.mixers import present_values
from sb3_matrl.off_policy.utilities import legal_values
from sb3_matrl.off_policy.value_based import ValueBased
from sb3_matrl.utils.suggest import unknown


@dataclass(frozen=True)
class Outputs:
    """
    Outputs of all agents' utilities, in the agents' order.

    :param hidden: n tensors (B, width), last hidden layers
    :param q: n tensors (B, A_i), values
    """

    hidden: list[th.Tensor]
    q: list[th.Tensor]

    def greedy(self, legal: list[th.Tensor | None]) -> th.Tensor:
        """Each agent's best legal action, int64 (B, n)."""
        return th.stack([legal_values(q, mask).argmax(dim=1) for q, mask in zip(self.q, legal, strict=True)], dim=1)


class QTRAN(ValueBased):
    """
    QTRAN (Son et al. 2019): a joint value Q_jt(s, u) learns from the team's reward, and the utilities learn from it.

    With Q' the sum of the agents' utilities, ubar their own best legal actions, and V(s), the loss is L_td + opt_coef L_opt +
    nopt_coef L_nopt: L_td is the squared temporal-difference error of Q_jt, L_opt makes Q' + V equal Q_jt at ubar, and L_nopt
    keeps it from being smaller elsewhere. Every game has such utilities, also where no monotone mixer exists. The base variant
    has one joint value; in the alternative each agent has a network of counterfactual values of its own actions, which
    punishes wrong utilities more.

    The arguments are those of :class:`~sb3_matrl.off_policy.value_based.ValueBased`, and

    :param team_reward: ``"sum"`` or ``"mean"`` of the agents' rewards
    :param state: ``"env"`` for the env's ``state()``, ``"observations"`` for all observations concatenated, ``"auto"`` for the
        env's state if it has one
    :param variant: ``"base"``, or ``"alt"`` for counterfactual values
    :param opt_coef: weight of L_opt
    :param nopt_coef: weight of L_nopt
    :param joint_embed_dim: width of the layers of the joint networks
    """

    is_team = True
    joint: JointValue | CounterfactualValues
    joint_target: JointValue | CounterfactualValues

    @adds_arguments_to(ValueBased)
    def __init__(
        self,
        *args: Any,
        team_reward: str = "sum",
        state: str = "auto",
        variant: str = "base",
        opt_coef: float = 1.0,
        nopt_coef: float = 1.0,
        joint_embed_dim: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            team_reward=team_reward,
            state=state,
            variant=variant,
            opt_coef=opt_coef,
            nopt_coef=nopt_coef,
            joint_embed_dim=joint_embed_dim,
            **kwargs,
        )

    def check_arguments(self) -> None:
        super().check_arguments()
        self.variant: str = self.arguments["variant"]
        if self.variant not in VARIANTS:
            raise ValueError(unknown("variant", self.variant, VARIANTS))

    # ------------------------------------------------------------------ networks

    def build_team(self) -> dict[str, tuple[th.nn.Module, th.nn.Module | None]]:
        networks = [policy.q_net for policy in self.utilities.policies.values()]
        hidden_sizes = [network.net_arch[-1] if network.net_arch else network.features_dim for network in networks]
        n_actions = [int(network.action_space.n) for network in networks]
        kind = JointValue if self.variant == "base" else CounterfactualValues
        size = self.arguments["joint_embed_dim"]
        self.joint = kind(hidden_sizes, n_actions, self.state_size, size).to(self.device)
        self.joint_target = deepcopy(self.joint).requires_grad_(False)
        self.state_value = StateValue(self.state_size, size).to(self.device)
        return {"joint": (self.joint, self.joint_target), "state_value": (self.state_value, None)}

    def _outputs(self, observations: Mapping[str, Any], target: bool = False) -> Outputs:
        hidden, values = zip(*self.utilities.hidden_and_values(observations, target).values(), strict=True)
        return Outputs(list(hidden), list(values))

    def _legal(self, masks: Mapping[str, th.Tensor]) -> list[th.Tensor | None]:
        return [masks.get(agent) for agent in self.possible_agents]

    # ------------------------------------------------------------------ learning

    def gradient_step(self, batch: JointBatch) -> dict[str, th.Tensor]:
        with th.no_grad():
            following = self._next_joint_values(batch)
            rewards, factors = self.rewards.of_team(batch), batch.team_bootstrap() * self.gamma
            targets = rewards[:, None] + factors[:, None] * following
        outputs = self._outputs(batch.observations)
        actions = th.stack([batch.actions[agent] for agent in self.possible_agents], dim=1)
        losses, joint = self._losses(outputs, actions, batch, targets)
        loss = losses.total(self.arguments["opt_coef"], self.arguments["nopt_coef"])
        norms = self.minimise({"QTRAN": loss}, {"the team": self.optimizer})
        summed = present_values(chosen_values(outputs.q, actions), batch.alive).sum(dim=1)
        errors = (joint - targets).detach().abs()
        return {
            "train/loss": loss.detach(),
            "train/td_loss": losses.td.detach(),
            "train/opt_loss": losses.opt.detach(),
            "train/nopt_loss": losses.nopt.detach(),
            "train/td_error_abs": self._mean_over_networks(errors, batch.alive).mean(),
            "train/q_tot": self._mean_over_networks(joint.detach(), batch.alive).mean(),
            "train/q_sum": summed.detach().mean(),
            "train/grad_norm": norms["the team"],
        }

    def _losses(
        self, outputs: Outputs, actions: th.Tensor, batch: JointBatch, targets: th.Tensor
    ) -> tuple[QtranLosses, th.Tensor]:
        """The three losses, and the joint values of the actions taken: (B, 1), in the alternative (B, n)."""
        state, present = batch.states, batch.alive
        assert state is not None
        legal, value = self._legal(batch.masks), self.state_value(state)
        greedy = outputs.greedy(legal)
        taken = self.joint(outputs.hidden, actions, present, state)
        with th.no_grad():
            best = self.joint(outputs.hidden, greedy, present, state)
        if self.variant == "base":
            q_taken, q_greedy = (present_values(chosen_values(outputs.q, u), present) for u in (actions, greedy))
            return base_losses(q_taken, q_greedy, taken, best, value, targets[:, 0]), taken[:, None]
        losses = alt_losses(outputs.q, legal, actions, greedy, taken, best, value, targets, present)
        return losses, chosen_values(taken, actions)

    def _next_joint_values(self, batch: JointBatch) -> th.Tensor:
        """
        Q_jt^-(s', ubar'), (B, 1), in the alternative (B, n).

        The networks choose ubar' (``double_q``), or the targets.
        """
        state, present = batch.next_states, batch.counts_next()
        assert state is not None
        outputs = self._outputs(batch.next_observations, target=True)
        choosing = self._outputs(batch.next_observations) if self.double_q else outputs
        actions = choosing.greedy(self._legal(batch.next_masks))
        values = self.joint_target(outputs.hidden, actions, present, state)
        if self.variant == "base":
            base: th.Tensor = values[:, None]
            return base
        return counterfactual_targets(chosen_values(values, actions), present)

    def joint_values(
        self, observations: Mapping[str, Any], states: th.Tensor, actions: th.Tensor, present: th.Tensor
    ) -> th.Tensor:
        """
        Q_jt of joint actions; in the alternative the mean of the present agents' values of them.

        :param observations: agent -> (B, \\*shape), or a dict of such tensors
        :param states: (B, state size)
        :param actions: int64 (B, n)
        :param present: bool (B, n), agents that take part
        :return: (B,)
        """
        values = self.joint(self._outputs(observations).hidden, actions, present, states)
        if self.variant == "base":
            base: th.Tensor = values
            return base
        return mean_over_present(chosen_values(values, actions), present)

    def _mean_over_networks(self, values: th.Tensor, present: th.Tensor) -> th.Tensor:
        return values[:, 0] if self.variant == "base" else mean_over_present(values, present)
