"""The central critic: its input, the dead, and equality with SB3's critic."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_matrl.off_policy.central_critic import CentralCritic, action_size, encoded_action, joint_action

SPACES = {"a": spaces.Discrete(3), "b": spaces.Box(-2.0, 2.0, (2,)), "c": spaces.Discrete(2, start=5)}


def test_actions_are_one_hot_or_as_they_are() -> None:
    assert [action_size(space) for space in SPACES.values()] == [3, 2, 2]
    assert encoded_action(SPACES["a"], th.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    scaled = th.tensor([[0.5, -1.0], [0.25, 0.0]])
    assert encoded_action(SPACES["b"], scaled) is scaled


def test_joint_action_is_zero_where_an_agent_is_not_alive() -> None:
    parts = {"a": th.tensor([[0.0, 1.0], [1.0, 0.0]]), "b": th.tensor([[np.nan], [0.5]])}
    alive = th.tensor([[True, False], [False, True]])
    assert joint_action(parts, alive).tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.5]]


def test_equals_sb3s_critic_with_one_network() -> None:
    space = spaces.Box(-1.0, 1.0, (4,))
    th.manual_seed(0)
    theirs = ContinuousCritic(space, spaces.Box(-1.0, 1.0, (3,)), [8, 6], FlattenExtractor(space), 4, n_critics=1)
    th.manual_seed(0)
    ours = CentralCritic(7, [8, 6])
    assert list(ours.state_dict()) == list(theirs.state_dict())
    states, actions = th.randn(5, 4), th.randn(5, 3)
    assert th.equal(ours(states, actions), theirs(states, actions)[0])
