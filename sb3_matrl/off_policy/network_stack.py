"""Alike Q-networks of several agents and their targets: one tensor per layer, so that all are evaluated at once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

# Activation functions that treat every number alike.
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Identity)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def alike_agents(policies: Mapping[str, DQNPolicy]) -> list[list[str]]:
    """
    Groups of two or more agents whose networks have the same layers.

    :param policies: agent -> SB3's ``DQNPolicy``
    :return: groups of agents, each in the given order; agents that are like no other are left out
    """
    groups: dict[Hashable, list[str]] = {}
    for agent, policy in policies.items():
        kind = _kind(policy)
        if kind is not None:
            groups.setdefault(kind, []).append(agent)
    return [agents for agents in groups.values() if len(agents) > 1]


def _kind(policy: DQNPolicy) -> Hashable | None:
    """What alike networks have in common; ``None`` for networks that cannot be evaluated together with others."""
    network = policy.q_net
    if type(network) is not QNetwork or type(network.features_extractor) is not FlattenExtractor:
        return None
    layers = list(network.q_net)
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if any(type(layer) not in (nn.Linear, *_ACTIVATIONS) for layer in layers) or any(one.bias is None for one in linear):
        return None
    parameters = list(network.parameters())
    if not all(one.requires_grad for one in parameters):
        return None
    return (*map(repr, layers), parameters[0].dtype, parameters[0].device)


def is_watched(policy: DQNPolicy) -> bool:
    """Whether hooks watch the agent's networks, which only SB3's own code calls."""
    for network in (policy.q_net, policy.q_net_target):
        if any(parameter._backward_hooks for parameter in network.parameters()):
            return True
        if any(getattr(module, name) for module in network.modules() for name in _HOOKS):
            return True
    return False


class _Layer:
    """
    A linear layer of all networks; the networks' own parameters become views of it.

    :param layers: layers of the networks, and those of their targets
    """

    def __init__(self, layers: tuple[Sequence[nn.Linear], Sequence[nn.Linear]]) -> None:
        self.layers = layers
        with th.no_grad():
            self.all_weights = th.stack([th.stack([layer.weight for layer in side]) for side in layers])
            self.all_biases = th.stack([th.stack([layer.bias for layer in side]) for side in layers]).unsqueeze(2)
        # Leaves that share the memory of the networks, but not of the targets.
        self.weights = self.all_weights[0].detach().requires_grad_()
        self.biases = self.all_biases[0].detach().requires_grad_()
        self._views = [
            (layer, name, values[s, i] if name == "weight" else values[s, i, 0])
            for name, values in (("weight", self.all_weights), ("bias", self.all_biases))
            for s, side in enumerate(layers)
            for i, layer in enumerate(side)
        ]
        self.adopt()

    def __reduce__(self) -> Any:
        # After pickle, views of a tensor no longer share its memory.
        return _Layer, (self.layers,)

    def adopt(self) -> None:
        """Let the networks' parameters be views; the numbers of parameters that are none are copied first."""
        for layer, name, view in self._views:
            parameter = getattr(layer, name)
            if parameter.data_ptr() != view.data_ptr():
                view.copy_(parameter.data)
                parameter.data = view

    def start_gradients(self) -> None:
        self.weights.grad = self.biases.grad = None

    def share_gradients(self) -> None:
        """Add the gradients to those of the networks' own parameters."""
        for i, layer in enumerate(self.layers[0]):
            for parameter, grads in ((layer.weight, self.weights.grad), (layer.bias, self.biases.grad)):
                if grads is not None:
                    own = grads[i].view(parameter.shape)
                    parameter.grad = own if parameter.grad is None else parameter.grad + own


