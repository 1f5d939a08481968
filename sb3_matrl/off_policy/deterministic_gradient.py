"""What IDDPG and MADDPG share: one gradient step of all critics, then one of all actors, then the targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import DDPG
from stable_baselines3.common.policies import BasePolicy
from torch.nn import functional

from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.off_policy.agent_networks import build_networks
from sb3_matrl.off_policy.ddpg_family import DDPGFamily
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.off_policy_algorithm import Actions
from sb3_matrl.off_policy.transitions import Moment
from sb3_matrl.utils.random_state import isolated_random_streams

#: Arguments that an agent by itself has as well, as a DDPG or a DQN.
OF_SINGLE_AGENTS = ("learning_rate", "buffer_size", "learning_starts", "batch_size", "gamma", "train_freq", "gradient_steps")
# Agent -> (B, 1); of critics a tuple of such, one per critic of the agent.
Values = dict[str, th.Tensor]


class DeterministicGradient(DDPGFamily):
    """Base class of IDDPG and MADDPG: an actor and a critic for every agent, both with targets and optimisers."""

    # ------------------------------------------------------------------ hooks of subclasses

    @abstractmethod
    def next_values(self, batch: JointBatch) -> Values:
        """
        Values after the step by all targets; called without gradients.

        :param batch: batch of transitions
        :return: agent -> (B, 1)
        """

    @abstractmethod
    def critic_values(self, batch: JointBatch) -> dict[str, Sequence[th.Tensor]]:
        """
        Values of the actions that were taken.

        :param batch: batch of transitions
        :return: agent -> (B, 1) of each of its critics
        """

    @abstractmethod
    def actor_losses(self, batch: JointBatch) -> dict[str, th.Tensor]:
        """
        Losses of the actors, to which the critics' parameters are constants.

        :param batch: batch of transitions
        :return: agent -> loss, the mean over the rows in which it acted
        """

    @property
    def critic_input_size(self) -> int | None:
        """Size of a central critic's input; ``None`` for critics on the agents' own observations."""
        return None

    # ------------------------------------------------------------------ training

    def build_networks(self, arguments: LearnerArguments) -> dict[str, dict[str, Any]]:
        self.networks = {}
        for agent in self.possible_agents:
            try:
                self.networks[agent] = build_networks(
                    arguments.of("policy", agent),
                    self._spaces["observation"][agent],
                    self._spaces["action"][agent],
                    self.lr_schedule,
                    self.policy_kwargs_of(agent, arguments),
                    self.device,
                    self.critic_input_size,
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"agent {agent!r}: {error}") from error
        return {
            agent: {
                "policy": networks,
                "actor.optimizer": networks.actor.optimizer,
                "critic.optimizer": networks.critic.optimizer,
            }
            for agent, networks in self.networks.items()
        }

    def target_pairs(self) -> list[list[tuple[th.nn.Module, th.nn.Module]]]:
        networks = self.networks.values()
        return [[(one.critic, one.critic_target) for one in networks], [(one.actor, one.actor_target) for one in networks]]

    def gradient_step(self, batch: JointBatch) -> dict[str, th.Tensor]:
        targets = self._targets(batch)
        values = self.critic_values(batch)
        critic_losses = {agent: _critic_loss(values[agent], targets[agent], batch.acted[agent]) for agent in values}
        critics = {f"the critic of {agent}": networks.critic.optimizer for agent, networks in self.networks.items()}
        actors = {f"the actor of {agent}": networks.actor.optimizer for agent, networks in self.networks.items()}
        with undone_on_error(critics.values()):
            norms = self.minimise(_named("critic", critic_losses), critics)
            with constants([network for one in self.networks.values() for network in one.critic.q_networks]):
                actor_losses = self.actor_losses(batch)
                norms |= self.minimise(_named("actor", actor_losses), actors)
        self.update_targets()
        errors = [mean_over((values[agent][0].detach() - targets[agent]).abs(), batch.acted[agent]) for agent in values]
        return {
            **{f"{agent}/train/critic_loss": loss.detach() for agent, loss in critic_losses.items()},
            **{f"{agent}/train/actor_loss": loss.detach() for agent, loss in actor_losses.items()},
            "train/critic_loss": _mean(critic_losses.values()),
            "train/actor_loss": _mean(actor_losses.values()),
            "train/td_error_abs": _mean(errors),
            "train/grad_norm": _mean(norms.values()),
        }

    def _targets(self, batch: JointBatch) -> Values:
        """Targets of the critics: r_i + gamma (1 - d_i) times the next value, agent -> (B, 1)."""
        with th.no_grad():
            rewards, bootstrap = self.rewards.of_agents(batch), batch.bootstrap()
            return {
                agent: rewards[:, i, None] + bootstrap[:, i, None] * self.gamma * value
                for i, (agent, value) in enumerate(self.next_values(batch).items())
            }

    # ------------------------------------------------------------------ acting

    def choose_actions(self, moment: Moment) -> Actions:
        return {
            agent: self.action_of(agent, moment.observations[agent], moment.masks.get(agent), deterministic=False)
            for agent in self.possible_agents
        }

    def action_of(self, agent: str, observation: Any, mask: np.ndarray | None, deterministic: bool) -> np.ndarray:
        return np.asarray(self.networks[agent].predict(observation, deterministic=deterministic)[0])

    def acting_policy(self, agent: str) -> BasePolicy:
        """
        :param agent: name of the agent
        :return: policy of a class of SB3 with the agent's actor, which changes while the agent learns
        """
        return self.networks[agent]

    def make_agent(self, agent: str) -> DDPG:
        """
        One agent as SB3's DDPG, with copies of its networks and an empty replay buffer.

        :param agent: name of the agent, with a Box as its action space
        """
        env, arguments = self.agent_env(agent), LearnerArguments(self.arguments, self.possible_agents)
        with isolated_random_streams(0):
            ddpg = DDPG(
                arguments.of("policy", agent),
                env,
                **{name: self.arguments[name] for name in OF_SINGLE_AGENTS},
                tau=self.tau,
                action_noise=self.noise.single(agent),
                policy_kwargs=dict(arguments.of("policy_kwargs", agent) or {}),
                device=self.device,
            )
        ddpg.num_timesteps = self.num_timesteps
        self.copy_networks(agent, ddpg)
        return ddpg

    def copy_networks(self, agent: str, ddpg: DDPG) -> None:
        """
        Copy the networks of an agent.

        :param agent: name of the agent
        :param ddpg: SB3 model that gets them
        """
        ddpg.set_parameters(deepcopy({name: part.state_dict() for name, part in self.parts[agent].items()}))


def mean_over(values: th.Tensor, rows: th.Tensor | None) -> th.Tensor:
    """
    Mean over some rows.

    :param values: (B, ...)
    :param rows: int64 (k,); ``None`` for all
    :return: mean; 0 without rows
    """
    chosen = values if rows is None else values[rows]
    return chosen.mean() if len(chosen) else chosen.sum()


def _critic_loss(values: Sequence[th.Tensor], targets: th.Tensor, rows: th.Tensor | None) -> th.Tensor:
    """Mean squared error over the rows, summed over the critics of an agent as in SB3."""
    if rows is None:
        losses = [functional.mse_loss(one, targets) for one in values]
    else:
        losses = [mean_over((one - targets).square(), rows) for one in values]
    return th.stack(losses).sum() if len(losses) > 1 else losses[0]


def _named(what: str, losses: Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
    """Losses by names for error messages."""
    return {f"{agent} {what}": loss for agent, loss in losses.items()}


def _mean(numbers: Iterable[th.Tensor]) -> th.Tensor:
    return th.stack([number.detach() for number in numbers]).mean()


@contextmanager
def constants(networks: Iterable[th.nn.Module]) -> Iterator[None]:
    """
    Let no gradient reach the parameters of networks inside; gradients still pass through.

    :param networks: networks whose parameters are trained elsewhere
    """
    parameters = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def undone_on_error(optimizers: Iterable[th.optim.Optimizer]) -> Iterator[None]:
    """
    Undo the steps of optimisers on any error inside.

    :param optimizers: optimisers that take steps inside
    """
    saved = [
        (optimizer, parameter, parameter.detach().clone(), _cloned(optimizer.state.get(parameter, {})))
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    try:
        yield
    except BaseException:
        for optimizer, parameter, value, state in saved:
            with th.no_grad():
                parameter.copy_(value)
            if state:
                optimizer.state[parameter] = state
            else:
                optimizer.state.pop(parameter, None)
        raise


def _cloned(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, th.Tensor) else value for name, value in state.items()}
