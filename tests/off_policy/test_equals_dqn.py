"""With one agent, one copy, SB3's targets and loss, IQL and VDN are SB3's DQN, bit for bit."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.vdn import VDN
from tests.cartpole import CartPoleParallelEnv
from tests.matrl.test_images import VIEWS, Film, Joint, Single

SETTINGS = {
    "learning_rate": 1e-3,
    "buffer_size": 300,
    "learning_starts": 50,
    "batch_size": 16,
    "train_freq": 4,
    "gradient_steps": 2,
    "target_update_interval": 70,
    "exploration_fraction": 0.5,
    "max_grad_norm": 0.5,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 3,
    "device": "cpu",
}
AGENT = "agent_0"


def dqn(limit, **settings):
    env = gym.make("CartPole-v1", max_episode_steps=limit)
    return DQN("MlpPolicy", env, **{**SETTINGS, **settings})


def ours(algorithm, limit, **settings):
    given = {**SETTINGS, **settings, "double_q": False}
    return algorithm("MlpPolicy", CartPoleParallelEnv, env_kwargs={"max_episode_steps": limit}, **given)


def assert_equal(model, reference):
    policy = model.parts[AGENT]["policy"]
    for (name, tensor), (_, other) in zip(policy.state_dict().items(), reference.policy.state_dict().items(), strict=True):
        assert th.equal(tensor, other), name
    (optimizer,) = model.optimizers()
    ours, theirs = optimizer.state_dict(), reference.policy.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for key, state in theirs["state"].items():
        assert all(th.equal(ours["state"][key][name], value) for name, value in state.items())
    assert np.array_equal(model._last_obs[AGENT], reference._last_obs)
    names = ("num_timesteps", "_n_updates", "_episode_num", "exploration_rate", "_total_timesteps")
    assert [getattr(model, name) for name in names] == [getattr(reference, name) for name in names]
    assert model.n_calls == reference._n_calls
    assert [info["l"] for info in model.ep_info_buffer] == [info["l"] for info in reference.ep_info_buffer]


@pytest.mark.cases(e2e=["12-VDN"], rest="expensive")
@pytest.mark.parametrize("algorithm", [IQL, VDN])
@pytest.mark.parametrize("limit", [None, 12])
def test_one_agent_is_dqn(algorithm, limit):
    assert_equal(ours(algorithm, limit).learn(600), dqn(limit).learn(600))


@pytest.mark.cases(e2e=["settings2"], rest="expensive")
@pytest.mark.parametrize(
    "settings",
    [
        {"train_freq": (2, "episode"), "gradient_steps": -1},
        {"tau": 0.05, "target_update_interval": 1, "gamma": 0.9},
        {"learning_starts": 0, "exploration_initial_eps": 0.3},
        {"replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"policy_kwargs": {"net_arch": [8], "optimizer_class": th.optim.RMSprop, "activation_fn": th.nn.LeakyReLU}},
        {"learning_rate": lambda progress: 1e-3 * progress, "max_grad_norm": 10},
    ],
)
def test_one_agent_with_other_settings_is_dqn(settings):
    assert_equal(ours(VDN, 12, **settings).learn(400), dqn(12, **settings).learn(400))


@pytest.mark.e2e
@pytest.mark.parametrize("reset", [False, True])
def test_a_second_training_is_dqns(reset):
    # One after the other, because both draw from the global generators.
    model = ours(IQL, 12).learn(200).learn(100, reset_num_timesteps=reset)
    assert_equal(model, dqn(12).learn(200).learn(100, reset_num_timesteps=reset))


@pytest.mark.cases(quick=["channels last"], rest="expensive")
@pytest.mark.parametrize("view", VIEWS)
def test_images_of_one_agent_are_learned_as_by_dqn_to_the_last_bit(view):
    policy = "MultiInputPolicy" if view == "Dict" else "CnnPolicy"
    settings = {**SETTINGS, "learning_starts": 10, "policy_kwargs": {"net_arch": [8]}}
    model = IQL(policy, lambda: Joint(Film(VIEWS[view])), double_q=False, **settings)
    seeds = list(model.env._seeds)
    model.learn(24)
    env = DummyVecEnv([lambda: Single(Film(VIEWS[view]))])
    reference = DQN(policy, env, **settings)
    env._seeds = seeds
    reference.learn(24)
    for (name, tensor), other in zip(
        model.parts["viewer"]["policy"].state_dict().items(), reference.policy.state_dict().values(), strict=True
    ):
        assert th.equal(tensor, other), name
