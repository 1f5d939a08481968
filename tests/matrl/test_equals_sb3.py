"""One agent with both switches off is SB3's own algorithm, bit for bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_matrl import MATRL
from tests.cartpole import CartPoleParallelEnv

COMMON: dict[str, Any] = {"n_steps": 64, "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.9, "seed": 3, "device": "cpu"}


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


@pytest.mark.cases(e2e=["12-4"], expensive=["None-1", "None-4"])
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("max_episode_steps", [None, 12])
def test_one_agent_equals_ppo_bit_for_bit(n_envs: int, max_episode_steps: int | None) -> None:
    # Truncation after 12 steps makes the bootstrap at time limits part of the comparison.
    kwargs = {**COMMON, "n_epochs": 4, "batch_size": 32, "ent_coef": 0.01}
    factory = partial(CartPoleParallelEnv, max_episode_steps)
    ours = MATRL("MlpPolicy", factory, n_envs=n_envs, metagame=False, best_response=False, **kwargs)
    seeds = list(ours.env._seeds)
    ours.learn(3 * 64 * n_envs)
    theirs = single_agent(PPO, n_envs, max_episode_steps, seeds, **kwargs)
    theirs.learn(3 * 64 * n_envs)

    assert_same_learner(ours.agents["agent_0"], theirs)
    assert ours.num_timesteps == theirs.num_timesteps
    np.testing.assert_array_equal(ours._last_obs["agent_0"], theirs._last_obs)


@pytest.mark.e2e
def test_one_copy_needs_no_care_with_seeds() -> None:
    kwargs = {**COMMON, "batch_size": 32}
    ours = MATRL("MlpPolicy", CartPoleParallelEnv, metagame=False, best_response=False, **kwargs).learn(128)
    theirs = PPO("MlpPolicy", "CartPole-v1", **kwargs).learn(128)
    assert_same_learner(ours.agents["agent_0"], theirs)


@pytest.mark.cases(e2e=["TRPO-extra1"])
@pytest.mark.parametrize(("cls", "extra"), [(A2C, {"normalize_advantage": False}), (TRPO, {"batch_size": 32})])
def test_other_learners_equal_their_originals(cls: type, extra: dict[str, Any]) -> None:
    kwargs = {**COMMON, **extra}
    ours = MATRL("MlpPolicy", CartPoleParallelEnv, learner_class=cls, metagame=False, best_response=False, **kwargs).learn(192)
    theirs = cls("MlpPolicy", "CartPole-v1", **kwargs).learn(192)
    assert_same_learner(ours.agents["agent_0"], theirs)


def test_a_switched_on_metagame_of_one_agent_stays_ppo_when_the_prediction_improves() -> None:
    # One agent's best meta-strategy is its prediction whenever that has the higher payoff: without best response the
    # result is then PPO's.
    kwargs = {**COMMON, "n_steps": 128, "batch_size": 64}
    ours = MATRL("MlpPolicy", CartPoleParallelEnv, best_response=False, **kwargs).learn(128)
    theirs = PPO("MlpPolicy", "CartPole-v1", **kwargs).learn(128)
    assert ours.report is not None and ours.report.predicted_payoffs[0] > 0.0
    assert ours.report.rho[0] == 0.0
    assert_same_learner(ours.agents["agent_0"], theirs)


# ---------------------------------------------------------------- learners of sb3-contrib


@pytest.mark.cases(e2e=["3-9"])
@pytest.mark.parametrize(("n_envs", "max_episode_steps"), [(1, None), (3, 9)])
def test_a_recurrent_learner_equals_its_original(n_envs: int, max_episode_steps: int | None) -> None:
    kwargs = {**COMMON, "n_steps": 16, "n_epochs": 2, "batch_size": 8}
    kwargs["policy_kwargs"] = {"net_arch": [8], "lstm_hidden_size": 8}
    factory, switches = partial(CartPoleParallelEnv, max_episode_steps), {"metagame": False, "best_response": False}
    ours = MATRL("MlpLstmPolicy", factory, n_envs=n_envs, learner_class=RecurrentPPO, **switches, **kwargs)
    seeds = list(ours.env._seeds)
    ours.learn(3 * 16 * n_envs)
    theirs = single_agent(partial(by_policy, RecurrentPPO, "MlpLstmPolicy"), n_envs, max_episode_steps, seeds, **kwargs)
    theirs.learn(3 * 16 * n_envs)
    assert_same_learner(ours.agents["agent_0"], theirs)
    for mine, reference in zip(ours.agents["agent_0"]._last_lstm_states, theirs._last_lstm_states, strict=True):
        assert all(th.equal(a, b) for a, b in zip(mine, reference, strict=True))


def by_policy(cls: type, policy: str, _: str, env: Any, **kwargs: Any) -> Any:
    """A learner of another policy than ``MlpPolicy``."""
    return cls(policy, env, **kwargs)


def legal(env: gym.Env[Any, Any]) -> np.ndarray:
    """A cart off the middle must not be pushed farther away, unless it is on its way back."""
    position, velocity = env.unwrapped.state[:2]
    return np.array([position > -0.02 or velocity > 0, position < 0.02 or velocity < 0])


class MaskedCartPole(CartPoleParallelEnv):
    """Infos tell the mask."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, _ = super().reset(seed, options)
        return observations, self._told()

    def step(self, actions: dict[str, Any]) -> Any:
        return *super().step(actions)[:4], self._told()

    def _told(self) -> dict[str, Any]:
        return {"agent_0": {"action_mask": legal(self.env).astype(np.int8)}}


