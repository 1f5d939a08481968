"""Values of many actions per observation equal the critics' own, one agent at a time and several together."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from torch import nn

from sb3_matrl.off_policy.action_values import ActionValues, alike_critics
from sb3_matrl.off_policy.agent_networks import build_critic


def box(size: int) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (size,))


def critic(observation: spaces.Space[Any], actions: int = 2, policy: str = "MlpPolicy", **kwargs: Any) -> ContinuousCritic:
    kwargs = {"net_arch": [16, 8], **kwargs}
    return build_critic(policy, observation, box(actions), kwargs, "cpu").critic


def own_values(one: ContinuousCritic, observations: Any, actions: th.Tensor) -> th.Tensor:
    """Values (B, n) by the critic itself, sample by sample."""
    with th.no_grad():
        return th.cat([one.q1_forward(observations, actions[:, k]) for k in range(actions.shape[1])], dim=1)


@pytest.mark.parametrize("actions", [1, 2])
@pytest.mark.parametrize("kwargs", [{}, {"net_arch": []}, {"net_arch": [8], "activation_fn": nn.LeakyReLU}])
def test_values_equal_the_critics(kwargs: dict[str, Any], actions: int) -> None:
    th.manual_seed(0)
    critics = [critic(box(size), actions, **kwargs) for size in (5, 3, 5)]
    observations, taken = [th.randn(7, size) for size in (5, 3, 5)], th.rand(3, 7, 4, actions) * 2 - 1
    values = ActionValues(critics, observations)(taken)
    for k, one in enumerate(critics):
        expected = own_values(one, observations[k], taken[k]).numpy()
        assert values[k].numpy() == pytest.approx(expected, abs=1e-6)
        alone = ActionValues([one], [observations[k]])(taken[k : k + 1])[0]
        assert alone.numpy() == pytest.approx(expected, abs=1e-6)


def test_observations_pass_through_the_features_extractor() -> None:
    space = spaces.Dict({"position": box(3), "kind": spaces.Discrete(4)})
    one = critic(space, policy="MultiInputPolicy")
    observations = {"position": th.randn(6, 3), "kind": th.randint(4, (6,))}
    actions = th.rand(1, 6, 5, 2)
    values = ActionValues([one], [observations])(actions)[0]
    assert values.numpy() == pytest.approx(own_values(one, observations, actions[0]).numpy(), abs=1e-6)


def test_critics_are_alike_if_all_their_layers_are() -> None:
    critics = {
        "a": critic(box(5)),
        "longer action": critic(box(5), actions=3),
        "b": critic(box(5)),
        "other features": critic(box(4)),
        "wider": critic(box(5), net_arch=[16, 9]),
        "leaky": critic(box(5), activation_fn=nn.LeakyReLU),
        "other features and action": critic(box(4), actions=3),
        "learned activation": critic(box(5), activation_fn=nn.PReLU),
        "learned activation too": critic(box(5), activation_fn=nn.PReLU),
        "other shape": critic(spaces.Box(-1.0, 1.0, (2, 3))),
    }
    groups = alike_critics(critics)
    assert groups[:2] == [["a", "b", "other features", "other shape"], ["longer action", "other features and action"]]
    assert sorted(len(group) for group in groups[2:]) == [1] * 4
