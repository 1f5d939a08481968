import random

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from pettingzoo.utils.conversions import parallel_to_aec
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper

from sb3_matrl.evaluation import RandomPolicy, evaluate_policy, isolated_random_streams
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.vec_env import make_joint_vec_env
from tests.evaluation.worlds import RandomLength, Scripted


def by_hand(seeds, episodes_per_copy):
    """Greedy episodes of ``Scripted`` with one unvectorised environment per copy."""
    left, right, lengths = [], [], []
    for seed, episodes in zip(seeds, episodes_per_copy, strict=True):
        env = RandomLength()
        for episode in range(episodes):
            observations, _ = env.reset(seed=seed if episode == 0 else None)
            total_left = total_right = length = 0
            while env.agents:
                actions = {agent: int(value[0]) % 3 for agent, value in observations.items()}
                observations, rewards, *_ = env.step(actions)
                total_left, total_right = total_left + rewards["left"], total_right + rewards["right"]
                length += 1
            left.append(total_left)
            right.append(total_right)
            lengths.append(length)
    return np.array([left, right]).T, np.array(lengths)


@pytest.mark.parametrize(("n_envs", "n_episodes", "shares"), [(1, 3, [3]), (4, 10, [2, 2, 3, 3]), (4, 2, [0, 0, 1, 1])])
def test_equals_a_loop_over_single_environments(n_envs, n_episodes, shares):
    env = make_joint_vec_env(RandomLength, n_envs=n_envs)
    result = evaluate_policy(Scripted(), env, n_episodes, deterministic=True, seed=7)
    returns, lengths = by_hand(env.seed(7), shares)
    assert result.agents == ("left", "right")
    np.testing.assert_array_equal(result.agent_returns, returns)
    np.testing.assert_array_equal(result.returns, returns.sum(axis=1))
    np.testing.assert_array_equal(result.lengths, lengths)
    assert result.n_episodes == n_episodes
    assert result.mean == returns.sum(axis=1).mean()
    assert result.std == returns.sum(axis=1).std()
    assert result.mean_length == lengths.mean()
    assert result.agent_means == {"left": returns[:, 0].mean(), "right": returns[:, 1].mean()}


def test_short_episodes_are_not_counted_more_often():
    # Lengths 1 and 51 are equally likely. The first 50 episodes to end would nearly all be short ones.
    env = make_joint_vec_env(lambda: RandomLength(long=51), n_envs=25)
    result = evaluate_policy(Scripted(), env, 50, deterministic=True, seed=0)
    assert result.mean_length == pytest.approx(26, abs=4 * 25 / np.sqrt(50))


def test_seed_determines_everything_and_leaves_the_global_streams_alone():
    env = make_joint_vec_env(RandomLength, n_envs=3)
    first = evaluate_policy(Scripted(), env, 6, seed=1)
    th.manual_seed(123)
    np.random.seed(123)
    random.seed(123)
    before = (th.get_rng_state(), np.random.get_state(), random.getstate())
    second = evaluate_policy(Scripted(), env, 6, seed=1)
    assert th.equal(before[0], th.get_rng_state())
    np.testing.assert_array_equal(before[1][1], np.random.get_state()[1])
    assert before[2] == random.getstate()
    np.testing.assert_array_equal(first.agent_returns, second.agent_returns)
    assert not np.array_equal(first.agent_returns, evaluate_policy(Scripted(), env, 6, seed=2).agent_returns)


def test_without_a_seed_the_global_stream_is_used():
    env = make_joint_vec_env(RandomLength, n_envs=2)
    before = th.get_rng_state()
    evaluate_policy(Scripted(), env, 2)
    assert not th.equal(before, th.get_rng_state())


def test_streams_are_restored_after_an_error():
    before = th.get_rng_state()
    with pytest.raises(RuntimeError, match="boom"), isolated_random_streams(3):
        th.rand(5)
        raise RuntimeError("boom")
    assert th.equal(before, th.get_rng_state())