@pytest.mark.e2e
@pytest.mark.parametrize("max_episode_steps", [None, 9])
def test_a_masking_learner_equals_its_original(max_episode_steps: int | None) -> None:
    kwargs = {**COMMON, "n_steps": 96, "n_epochs": 3, "batch_size": 32}
    factory, switches = partial(MaskedCartPole, max_episode_steps), {"metagame": False, "best_response": False}
    ours = MATRL("MlpPolicy", factory, learner_class=MaskablePPO, **switches, **kwargs).learn(3 * 96)
    env = ActionMasker(gym.make("CartPole-v1", max_episode_steps=max_episode_steps), legal)
    theirs = MaskablePPO("MlpPolicy", env, **kwargs).learn(3 * 96)
    assert_same_learner(ours.agents["agent_0"], theirs)
    masks = theirs.rollout_buffer.action_masks
    assert 0 < (masks.sum(axis=-1) == 1).sum() < len(masks.reshape(-1, 2)), "masks forbid something, but not everywhere"
    np.testing.assert_array_equal(ours.agents["agent_0"].rollout_buffer.action_masks, masks)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- normalisation


@pytest.mark.cases(quick=["3-switches1"])
@pytest.mark.parametrize(
    ("n_envs", "switches"), [(1, (True, True)), (3, (True, True)), (3, (True, False)), (1, (False, True))]
)
def test_normalisation_equals_vec_normalize(n_envs: int, switches: tuple[bool, bool]) -> None:
    kwargs = {**COMMON, "n_steps": 32, "n_epochs": 2, "batch_size": 32}
    wanted = {"norm_obs": switches[0], "norm_reward": switches[1], "clip_obs": 1.5, "clip_reward": 0.7}
    off = {"metagame": False, "best_response": False}
    # Episodes of 9 steps: final observations are normalised too.
    ours = MATRL("MlpPolicy", partial(CartPoleParallelEnv, 9), n_envs=n_envs, **wanted, **off, **kwargs)
    seeds = list(ours.env._seeds)
    ours.learn(3 * 32 * n_envs)
    env = VecNormalize(
        DummyVecEnv([lambda: gym.make("CartPole-v1", max_episode_steps=9)] * n_envs), gamma=kwargs["gamma"], **wanted
    )
    theirs = PPO("MlpPolicy", env, **kwargs)
    env.venv._seeds = seeds
    theirs.learn(3 * 32 * n_envs)
    assert_same_learner(ours.agents["agent_0"], theirs)
    normalizer = ours.team.normalizers["agent_0"]
    if wanted["norm_obs"]:
        np.testing.assert_array_equal(normalizer.observations[None].mean, env.obs_rms.mean)
        np.testing.assert_array_equal(normalizer.observations[None].var, env.obs_rms.var)
    if wanted["norm_reward"]:
        assert normalizer.returns.var == env.ret_rms.var
        np.testing.assert_array_equal(normalizer.running, env.returns)
