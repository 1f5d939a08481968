"""Spaces and policies: what SB3's learners can train is trained, anything else is named in the constructor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn

from sb3_matrl import MATRL
from tests.vec_env import toys

VECTOR, CHOICE = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "seed": 0, "device": "cpu"}


def play(observation: Any, action: Any) -> Callable[[], toys.ToyEnv]:
    agents = ("x", "y")
    return lambda: toys.ToyEnv(
        dict.fromkeys(agents, observation), dict.fromkeys(agents, action), dict.fromkeys(agents, (5, "truncated"))
    )


class Alone(gymnasium.Env):  # type: ignore[type-arg]
    """The same spaces for SB3's own algorithm."""

    def __init__(self, observation: Any, action: Any) -> None:
        self.observation_space, self.action_space = observation, action
        self.generator = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return toys.draw(self.observation_space, self.generator), {}

    def step(self, action: Any) -> Any:
        return toys.draw(self.observation_space, self.generator), 1.0, False, False, {}


TRAINED: dict[str, tuple[Any, ...]] = {
    "int64 actions": (VECTOR, spaces.Box(-3, 10, (2,), np.int64)),
    "uint8 actions": (VECTOR, spaces.Box(0, 255, (2,), np.uint8)),
    "bool actions": (VECTOR, spaces.Box(0, 1, (2,), np.bool_)),
    "float64 actions": (VECTOR, spaces.Box(-1, 1, (2,), np.float64)),
    "actions of two axes": (VECTOR, spaces.Box(-1, 1, (2, 2), np.float32)),
    "action of shape ()": (VECTOR, spaces.Box(-1, 1, (), np.float32)),
    "one action": (VECTOR, spaces.Discrete(1)),
    "one choice": (VECTOR, spaces.MultiDiscrete([3])),
    "float64": (spaces.Box(-1, 1, (3,), np.float64), CHOICE),
    "int32": (spaces.Box(-5, 5, (3,), np.int32), CHOICE),
    "unbounded": (spaces.Box(-np.inf, np.inf, (3,), np.float32), CHOICE),
    "four axes": (spaces.Box(-1, 1, (2, 3, 2, 2), np.float32), CHOICE),
    "bits of two axes": (spaces.MultiBinary((2, 2)), CHOICE),
    "choices": (spaces.MultiDiscrete([2, 3]), CHOICE),
    "image": (IMAGE, CHOICE, "CnnPolicy"),
    "small image": (spaces.Box(0, 255, (8, 8, 3), np.uint8), CHOICE),
    "image and more": (spaces.Dict(i=IMAGE, v=VECTOR, d=CHOICE, m=spaces.MultiDiscrete([2, 3])), CHOICE, "MultiInputPolicy"),
}
NAMED: dict[str, tuple[Any, ...]] = {
    "shape ()": (spaces.Box(0, 1, (), np.float32), CHOICE),
    "shape () in a Dict": (spaces.Dict(v=VECTOR, s=spaces.Box(0, 1, (), np.float32)), CHOICE, "MultiInputPolicy"),
    "no elements": (spaces.Box(0, 1, (0,), np.float32), CHOICE),
    "choices of two axes": (spaces.MultiDiscrete([[2, 3], [2, 3]]), CHOICE),
    "actions with two axes of choices": (VECTOR, spaces.MultiDiscrete([[2, 3], [2, 3]])),
    "actions with two axes of bits": (VECTOR, spaces.MultiBinary((2, 2))),
    "unbounded actions": (VECTOR, spaces.Box(0, np.inf, (2,), np.float32)),
    "no actions": (VECTOR, spaces.Box(-1, 1, (0,), np.float32)),
    "too small an image": (spaces.Box(0, 255, (8, 8, 3), np.uint8), CHOICE, "CnnPolicy"),
    "no image": (VECTOR, CHOICE, "CnnPolicy"),
    "images of two layouts": (
        spaces.Dict(i=IMAGE, j=spaces.Box(0, 255, (3, 36, 36), np.uint8)),
        CHOICE,
        "MultiInputPolicy",
    ),
    "a Dict for MlpPolicy": (spaces.Dict(v=VECTOR), CHOICE),
}


