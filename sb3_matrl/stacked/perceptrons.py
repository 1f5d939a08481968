"""Which policies can be stacked, and their layers: SB3's actor and critic of fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

# Activations f with f(0) = 0, so that units that only fill up a stack stay at zero.
ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.Tanh, nn.ReLU, nn.LeakyReLU)
_POLICIES: dict[type, type] = {PPO: ActorCriticPolicy, MaskablePPO: MaskableActorCriticPolicy}
_PLAIN_ADAM = {"weight_decay": 0, "amsgrad": False, "maximize": False, "capturable": False, "differentiable": False}


@dataclass(frozen=True)
class Perceptron:
    """
    Sizes of a learner's two networks, the actor and the critic.

    :param inputs: number of features of an observation, which the actor sees
    :param critic_inputs: number of elements that the critic sees: the same features, or a state
    :param actor: widths of the actor's hidden layers
    :param critic: widths of the critic's hidden layers, as many
    :param outputs: sizes of the actor's output: one per choice of Discrete and MultiDiscrete actions, or a Box's dimensions
    :param activation: name of the activation function: tanh, relu or leaky_relu
    :param slope: slope of leaky_relu below zero
    :param discrete: whether the outputs are logits; otherwise they are means of Gaussians
    :param dtype: type of the parameters
    """

    inputs: int
    critic_inputs: int
    actor: tuple[int, ...]
    critic: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str
    slope: float
    discrete: bool
    dtype: th.dtype

    @property
    def hidden(self) -> tuple[int, ...]:
        """Width of each hidden layer in the stack: the larger of actor and critic."""
        return tuple(map(max, self.actor, self.critic))


def obstacle(learner: OnPolicyAlgorithm) -> str | None:
    """
    Reason why a learner cannot be stacked.

    :param learner: on-policy learner with its rollout buffer
    :return: the reason, or ``None`` if it can be
    """
    kind, policy = type(learner), learner.policy
    if kind not in _POLICIES:
        return f"{kind.__name__} is not stacked, only PPO and MaskablePPO are"
    if network_class(policy) is not _POLICIES[kind]:
        return f"its policy is a {type(policy).__name__}, only MlpPolicy is stacked"
    return _network_obstacle(policy) or _optimizer_obstacle(policy) or temporary_obstacle(learner)


def network_class(policy: Any) -> type:
    """
    SB3's class with the networks of a policy.

    :param policy: policy of a learner
    :return: the class that its own class, and no base class, names as ``counterpart``, because its networks are those of that
        class but for the inputs of the critic, ``state_size`` of them; its own class otherwise
    """
    found: type = vars(type(policy)).get("counterpart", type(policy))
    return found


def _network_obstacle(policy: Any) -> str | None:
    space = policy.action_space
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)):
        return f"its actions are {type(space).__name__}"
    if getattr(policy, "use_sde", False) or policy.squash_output:
        return "its exploration depends on the state (use_sde)"
    if type(policy.features_extractor) is not FlattenExtractor or type(policy.mlp_extractor) is not MlpExtractor:
        return f"its features come from a {type(policy.features_extractor).__name__}"
    actor, critic = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    kinds = {type(layer) for layer in (*actor, *critic)} - {nn.Linear}
    if not kinds <= set(ACTIVATIONS) or len(kinds) > 1:
        return f"its activation function is {', '.join(sorted(kind.__name__ for kind in kinds))}"
    if len(actor) != len(critic):
        return "its actor and critic have different numbers of layers"
    if any(not parameter.requires_grad for parameter in policy.parameters()):
        return "some of its parameters are fixed"
    return None


def _optimizer_obstacle(policy: Any) -> str | None:
    optimizer = policy.optimizer
    if type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) != 1:
        return f"its optimiser is {type(optimizer).__name__}, only Adam with one group of parameters is stacked"
    (group,) = optimizer.param_groups
    unlike = [name for name, value in _PLAIN_ADAM.items() if group.get(name, value) != value]
    return f"its optimiser has {', '.join(unlike)}" if unlike else None


def temporary_obstacle(learner: OnPolicyAlgorithm) -> str | None:
    """
    Reason why a learner that can be stacked cannot be at present: its update was replaced, or hooks watch its networks.

    :param learner: on-policy learner
    """
    if "train" in vars(learner):
        return "its train() was replaced"
    policy: nn.Module = learner.policy
    hooked = any(parameter._backward_hooks for parameter in policy.parameters())
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooked = hooked or any(getattr(module, name) for module in policy.modules() for name in names)
    return "hooks watch its networks" if hooked else None


def describe_perceptron(policy: Any) -> Perceptron:
    """
    Sizes of a policy that can be stacked.

    :param policy: SB3's ``MlpPolicy``
    """
    actor, critic = (_linear_layers(net) for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net))
    activations = [layer for layer in policy.mlp_extractor.policy_net if not isinstance(layer, nn.Linear)]
    space = policy.action_space
    if isinstance(space, spaces.Discrete):
        outputs: tuple[int, ...] = (int(space.n),)
    elif isinstance(space, spaces.MultiDiscrete):
        outputs = tuple(space.nvec.reshape(-1).tolist())
    else:
        outputs = (int(np.prod(space.shape)),)
    return Perceptron(
        inputs=policy.features_extractor.features_dim,
        critic_inputs=getattr(policy, "state_size", policy.features_extractor.features_dim),
        actor=tuple(layer.out_features for layer in actor),
        critic=tuple(layer.out_features for layer in critic),
        outputs=outputs,
        activation=_NAMES[type(activations[0])] if activations else "tanh",
        slope=float(getattr(activations[0], "negative_slope", 0.0)) if activations else 0.0,
        discrete=not isinstance(space, spaces.Box),
        dtype=policy.action_net.weight.dtype,
    )


def features_of(policy: Any, observations: Any) -> th.Tensor:
    """
    Features of actor and critic, which are the same: the extractors of a policy that can be stacked only flatten.

    :param policy: policy that can be stacked
    :param observations: (B, ...), as the policy takes them
    :return: (B, n_features)
    """
    prepared = preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
    features: th.Tensor = policy.features_extractor(prepared)
    return features


_NAMES: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu"}


def _linear_layers(net: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in net if isinstance(layer, nn.Linear)]


def layers_of(policy: Any) -> tuple[list[nn.Linear], list[nn.Linear]]:
    """
    The actor's and the critic's layers, from the features to the outputs.

    :param policy: policy that can be stacked
    """
    actor, critic = (_linear_layers(net) for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net))
    return [*actor, policy.action_net], [*critic, policy.value_net]