def test_model_learns_where_episodes_start():
    env, model = make_joint_vec_env(RandomLength, n_envs=2), Scripted()
    seen = []
    evaluate_policy(model, env, 6, seed=0, callback=lambda locals_, _: seen.append(locals_["dones"].copy()))
    assert model.episode_starts[0].all()
    for dones, starts in zip(seen, model.episode_starts[1:], strict=False):
        np.testing.assert_array_equal(dones, starts)


def test_makes_and_closes_an_environment_of_its_own():
    class Closing(RandomLength):
        closed = 0

        def close(self):
            Closing.closed += 1

    assert evaluate_policy(Scripted(), Closing, 2, seed=0).n_episodes == 2
    assert Closing.closed == 1
    given = Closing()
    for env in (given, parallel_to_aec(given)):
        for _ in range(2):
            assert evaluate_policy(Scripted(), env, 2, seed=0).n_episodes == 2
    assert Closing.closed == 1, "an env that was given stays open"


def test_takes_a_wrapped_environment():
    class Same(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            return self.venv.step_wait()

    env = make_joint_vec_env(RandomLength, n_envs=2)
    wrapped = evaluate_policy(Scripted(), Same(env), 4, deterministic=True, seed=5)
    np.testing.assert_array_equal(wrapped.returns, evaluate_policy(Scripted(), env, 4, deterministic=True, seed=5).returns)


def test_needs_at_least_one_episode():
    with pytest.raises(ValueError, match="n_eval_episodes must be at least 1, got 0"):
        evaluate_policy(Scripted(), RandomLength, 0)


@pytest.mark.parametrize("call", [evaluate_policy, play_episodes])
def test_refuses_what_does_not_play_all_agents(call):
    env = RandomLength()
    single = PPO("MlpPolicy", gymnasium.make("CartPole-v1"), device="cpu")
    for model in (single, single.policy, {"left": Scripted(), "right": Scripted()}, Scripted.predict):
        with pytest.raises(TypeError, match=r"expected a model that plays all agents, got a .*: MixedPolicy puts"):
            call(model, env, 1)


def test_refuses_a_single_agent_environment():
    env = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])
    with pytest.raises(ValueError, match="evaluate_policy needs a JointVecEnv, got a DummyVecEnv"):
        evaluate_policy(Scripted(), env, 1)


def test_interval_is_that_of_the_team_return():
    env = make_joint_vec_env(RandomLength, n_envs=2)
    result = evaluate_policy(Scripted(), env, 10, seed=0)
    low, high = result.confidence_interval()
    margin = 2.26216 * result.returns.std(ddof=1) / np.sqrt(10)
    assert (low, high) == pytest.approx((result.mean - margin, result.mean + margin), rel=1e-5)


def test_random_policy_draws_uniformly_from_seeded_streams():
    env = make_joint_vec_env(RandomLength, n_envs=300)
    observations = env.reset()
    actions, _ = RandomPolicy(env.observation_spaces, env.action_spaces, seed=0).predict(observations)
    again, _ = RandomPolicy(env.observation_spaces, env.action_spaces, seed=0).predict(observations)
    for agent in env.agents:
        np.testing.assert_array_equal(actions[agent], again[agent])
        np.testing.assert_allclose(np.bincount(actions[agent]) / 300, 1 / 3, atol=0.1)
    assert not np.array_equal(actions["left"], actions["right"])


def test_random_policy_answers_a_single_observation_with_a_single_action():
    env = make_joint_vec_env(RandomLength)
    policy = RandomPolicy(env.observation_spaces, env.action_spaces, seed=0)
    actions, state = policy.predict({"right": np.zeros(1, np.float32)}, state="kept")
    assert list(actions) == ["right"] and np.shape(actions["right"]) == () and state == "kept"


@pytest.mark.parametrize(("shape", "answer"), [((), ()), ((5,), (5,))])
def test_random_policy_knows_batches_of_dict_observations(shape, answer):
    observation_space = spaces.Dict({"image": spaces.Box(0, 1, (2, 2)), "count": spaces.Discrete(4)})
    policy = RandomPolicy({"a": observation_space}, {"a": spaces.Discrete(3)}, seed=0)
    observation = {"count": np.zeros(shape, np.int64), "image": np.zeros((*shape, 2, 2), np.float32)}
    actions, _ = policy.predict({"a": observation})
    assert np.shape(actions["a"]) == answer
