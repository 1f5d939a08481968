"""One agent with both switches off is SB3's own algorithm, bit for bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_matrl import MATRL
from tests.cartpole import CartPoleParallelEnv

COMMON: dict[str, Any] = {"n_steps": 128, "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.9, "seed": 3, "device": "cpu"}


def single_agent(cls: type, n_envs: int, max_episode_steps: int | None, seeds: list[int], **kwargs: Any) -> Any:
    env = DummyVecEnv([lambda: gym.make("CartPole-v1", max_episode_steps=max_episode_steps)] * n_envs)
    model = cls("MlpPolicy", env, **kwargs)
    env._seeds = list(seeds)  # SB3 would take seed, seed + 1, ...
    return model


def assert_same_learner(ours: Any, theirs: Any) -> None:
    for name, value in theirs.policy.state_dict().items():
        assert th.equal(ours.policy.state_dict()[name], value), name
    for mine, reference in zip(
        ours.policy.optimizer.state_dict()["state"].values(),
        theirs.policy.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(th.equal(mine[key], reference[key]) for key in reference)


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("max_episode_steps", [None, 12])
def test_one_agent_equals_ppo_bit_for_bit(n_envs: int, max_episode_steps: int | None) -> None:
    # Truncation after 12 steps makes the bootstrap at time limits part of the comparison.
    kwargs = {**COMMON, "n_epochs": 4, "batch_size": 64, "ent_coef": 0.01}
    factory = partial(CartPoleParallelEnv, max_episode_steps)
    ours = MATRL("MlpPolicy", factory, n_envs=n_envs, metagame=False, best_response=False, **kwargs)
    seeds = list(ours.env._seeds)
    ours.learn(3 * 128 * n_envs)
    theirs = single_agent(PPO, n_envs, max_episode_steps, seeds, **kwargs)
    theirs.learn(3 * 128 * n_envs)

    assert_same_learner(ours.agents["agent_0"], theirs)
    assert ours.num_timesteps == theirs.num_timesteps
    np.testing.assert_array_equal(ours._last_obs["agent_0"], theirs._last_obs)


def test_one_copy_needs_no_care_with_seeds() -> None:
    kwargs = {**COMMON, "batch_size": 32}
    ours = MATRL("MlpPolicy", CartPoleParallelEnv, metagame=False, best_response=False, **kwargs).learn(256)
    theirs = PPO("MlpPolicy", "CartPole-v1", **kwargs).learn(256)
    assert_same_learner(ours.agents["agent_0"], theirs)


@pytest.mark.parametrize(("cls", "extra"), [(A2C, {"normalize_advantage": False}), (TRPO, {"batch_size": 64})])
def test_other_learners_equal_their_originals(cls: type, extra: dict[str, Any]) -> None:
    kwargs = {**COMMON, **extra}
    ours = MATRL("MlpPolicy", CartPoleParallelEnv, learner_class=cls, metagame=False, best_response=False, **kwargs).learn(384)
    theirs = cls("MlpPolicy", "CartPole-v1", **kwargs).learn(384)
    assert_same_learner(ours.agents["agent_0"], theirs)


def test_a_switched_on_metagame_of_one_agent_stays_ppo_when_the_prediction_improves() -> None:
    # One agent's best meta-strategy is its prediction whenever that has the higher payoff: without best response the
    # result is then PPO's.
    kwargs = {**COMMON, "batch_size": 64}
    ours = MATRL("MlpPolicy", CartPoleParallelEnv, best_response=False, **kwargs).learn(128)
    theirs = PPO("MlpPolicy", "CartPole-v1", **kwargs).learn(128)
    assert ours.report is not None and ours.report.predicted_payoffs[0] > 0.0
    assert ours.report.rho[0] == 0.0
    assert_same_learner(ours.agents["agent_0"], theirs)
