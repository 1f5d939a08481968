"""With one agent and one copy, IDDPG and MADDPG are SB3's DDPG, bit for bit."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_matrl.off_policy.deterministic_gradient import DeterministicGradient
from sb3_matrl.off_policy.iddpg import IDDPG
from sb3_matrl.off_policy.maddpg import MADDPG
from tests.worlds.gymnasium_as_parallel import AGENT, GymnasiumAsParallel

# The batch size is no power of two, for which dividing is exact.
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "buffer_size": 120,
    "learning_starts": 50,
    "batch_size": 13,
    "policy_kwargs": {"net_arch": [16, 12]},
    "seed": 3,
    "device": "cpu",
}
MADDPG_AS_DDPG: dict[str, Any] = {"state": "observations", "actor_reg": 0.0, "max_grad_norm": None}


def normal() -> NormalActionNoise:
    return NormalActionNoise(np.zeros(1), np.full(1, 0.3))


def wandering() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.5))


def ddpg(limit: int, **settings: Any) -> DDPG:
    env = gym.make("Pendulum-v1", max_episode_steps=limit)
    return DDPG("MlpPolicy", env, **{**SETTINGS, **settings})


def ours(algorithm: type[DeterministicGradient], limit: int, **settings: Any) -> DeterministicGradient:
    given = {**SETTINGS, **settings, **(MADDPG_AS_DDPG if algorithm is MADDPG else {})}
    env_kwargs = {"env_id": "Pendulum-v1", "max_episode_steps": limit}
    return algorithm("MlpPolicy", GymnasiumAsParallel, env_kwargs=env_kwargs, **given)


def assert_equal(model: DeterministicGradient, reference: DDPG) -> None:
    parts = model.get_parameters()[AGENT]
    theirs = reference.get_parameters()
    assert list(parts) == list(theirs)
    for (name, tensor), (other_name, other) in zip(parts["policy"].items(), theirs["policy"].items(), strict=True):
        assert name == other_name and th.equal(tensor, other), name
    for part in ("actor.optimizer", "critic.optimizer"):
        assert parts[part]["param_groups"] == theirs[part]["param_groups"]
        for key, state in theirs[part]["state"].items():
            assert all(th.equal(parts[part]["state"][key][name], value) for name, value in state.items())
    assert np.array_equal(model._last_obs[AGENT], reference._last_obs)
    names = ("num_timesteps", "_n_updates", "_episode_num", "_total_timesteps")
    assert [getattr(model, name) for name in names] == [getattr(reference, name) for name in names]
    assert [info["r"] for info in model.ep_info_buffer] == pytest.approx([info["r"] for info in reference.ep_info_buffer])


@pytest.mark.cases(quick=["None-15-MADDPG"], e2e=["wandering-15-MADDPG"], rest="expensive")
@pytest.mark.parametrize("algorithm", [IDDPG, MADDPG])
@pytest.mark.parametrize("limit", [100, 15])
@pytest.mark.parametrize("noise", [None, normal, wandering])
def test_one_agent_is_ddpg(algorithm: type[DeterministicGradient], limit: int, noise: Any) -> None:
    settings = {} if noise is None else {"action_noise": noise()}
    model = ours(algorithm, limit, **settings).learn(130)
    assert_equal(model, ddpg(limit, **({} if noise is None else {"action_noise": noise()})).learn(130))


@pytest.mark.cases(
    e2e=[
        "episodes-IDDPG",
        "steps-MADDPG",
        "no warm-up-MADDPG",
        "time limits are ends-IDDPG",
        "architectures-IDDPG",
        "optimiser-MADDPG",
        "schedule-IDDPG",
    ],
    rest="expensive",
)
@pytest.mark.parametrize("algorithm", [IDDPG, MADDPG])
@pytest.mark.parametrize(
    "settings",
    [
        {"train_freq": (2, "episode"), "gradient_steps": -1},
        {"train_freq": 3, "gradient_steps": 2, "tau": 0.3, "gamma": 0.9},
        {"learning_starts": 0},
        {"replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [9, 7]}, "activation_fn": th.nn.LeakyReLU}},
        {"policy_kwargs": {"net_arch": [8], "optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"eps": 1e-5}}},
        {"learning_rate": lambda progress: 1e-3 * progress},
    ],
    ids=["episodes", "steps", "no warm-up", "time limits are ends", "architectures", "optimiser", "schedule"],
)
def test_one_agent_with_other_settings_is_ddpg(algorithm: type[DeterministicGradient], settings: dict[str, Any]) -> None:
    assert_equal(ours(algorithm, 15, **settings).learn(90), ddpg(15, **settings).learn(90))


class LearnedFeatures(BaseFeaturesExtractor):
    """A features extractor with parameters, and with running statistics."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=5)
        self.layers = th.nn.Sequential(th.nn.Linear(3, 5), th.nn.BatchNorm1d(5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.layers(observations)
        return features


@pytest.mark.e2e
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {"n_critics": 2},
        {"features_extractor_class": LearnedFeatures},
        {"features_extractor_class": LearnedFeatures, "share_features_extractor": True},
    ],
    ids=["two critics", "learned features", "shared features"],
)
def test_one_independent_agent_with_other_critics_is_ddpg(policy_kwargs: dict[str, Any]) -> None:
    settings = {"policy_kwargs": {"net_arch": [8], **policy_kwargs}}
    assert_equal(ours(IDDPG, 15, **settings).learn(90), ddpg(15, **settings).learn(90))


@pytest.mark.e2e
@pytest.mark.parametrize("algorithm", [IDDPG, MADDPG])
@pytest.mark.parametrize("reset", [False, True])
def test_a_second_training_is_ddpgs(algorithm: type[DeterministicGradient], reset: bool) -> None:
    # One after the other, because both draw from the global generators.
    model = ours(algorithm, 15, action_noise=wandering()).learn(70).learn(40, reset_num_timesteps=reset)
    reference = ddpg(15, action_noise=wandering()).learn(70).learn(40, reset_num_timesteps=reset)
    assert_equal(model, reference)


@pytest.mark.e2e
def test_a_number_is_normal_noise() -> None:
    assert_equal(ours(IDDPG, 15, action_noise=0.3).learn(100), ddpg(15, action_noise=normal()).learn(100))


def test_predictions_are_ddpgs() -> None:
    model, reference = ours(IDDPG, 15).learn(80), ddpg(15).learn(80)
    observations = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    expected = reference.predict(observations, deterministic=True)[0]
    for actions in (
        model.predict({AGENT: observations}, deterministic=True)[0][AGENT],
        model.agents[AGENT].predict(observations)[0],
    ):
        assert np.array_equal(actions, expected)
