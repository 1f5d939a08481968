"""Critics that see the state and the actions of all agents (Lowe et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional


def action_size(space: spaces.Space[Any]) -> int:
    """
    Numbers that stand for an action in a critic's input.

    :param space: Box or Discrete
    :return: size of the action of a Box, number of actions of a Discrete
    """
    return int(space.n) if isinstance(space, spaces.Discrete) else get_action_dim(space)


def encoded_action(space: spaces.Space[Any], actions: th.Tensor) -> th.Tensor:
    """
    Actions of one agent as a critic sees them.

    :param space: Box or Discrete
    :param actions: (B, size) scaled to [-1, 1], or int64 (B,)
    :return: the same, or one-hot float32 (B, n)
    """
    if isinstance(space, spaces.Discrete):
        return functional.one_hot(actions, int(space.n)).float()
    return actions


def joint_action(parts: Mapping[str, th.Tensor], alive: th.Tensor) -> th.Tensor:
    """
    Actions of all agents as one row, with zeros for agents that are not alive.

    :param parts: agent -> (B, size), in the order of the columns of ``alive``
    :param alive: bool (B, n)
    :return: (B, sum of the sizes)
    """
    rows = [part.masked_fill(~alive[:, i, None], 0.0) for i, part in enumerate(parts.values())]
    return th.cat(rows, dim=1)


class CentralCritic(nn.Module):
    """
    Action value of one agent, given the state and all agents' actions; otherwise like SB3's ``ContinuousCritic``.

    :param input_size: size of the state plus those of all actions
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation between layers
    """

    def __init__(self, input_size: int, net_arch: Sequence[int], activation_fn: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.qf0 = nn.Sequential(*create_mlp(input_size, 1, list(net_arch), activation_fn))
        self.q_networks = [self.qf0]

    def forward(self, states: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param states: (B, s)
        :param actions: (B, sum of the action sizes), see :func:`joint_action`
        :return: (B, 1)
        """
        values: th.Tensor = self.qf0(th.cat([states, actions], dim=1))
        return values

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the critic in training or evaluation mode, as SB3's networks.

        :param mode: True for training mode
        """
        self.train(mode)
