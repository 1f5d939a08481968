"""The agents' utilities Q_i(o_i, .): SB3's Q-networks and their targets, for all agents together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update
from stable_baselines3.common.vec_env import VecTransposeImage
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from sb3_matrl.off_policy.network_stack import NetworkStack, alike_agents, is_watched

# agent -> (B, n_actions)
Values = dict[str, th.Tensor]


class Utilities:
    """
    Q-networks of all agents and their targets.

    :param policies: agent -> SB3's ``DQNPolicy`` with the agent's networks
    :param stacked: whether alike networks are evaluated together, which gives the same numbers up to rounding; otherwise SB3's
        networks are called agent by agent
    """

    def __init__(self, policies: Mapping[str, DQNPolicy], stacked: bool = False) -> None:
        self.policies = dict(policies)
        self.agents = list(policies)
        groups = alike_agents(policies) if stacked else []
        self.stacks = [NetworkStack({agent: policies[agent] for agent in agents}) for agents in groups]
        self._watched = False

    def refresh(self) -> None:
        """Notice parameters that were replaced or fixed, and hooks that watch the networks, before networks are used."""
        if self.stacks:
            self._watched = any(map(is_watched, self.policies.values())) or not all(one.is_intact for one in self.stacks)
            for stack in self._usable:
                stack.refresh()

    @property
    def _usable(self) -> list[NetworkStack]:
        return [] if self._watched else self.stacks

    def values(self, observations: Mapping[str, Any]) -> Values:
        """
        Values of all actions.

        :param observations: agent -> tensor (B, \\*shape), or a dict of such
        :return: agent -> (B, n_actions)
        """
        values: Values = {}
        for stack in self._usable:
            values |= zip(stack.agents, stack.values(stack.features(observations)).unbind(), strict=True)
        return self._complete(values, lambda agent: self.policies[agent].q_net(observations[agent]))

    def target_values(self, observations: Mapping[str, Any]) -> Values:
        """Values of all actions by the target networks; see :meth:`values`."""
        values: Values = {}
        for stack in self._usable:
            values |= zip(stack.agents, stack.target_values(stack.features(observations)).unbind(), strict=True)
        return self._complete(values, lambda agent: self.policies[agent].q_net_target(observations[agent]))

    def both_values(self, observations: Mapping[str, Any]) -> tuple[Values, Values]:
        """Values of all actions by the networks and by the targets, without gradient; see :meth:`values`."""
        values: Values = {}
        targets: Values = {}
        with th.no_grad():
            for stack in self._usable:
                by_networks, by_targets = stack.both_values(stack.features(observations))
                values |= zip(stack.agents, by_networks.unbind(), strict=True)
                targets |= zip(stack.agents, by_targets.unbind(), strict=True)
            return (
                self._complete(values, lambda agent: self.policies[agent].q_net(observations[agent])),
                self._complete(targets, lambda agent: self.policies[agent].q_net_target(observations[agent])),
            )

    def hidden_and_values(
        self, observations: Mapping[str, Any], target: bool = False
    ) -> dict[str, tuple[th.Tensor, th.Tensor]]:
        """
        Last hidden layers, and values of all actions; without a hidden layer the features of the observations.

        :param observations: agent -> tensor (B, \\*shape), or a dict of such
        :param target: whether by the target networks
        :return: agent -> (B, width) and (B, n_actions)
        """
        outputs: dict[str, tuple[th.Tensor, th.Tensor]] = {}
        for stack in self._usable:
            hidden, values = stack.hidden_and_values(stack.features(observations), target)
            outputs |= zip(stack.agents, zip(hidden.unbind(), values.unbind(), strict=True), strict=True)
        for agent in set(self.agents) - set(outputs):
            policy = self.policies[agent]
            outputs[agent] = _hidden_and_values(policy.q_net_target if target else policy.q_net, observations[agent])
        return {agent: outputs[agent] for agent in self.agents}

    def _complete(self, values: Values, value_of: Callable[[str], th.Tensor]) -> Values:
        """Values of all agents in their order, those of agents outside of stacks by a function."""
        return {agent: values[agent] if agent in values else value_of(agent) for agent in self.agents}

    def start_gradients(self) -> None:
        """Forget the gradients of the last step, before a backward pass."""
        for stack in self.stacks:
            stack.start_gradients()

    def share_gradients(self) -> None:
        """Give all parameters their gradients, after a backward pass."""
        for stack in self.stacks:
            stack.share_gradients()

    def follow(self, tau: float) -> None:
        """Move the targets towards the networks; running statistics of batch normalisation are copied."""
        for stack in self._usable:
            stack.follow(tau)
        stacked = {agent for stack in self._usable for agent in stack.agents}
        for agent, pair in zip(self.agents, self.target_pairs(), strict=True):
            if agent not in stacked:
                polyak_update(*pair, tau)
        for policy in self.policies.values():
            own, following = (get_parameters_by_name(net, ["running_"]) for net in (policy.q_net, policy.q_net_target))
            polyak_update(own, following, 1.0)

    def target_pairs(self) -> list[tuple[list[th.Tensor], list[th.Tensor]]]:
        """:return: parameters and those of the target that follows them, agent by agent"""
        return [(list(policy.q_net.parameters()), list(policy.q_net_target.parameters())) for policy in self.policies.values()]

    def parameters(self) -> list[th.nn.Parameter]:
        """:return: parameters that are trained, agent by agent"""
        return [parameter for policy in self.policies.values() for parameter in policy.q_net.parameters()]

    def set_training_mode(self, mode: bool) -> None:
        """Put the networks into training or evaluation mode; targets stay in evaluation mode."""
        for policy in self.policies.values():
            policy.set_training_mode(mode)


def _hidden_and_values(network: QNetwork, observations: Any) -> tuple[th.Tensor, th.Tensor]:
    hidden = network.q_net[:-1](network.extract_features(observations, network.features_extractor))
    return hidden, network.q_net[-1](hidden)


def legal_values(values: th.Tensor, mask: th.Tensor | None) -> th.Tensor:
    """
    Values with those of illegal actions set to minus infinity.

    :param values: (B, n_actions)
    :param mask: bool (B, n_actions), or ``None`` if all actions are legal
    """
    return values if mask is None else values.masked_fill(~mask, -th.inf)


def greedy_actions(values: Mapping[str, th.Tensor], masks: Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
    """
    Legal actions of the largest value.

    :param values: agent -> (B, n_actions)
    :param masks: agent -> bool (B, n_actions); all actions of other agents are legal
    :return: agent -> int64 (B,)
    """
    return {agent: legal_values(q, masks.get(agent)).argmax(dim=1) for agent, q in values.items()}


def chosen_values(values: Mapping[str, th.Tensor], actions: Mapping[str, th.Tensor]) -> th.Tensor:
    """
    Values of actions.

    :param values: agent -> (B, n_actions)
    :param actions: agent -> int64 (B,)
    :return: (B, n), in the agents' order
    """
    return th.cat([th.gather(q, 1, actions[agent].unsqueeze(1)) for agent, q in values.items()], dim=1)


def network_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """
    :param space: observation space of an agent
    :return: the space as SB3's networks see it: images have their channels first
    """
    if isinstance(space, spaces.Dict):  # pairs, because gymnasium sorts a plain dict
        return spaces.Dict([(key, network_space(entry)) for key, entry in space.spaces.items()])
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space


def fast_options(optimizer_class: type[th.optim.Optimizer], given: Mapping[str, Any]) -> dict[str, bool]:
    """
    Options with which an optimiser treats all parameters in few operations, equal up to rounding.

    :param optimizer_class: class of the optimiser
    :param given: its other options
    :return: ``fused`` or ``foreach``, where the class has it and the user has not chosen
    """
    if {"fused", "foreach", "capturable", "differentiable"} & set(given):
        return {}
    known = inspect.signature(optimizer_class).parameters
    return next(({name: True} for name in ("fused", "foreach") if name in known), {})