class NetworkStack:
    """
    Alike networks of n agents.

    The policies keep working: their parameters are views of the stack's, and their gradients are those of the stack.

    :param policies: agent -> policy; alike, see :func:`alike_agents`
    """

    def __init__(self, policies: Mapping[str, DQNPolicy]) -> None:
        self.agents = list(policies)
        self.policies = list(policies.values())
        sides = [[policy.q_net for policy in self.policies], [policy.q_net_target for policy in self.policies]]
        linear = [[[one for one in net.q_net if isinstance(one, nn.Linear)] for net in side] for side in sides]
        self.layers = [
            _Layer((online, target)) for online, target in zip(*(zip(*side, strict=True) for side in linear), strict=True)
        ]
        self._steps = [None if isinstance(one, nn.Linear) else one for one in sides[0][0].q_net]
        self._plain = [_is_plain(policy.observation_space) for policy in self.policies]

    @property
    def is_intact(self) -> bool:
        """Whether the policies still have the layers that the stack knows, in its dtype, and all are trained."""
        dtype = self.layers[0].weights.dtype
        for side, name in enumerate(("q_net", "q_net_target")):
            for i, policy in enumerate(self.policies):
                present = [one for one in getattr(policy, name).q_net if isinstance(one, nn.Linear)]
                if len(present) != len(self.layers):
                    return False
                for one, layer in zip(present, self.layers, strict=True):
                    weight, bias = one.weight, one.bias
                    trained = side == 1 or (weight.requires_grad and bias.requires_grad)
                    if one is not layer.layers[side][i] or not trained or weight.dtype != dtype or bias.dtype != dtype:
                        return False
        return True

    def refresh(self) -> None:
        """Take over the numbers of parameters that were replaced from outside."""
        for layer in self.layers:
            layer.adopt()

    def features(self, observations: Mapping[str, Any]) -> th.Tensor:
        """
        Inputs of the networks.

        :param observations: agent -> (B, \\*shape)
        :return: (n, B, features)
        """
        return th.stack(
            [
                observations[agent].flatten(1).to(policy.q_net.q_net[0].weight.dtype)
                if plain
                else policy.q_net.extract_features(observations[agent], policy.q_net.features_extractor)
                for agent, policy, plain in zip(self.agents, self.policies, self._plain, strict=True)
            ]
        )

    def values(self, features: th.Tensor) -> th.Tensor:
        """
        Values of all actions by the networks.

        :param features: (n, B, features)
        :return: (n, B, n_actions)
        """
        return self._forward(features, [(layer.weights, layer.biases) for layer in self.layers])

    def target_values(self, features: th.Tensor) -> th.Tensor:
        """Values by the target networks, without gradient; see :meth:`values`."""
        with th.no_grad():
            return self._forward(features, [(layer.all_weights[1], layer.all_biases[1]) for layer in self.layers])

    def both_values(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Values by the networks and by the targets, without gradient; see :meth:`values`."""
        with th.no_grad():
            layers = [(layer.all_weights.flatten(0, 1), layer.all_biases.flatten(0, 1)) for layer in self.layers]
            values = self._forward(th.cat([features, features]), layers)
        return values[: len(self.agents)], values[len(self.agents) :]

    def hidden_and_values(self, features: th.Tensor, target: bool = False) -> tuple[th.Tensor, th.Tensor]:
        """
        Last hidden layers and values of all actions.

        :param features: (n, B, features)
        :param target: whether by the target networks, without gradient
        :return: (n, B, width) and (n, B, n_actions)
        """
        layers = [(layer.weights, layer.biases) for layer in self.layers]
        if target:
            layers = [(layer.all_weights[1], layer.all_biases[1]) for layer in self.layers]
        hidden = self._forward(features, layers[:-1], self._steps[:-1])
        return hidden, self._forward(hidden, layers[-1:], self._steps[-1:])

    def _forward(
        self,
        values: th.Tensor,
        layers: Sequence[tuple[th.Tensor, th.Tensor]],
        steps: Sequence[nn.Module | None] | None = None,
    ) -> th.Tensor:
        """Outputs of some of the networks' steps, all by default; a step is an activation function, or the next layer."""
        remaining = iter(layers)
        for activation in self._steps if steps is None else steps:
            if activation is None:
                weights, biases = next(remaining)
                values = th.baddbmm(biases, values, weights.transpose(1, 2))
            else:
                values = activation(values)
        return values

    def start_gradients(self) -> None:
        """Forget the gradients of the last step."""
        for layer in self.layers:
            layer.start_gradients()

    def share_gradients(self) -> None:
        """Give the policies' parameters their gradients, after a backward pass."""
        for layer in self.layers:
            layer.share_gradients()

    def follow(self, tau: float) -> None:
        """Move the targets towards the networks, as SB3's ``polyak_update``."""
        with th.no_grad():
            for layer in self.layers:
                for values in (layer.all_weights, layer.all_biases):
                    values[1].mul_(1.0 - tau).add_(values[0], alpha=tau)


def _is_plain(space: spaces.Space[Any]) -> bool:
    """Whether SB3's networks flatten observations and do nothing else."""
    return isinstance(space, spaces.Box) and not is_image_space(space)