@pytest.mark.parametrize("case", TRAINED)
def test_what_sb3_trains_is_trained(case: str) -> None:
    observation, action, policy = (*TRAINED[case], "MlpPolicy")[:3]
    PPO(policy, Alone(observation, action), **SMALL).learn(8)
    model = MATRL(policy, play(observation, action), **SMALL).learn(8)  # the env asserts that actions are in their space
    played = model.predict({"x": toys.draw(observation, np.random.default_rng(0))})[0]["x"]
    assert action.contains(np.asarray(played).astype(action.dtype))
    assert (played.dtype.kind == "f") == (np.dtype(action.dtype).kind == "f")


def test_an_entry_without_elements_is_named() -> None:
    with pytest.raises(ValueError, match=r"agent 'x': SB3 cannot use the observation space Box\(.*, which has no elements"):
        MATRL("MultiInputPolicy", play(spaces.Dict(v=VECTOR, z=spaces.Box(0, 1, (0,), np.float32)), CHOICE), **SMALL)


@pytest.mark.parametrize("case", NAMED)
def test_what_sb3_cannot_train_names_agent_and_space(case: str) -> None:
    observation, action, policy = (*NAMED[case], "MlpPolicy")[:3]
    with pytest.raises((AssertionError, RuntimeError, TypeError, ValueError, IndexError)):
        PPO(policy, Alone(observation, action), **SMALL).learn(8)
    with pytest.raises(ValueError, match=r"^agent 'x': .*(Box|MultiDiscrete|MultiBinary|Dict)\("):
        MATRL(policy, play(observation, action), **SMALL)


class Normed(FlattenExtractor):
    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.norm = nn.BatchNorm1d(self.features_dim)
        self.drop = nn.Dropout(0.5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.drop(self.norm(super().forward(observations)))


def test_batch_norm_trains_and_the_trial_leaves_it_alone() -> None:
    changes: dict[str, Any] = {"policy_kwargs": {"features_extractor_class": Normed}}
    model = MATRL("MlpPolicy", play(VECTOR, CHOICE), **SMALL | changes)
    norm: Any = model.agents["x"].policy.features_extractor.norm
    assert model.agents["x"].policy.training and norm.num_batches_tracked == 0
    model.learn(16)
    assert norm.num_batches_tracked > 0


class Wide(BaseFeaturesExtractor):
    """Promises three features and gives four."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.cat([observations, observations[:, :1]], dim=1)


@pytest.mark.parametrize("option", ["batch_first", "bidirectional"])
def test_options_of_lstms_that_do_not_fit_are_named(option: str) -> None:
    options: dict[str, Any] = {"learner_class": RecurrentPPO, "policy_kwargs": {"lstm_kwargs": {option: True}}}
    with pytest.raises(ValueError, match=r"agent 'x': .*Expected hidden.*or other policy_kwargs"):
        MATRL("MlpLstmPolicy", play(VECTOR, CHOICE), **SMALL, **options)


@pytest.mark.parametrize("policy", [None, object, PPO])
def test_a_policy_that_is_none_is_named(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"agent 'x': policy must be one of MlpPolicy, .* or a class of SB3's policies, got"):
        MATRL(policy, play(VECTOR, CHOICE), **SMALL)


def test_an_extractor_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"agent 'x': ActorCriticPolicy fails on the observation space Box\(.*RuntimeError"):
        MATRL("MlpPolicy", play(VECTOR, CHOICE), **SMALL, policy_kwargs={"features_extractor_class": Wide})


@pytest.mark.parametrize("learner_class", [PPO, RecurrentPPO, MaskablePPO])
def test_the_trial_draws_no_random_numbers(learner_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = "MlpLstmPolicy" if learner_class is RecurrentPPO else "MlpPolicy"
    tried = []

    def build() -> tuple[list[th.Tensor], th.Tensor, Any]:
        model = MATRL(policy, play(VECTOR, CHOICE), learner_class=learner_class, **SMALL)
        parameters = [value.clone() for learner in model.learners.values() for value in learner.policy.state_dict().values()]
        return parameters, th.rand(3), np.random.random(3)

    checked = build()
    monkeypatch.setattr("sb3_matrl.on_policy.learners.check_trial", lambda *given: tried.append(given))
    unchecked = build()
    assert len(tried) == 2
    for one, other in zip(checked, unchecked, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
