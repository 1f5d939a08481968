"""The agents' utilities Q_i(o_i, .): SB3's Q-networks and their targets, for all agents together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.common.vec_env import VecTransposeImage
from stable_baselines3.dqn.policies import DQNPolicy

# agent -> (B, n_actions)
Values = dict[str, th.Tensor]


class Utilities:
    """
    Q-networks of all agents and their targets.

    :param policies: agent -> SB3's ``DQNPolicy`` with the agent's networks
    """

    def __init__(self, policies: Mapping[str, DQNPolicy]) -> None:
        self.policies = dict(policies)
        self.agents = list(policies)

    def values(self, observations: Mapping[str, Any]) -> Values:
        """
        Values of all actions.

        :param observations: agent -> tensor (B, \\*shape), or a dict of such
        :return: agent -> (B, n_actions)
        """
        return {agent: policy.q_net(observations[agent]) for agent, policy in self.policies.items()}

    def target_values(self, observations: Mapping[str, Any]) -> Values:
        """Values of all actions by the target networks; see :meth:`values`."""
        return {agent: policy.q_net_target(observations[agent]) for agent, policy in self.policies.items()}

    def parameters(self) -> list[th.nn.Parameter]:
        """:return: parameters that are trained, agent by agent"""
        return [parameter for policy in self.policies.values() for parameter in policy.q_net.parameters()]

    def target_pairs(self) -> list[tuple[list[th.Tensor], list[th.Tensor]]]:
        """:return: parameters and those of the target that follows them, agent by agent"""
        return [(list(policy.q_net.parameters()), list(policy.q_net_target.parameters())) for policy in self.policies.values()]

    def statistics_pairs(self) -> list[tuple[list[th.Tensor], list[th.Tensor]]]:
        """:return: running statistics of batch normalisation and those of the target, agent by agent"""
        return [
            (get_parameters_by_name(policy.q_net, ["running_"]), get_parameters_by_name(policy.q_net_target, ["running_"]))
            for policy in self.policies.values()
        ]

    def set_training_mode(self, mode: bool) -> None:
        """Put the networks into training or evaluation mode; targets stay in evaluation mode."""
        for policy in self.policies.values():
            policy.set_training_mode(mode)


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
