"""MADDPG: an actor per agent on its own observation, and a critic per agent on the state and all actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.policies import BasePolicy

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.common.legal_masks import mask_rows
from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.central_critic import action_size, encoded_action, joint_action
from sb3_matrl.off_policy.ddpg_family import DDPGFamily, check_values
from sb3_matrl.off_policy.deterministic_gradient import OF_SINGLE_AGENTS, DeterministicGradient, Values, mean_over
from sb3_matrl.off_policy.gumbel import greedy_one_hot, gumbel_noise, masked_logits, sample_actions, straight_through
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.utils.random_state import isolated_random_streams


class MADDPG(DeterministicGradient):
    """
    Multi-agent DDPG (Lowe et al. 2017), for Box and Discrete actions, also in one team.

    y_i = r_i + gamma (1 - d_i) Q_i^-(x', mu_1^-(o'_1), .., mu_n^-(o'_n)) with x the state; the actor minimises
    -Q_i(x, u_1, .., mu_i(o_i), .., u_n) with the others' actions from the replay buffer. An actor of Discrete actions gives
    logits: it acts by samples of their softmax and learns by straight-through Gumbel-softmax, and targets take the most likely
    action. Targets come first, then all critics, all actors, all targets' updates. The arguments are those of
    :class:`~sb3_matrl.off_policy.ddpg_family.DDPGFamily`, and

    :param state: ``"env"`` for the env's ``state()``, ``"observations"`` for all observations concatenated, ``"auto"`` for the
        env's state if it has one
    :param share_reward: whether every agent gets the sum of all rewards; ``False`` for each its own
    :param actor_reg: coefficient of the actor's mean squared outputs before the tanh, or of its mean squared logits
    :param max_grad_norm: maximum norm of the gradients of every network; ``None`` for no clipping
    :param gumbel_temperature: temperature of the Gumbel-softmax
    """

    action_kinds = (spaces.Box, spaces.Discrete)
    other_actions = ""

    @adds_arguments_to(DDPGFamily)
    def __init__(
        self,
        *args: Any,
        state: str = "auto",
        share_reward: bool = False,
        actor_reg: float = 1e-3,
        max_grad_norm: float | None = 0.5,
        gumbel_temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            state=state,
            share_reward=share_reward,
            actor_reg=actor_reg,
            max_grad_norm=max_grad_norm,
            gumbel_temperature=gumbel_temperature,
            **kwargs,
        )

    def _setup_model(self) -> None:
        self._acting: dict[str, BasePolicy] = {}
        super()._setup_model()

    @property
    def critic_input_size(self) -> int:
        """Size of a critic's input: the state, or all observations, and the actions of all agents."""
        return self.state_size + sum(map(action_size, self._spaces["action"].values()))

    # ------------------------------------------------------------------ training

    def try_critic(self, agent: str, observation: Any) -> None:
        size = self.critic_input_size - self.state_size
        inputs = (th.zeros(1, n, device=self.device) for n in (self.state_size, size))
        check_values(self.networks[agent].critic(*inputs))

    def next_values(self, batch: JointBatch) -> Values:
        parts = {}
        for agent, networks in self.networks.items():
            outputs = networks.actor_target(batch.next_observations[agent])
            parts[agent] = outputs if self._is_box(agent) else greedy_one_hot(outputs, batch.next_masks.get(agent))
        actions = joint_action(parts, batch.counts_next())
        return {agent: networks.critic_target(batch.next_states, actions) for agent, networks in self.networks.items()}

    def critic_values(self, batch: JointBatch) -> dict[str, Sequence[th.Tensor]]:
        actions = joint_action(self._taken(batch), batch.alive)
        return {agent: [networks.critic(batch.states, actions)] for agent, networks in self.networks.items()}

    def _taken(self, batch: JointBatch) -> dict[str, th.Tensor]:
        """Actions of the batch as critics see them, agent -> (B, size)."""
        space_of = self._spaces["action"]
        return {agent: encoded_action(space_of[agent], actions) for agent, actions in batch.actions.items()}

    def actor_losses(self, batch: JointBatch) -> dict[str, th.Tensor]:
        taken, losses = self._taken(batch), {}
        for agent, networks in self.networks.items():
            own, outputs = self._own_action(agent, batch)
            values = networks.critic(batch.states, joint_action({**taken, agent: own}, batch.alive))
            losses[agent] = -mean_over(values, batch.acted[agent])
            if self.arguments["actor_reg"] > 0:
                losses[agent] = losses[agent] + self.arguments["actor_reg"] * mean_over(outputs.square(), batch.acted[agent])
        return losses

    def _own_action(self, agent: str, batch: JointBatch) -> tuple[th.Tensor, th.Tensor]:
        """Action of the current actor, through which gradients pass, and outputs before the tanh or the softmax; (B, size)."""
        actor: Any = self.networks[agent].actor
        if self._is_box(agent):
            outputs = actor.mu[:-1](actor.extract_features(batch.observations[agent], actor.features_extractor))
            return actor.mu[-1](outputs), outputs
        logits = actor(batch.observations[agent])
        temperature = self.arguments["gumbel_temperature"]
        return straight_through(logits, gumbel_noise(logits), temperature, batch.masks.get(agent)), logits

    # ------------------------------------------------------------------ acting

    def action_of(self, agent: str, observation: Any, mask: np.ndarray | None, deterministic: bool) -> np.ndarray:
        if self._is_box(agent):
            return super().action_of(agent, observation, mask, deterministic)
        networks: Any = self.networks[agent]
        with th.no_grad():
            tensor, batched = networks.obs_to_tensor(observation)
            logits = networks.actor(tensor)
            legal = mask_rows(mask, logits)
            chosen = masked_logits(logits, legal).argmax(dim=1) if deterministic else sample_actions(logits, legal)
        actions = chosen.cpu().numpy() + self.exploration_spaces[agent].start
        return np.asarray(actions if batched else actions[0])

    def acting_policy(self, agent: str) -> BasePolicy:
        """
        :param agent: name of the agent
        :return: SB3's ``TD3Policy`` or ``DQNPolicy`` with the agent's actor, which counts Discrete actions from 0 and changes
            while the agent learns
        """
        if agent not in self._acting:
            if self._is_box(agent):
                policy: Any = self.make_agent(agent).policy
                policy.actor = self.networks[agent].actor
            else:
                policy = self._make_dqn(agent, self.agent_env(agent, shifted=True)).policy
                policy.q_net = self.networks[agent].actor
            self._acting[agent] = policy
        return self._acting[agent]

    def make_agent(self, agent: str) -> Any:
        """
        One agent as a model of SB3, with a copy of its actor and an empty replay buffer: a DDPG, whose critic is not trained,
        for Box actions; a DQN, whose Q-network holds the logits, for Discrete actions.

        :param agent: name of the agent
        :raises ValueError: if its Discrete actions do not begin with 0, which SB3's DQN does not know
        """
        return super().make_agent(agent) if self._is_box(agent) else self._make_dqn(agent, self.agent_env(agent))

    def copy_networks(self, agent: str, ddpg: DDPG) -> None:
        networks = self.networks[agent]
        ddpg.actor.load_state_dict(networks.actor.state_dict())
        ddpg.actor_target.load_state_dict(networks.actor_target.state_dict())

    def _make_dqn(self, agent: str, env: SpacesVecEnv) -> DQN:
        networks = self.networks[agent]
        kwargs = dict(LearnerArguments(self.arguments, self.possible_agents).of("policy_kwargs", agent) or {})
        for name in ("n_critics", "share_features_extractor"):
            kwargs.pop(name, None)
        kwargs |= {name: getattr(networks, name) for name in ("features_extractor_class", "features_extractor_kwargs")}
        kwargs["net_arch"] = networks.actor_kwargs["net_arch"]
        policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
        with isolated_random_streams(0):
            arguments: dict[str, Any] = {name: self.arguments[name] for name in OF_SINGLE_AGENTS}
            dqn = DQN(policy, env, **arguments, policy_kwargs=kwargs, device=self.device)
        dqn.q_net.load_state_dict(networks.actor.state_dict())
        dqn.q_net_target.load_state_dict(networks.actor_target.state_dict())
        dqn.num_timesteps = self.num_timesteps
        return dqn
