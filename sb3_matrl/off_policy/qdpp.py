"""Q-DPP: the team's value as the log-determinant of a kernel that rewards diverse joint actions."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_matrl.common.acting_model import check_keyed, errors_of, legal_actions
from sb3_matrl.common.legal_masks import mask_rows
from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.determinantal import (
    FEATURE_NORMS,
    DiversityFeatures,
    chosen_features,
    log_det,
    sample_actions,
)
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.mixers import present_values
from sb3_matrl.off_policy.off_policy_algorithm import Actions
from sb3_matrl.off_policy.transitions import Moment
from sb3_matrl.off_policy.utilities import Values, chosen_values, greedy_actions
from sb3_matrl.off_policy.value_based import LOSSES, ValueBased
from sb3_matrl.utils.suggest import unknown

Tensors = dict[str, th.Tensor]


class ObservationFeatures(th.nn.Module):
    """
    Diversity features of the agents' actions, from their observations.

    :param policies: agent -> policy; its class of features extractor is used, with parameters of its own
    :param feature_dim: number of entries of a feature
    :param norm: see :class:`~sb3_matrl.off_policy.determinantal.DiversityFeatures`
    """

    def __init__(self, policies: Mapping[str, DQNPolicy], feature_dim: int, norm: str) -> None:
        super().__init__()
        self.agents = list(policies)
        self._preprocessing = [(policy.observation_space, policy.normalize_images) for policy in policies.values()]
        self.extractors = th.nn.ModuleList(policy.make_features_extractor() for policy in policies.values())
        sizes: Any = [extractor.features_dim for extractor in self.extractors]
        n_actions = [int(policy.q_net.action_space.n) for policy in policies.values()]
        self.features = DiversityFeatures(sizes, n_actions, feature_dim, norm)

    def forward(self, observations: Mapping[str, Any]) -> list[th.Tensor]:
        """
        Features of the agents that have observations, in the agents' order.

        :param observations: agent -> (B, \\*shape), or a dict of such tensors
        :return: for each of them (B, A_i, feature_dim)
        """
        chosen = [i for i, agent in enumerate(self.agents) if agent in observations]
        inputs = []
        for i in chosen:
            space, normalize_images = self._preprocessing[i]
            rows = preprocess_obs(observations[self.agents[i]], space, normalize_images=normalize_images)
            inputs.append(self.extractors[i](rows))
        features: list[th.Tensor] = self.features(inputs, None if len(chosen) == len(self.agents) else chosen)
        return features


class QDPP(ValueBased):
    """
    Multi-agent determinantal Q-learning (Yang et al. 2020): Q_tot = sum_i Q_i(o_i, u_i) + logdet_coef log det K_u.

    K_u is the Gram matrix of diversity features of the agents' observations and actions, of length 1; its log-determinant is 0
    if they are orthogonal, and very negative if agents do alike things. y = r + gamma (1 - d) Q_tot^-(o', u') with u' the
    greedy choice, agent by agent, given the choices before. The agents explore by the same sampler, in which the exploration
    rate is the temperature of their values, and without uniform draws after the warm-up.

    The arguments are those of :class:`~sb3_matrl.off_policy.value_based.ValueBased`, and

    :param loss: ``"huber"``, SB3's smooth L1 loss, or ``"mse"``, the mean squared error
    :param team_reward: ``"sum"`` or ``"mean"`` of the agents' rewards
    :param feature_dim: number of entries of a diversity feature; at least as many as agents let all be orthogonal
    :param logdet_coef: weight of the log-determinant
    :param jitter: weight of the identity in the kernel, between 0.0001 and 1; bounds the punishment of equal features
    :param feature_norm: ``"unit"`` for features of length 1, ``"learned"`` for lengths between 0 and 1 that are learned
    :param temperature: temperature of the sampler at an exploration rate of 1, in units of the team's reward
    """

    is_team = True

    @adds_arguments_to(ValueBased)
    def __init__(
        self,
        *args: Any,
        loss: str = "huber",
        team_reward: str = "sum",
        feature_dim: int = 32,
        logdet_coef: float = 1.0,
        jitter: float = 0.01,
        feature_norm: str = "unit",
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            loss=loss,
            team_reward=team_reward,
            feature_dim=feature_dim,
            logdet_coef=logdet_coef,
            jitter=jitter,
            feature_norm=feature_norm,
            temperature=temperature,
            **kwargs,
        )

    def check_arguments(self) -> None:
        super().check_arguments()
        self.jitter: float = self.arguments["jitter"]
        self.logdet_coef: float = self.arguments["logdet_coef"]
        self.feature_norm: str = self.arguments["feature_norm"]
        if self.feature_norm not in FEATURE_NORMS:
            raise ValueError(unknown("feature_norm", self.feature_norm, FEATURE_NORMS))

    # ------------------------------------------------------------------ networks

    def build_team(self) -> dict[str, tuple[th.nn.Module, th.nn.Module | None]]:
        networks = ObservationFeatures(self.utilities.policies, self.arguments["feature_dim"], self.feature_norm)
        self.features = networks.to(self.device)
        self.features_target = deepcopy(self.features).requires_grad_(False)
        return {"features": (self.features, self.features_target)}

    # ------------------------------------------------------------------ learning

    def gradient_step(self, batch: JointBatch) -> Tensors:
        with th.no_grad():
            following, agreement = self._next_team_values(batch)
            targets = self.rewards.of_team(batch) + batch.team_bootstrap() * self.gamma * following
        actions = th.stack([batch.actions[agent] for agent in self.possible_agents], dim=1)
        utilities = self.utilities.values(batch.observations)
        values, diversity = self.team_values(utilities, batch.observations, actions, batch.alive)
        loss = LOSSES[self.arguments["loss"]](values, targets)
        norms = self.minimise({"TD": loss}, {"the team": self.optimizer})
        return {
            "train/loss": loss.detach(),
            "train/td_error_abs": (values.detach() - targets).abs().mean(),
            "train/q_tot": values.detach().mean(),
            "train/log_det": diversity.detach().mean(),
            "train/greedy_agreement": agreement,
            "train/grad_norm": norms["the team"],
        }

    def team_values(
        self, values: Values, observations: Mapping[str, Any], actions: th.Tensor, present: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Q_tot and log det K of joint actions.

        :param values: agent -> (B, n_actions), the utilities at the observations
        :param observations: agent -> (B, \\*shape), or a dict of such tensors
        :param actions: int64 (B, n)
        :param present: bool (B, n), agents that take part
        :return: (B,) and (B,)
        """
        return self._q_tot(values, self.features(observations), actions, present)

    def _next_team_values(self, batch: JointBatch) -> tuple[th.Tensor, th.Tensor]:
        """
        Q_tot^- of the greedy next actions, (B,), and the share of rows in which these are the agents' own best actions.

        The networks choose the actions (``double_q``), or the targets; the targets evaluate them.
        """
        observations, present = batch.next_observations, batch.counts_next()
        features = self.features_target(observations)
        if self.double_q:
            choosing, values = self.utilities.both_values(observations)
            actions = self._sample(choosing, self.features(observations), batch.next_masks, present, temperature=None)
        else:
            choosing = values = self.utilities.target_values(observations)
            actions = self._sample(values, features, batch.next_masks, present, temperature=None)
        own = th.stack(list(greedy_actions(choosing, batch.next_masks).values()), dim=1)
        agreement = ((actions == own) | ~present).all(dim=1).to(th.float32).mean()
        return self._q_tot(values, features, actions, present)[0], agreement

    def _q_tot(
        self, values: Values, features: list[th.Tensor], actions: th.Tensor, present: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        chosen = chosen_values(values, dict(zip(self.possible_agents, actions.unbind(1), strict=True)))
        diversity = log_det(chosen_features(features, actions), present, self.jitter, self.feature_norm)
        return present_values(chosen, present).sum(dim=1) + self.logdet_coef * diversity, diversity

    # ------------------------------------------------------------------ acting

    @property
    def sampling_temperature(self) -> float:
        """Temperature with which the agents explore now."""
        return float(self.arguments["temperature"] * self.exploration_rate)

    def _sample(
        self,
        values: Values,
        features: list[th.Tensor],
        masks: Mapping[str, th.Tensor],
        present: th.Tensor,
        temperature: float | None,
    ) -> th.Tensor:
        """Joint actions by the sampler, int64 (B, number of agents with values)."""
        legal = [masks.get(agent) for agent in values]
        kernel = (self.jitter, self.logdet_coef, temperature, self.feature_norm)
        return sample_actions(list(values.values()), features, legal, present, *kernel)

    def acting_networks(self) -> dict[str, th.nn.Module]:
        return {**super().acting_networks(), self.team_name: self.features}

    def choose_actions(self, moment: Moment) -> Actions:
        policies = self.utilities.policies
        tensors = {agent: policy.obs_to_tensor(moment.observations[agent])[0] for agent, policy in policies.items()}
        masks = {agent: th.as_tensor(mask, device=self.device) for agent, mask in moment.masks.items()}
        present = th.as_tensor(moment.alive, device=self.device)
        with th.no_grad():
            values, features = self.utilities.values(tensors), self.features(tensors)
            actions = self._sample(values, features, masks, present, self.sampling_temperature).cpu().numpy()
        return {agent: actions[:, i] + self.exploration_spaces[agent].start for i, agent in enumerate(policies)}

    def predict(  # type: ignore[override]
        self,
        observation: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, np.ndarray], None]:
        """
        Actions of the agents, for one env or a batch of envs.

        :param observation: agent -> observation as the env gives it, with or without a leading batch axis. With
            ``deterministic=False`` the agents choose one after the other, each given the choices before: pass the
            observations of all agents that are alive, because an agent without an entry counts as dead
        :param state: not used
        :param episode_start: not used
        :param deterministic: every agent's own best action; otherwise the joint action is drawn by Q-DPP's sampler, at
            :attr:`sampling_temperature`
        :param action_masks: agent -> bool (batch, n_actions); for agents without an entry here, the mask in their observation
            is used, see :data:`~sb3_matrl.vec_env.masks.MASK_NAMES`. A row without any legal action counts as one that allows
            all
        :return: agent, as named in ``observation`` -> action, and ``None``
        :raises ValueError: if an agent is unknown, or an observation does not fit its space
        """
        if deterministic or not isinstance(observation, Mapping) or not observation:
            return super().predict(observation, state, episode_start, deterministic, action_masks)
        names = {self.known_name(agent): agent for agent in observation}
        self.set_training_mode(False)
        agents = [agent for agent in self.possible_agents if agent in names]
        rows = {}
        for agent in agents:
            with errors_of(agent, self._spaces["observation"][agent]):
                rows[agent] = self.utilities.policies[agent].obs_to_tensor(observation[names[agent]])
        given = check_keyed("mask", {} if action_masks is None else action_masks)
        masks = {
            agent: given.get(agent, legal_actions(observation[names[agent]], self._mask_names[agent])) for agent in agents
        }
        drawn = self._draw({agent: tensor for agent, (tensor, _) in rows.items()}, masks)
        return {own: np.asarray(drawn[name] if rows[name][1] else drawn[name][0]) for name, own in names.items()}, None

    def _draw(self, tensors: Mapping[str, Any], masks: Mapping[str, np.ndarray | None]) -> Actions:
        """Actions of agents that are all alive, by the sampler; agent -> (B,), in the action space."""
        with th.no_grad():
            values = {}
            for agent, tensor in tensors.items():
                with errors_of(agent, self._spaces["observation"][agent]):
                    values[agent] = self.utilities.policies[agent].q_net(tensor)
            counts = {len(q) for q in values.values()}
            if len(counts) > 1:
                raise ValueError(f"predict wants equally many observations of every agent, got {sorted(counts)}")
            legal = {agent: rows for agent, mask in masks.items() if (rows := mask_rows(mask, values[agent])) is not None}
            present = th.ones(counts.pop(), len(values), dtype=th.bool, device=self.device)
            actions = self._sample(values, self.features(tensors), legal, present, self.sampling_temperature).cpu().numpy()
        return {agent: actions[:, i] + self.exploration_spaces[agent].start for i, agent in enumerate(values)}
