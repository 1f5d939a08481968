import numpy as np
import pytest
import supersuit
from gymnasium import spaces
from mpe2 import simple_spread_v3
from pettingzoo.classic import connect_four_v3

from sb3_matrl.evaluation import RandomPolicy, evaluate_policy
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.vec_env import as_parallel, make_joint_vec_env
from tests.evaluation.worlds import RandomLength, Scripted
from tests.vec_env import toys


def test_one_copy_equals_the_vectorised_evaluation():
    vectorised = evaluate_policy(Scripted(), make_joint_vec_env(RandomLength), 5, deterministic=True, seed=3)
    single = play_episodes(Scripted(), RandomLength(), 5, None, deterministic=True, seed=3)
    np.testing.assert_array_equal(single.agent_returns, vectorised.agent_returns)
    np.testing.assert_array_equal(single.lengths, vectorised.lengths)
    assert single.agents == vectorised.agents


def test_frames_and_episodes_are_told_as_they_happen():
    env, told = RandomLength(long=4), []
    result = play_episodes(
        Scripted(),
        env,
        6,
        None,
        deterministic=True,
        seed=3,
        on_frame=lambda: told.append(env.remaining),
        on_episode=lambda: told.append("end"),
    )
    expected = [mark for length in result.lengths for mark in [*range(length, -1, -1), "end"]]
    assert told == expected and set(result.lengths) == {1, 4}


@pytest.mark.parametrize("n_timesteps", [1, 9, 30])
def test_no_episode_starts_after_the_given_steps(n_timesteps):
    lengths = play_episodes(Scripted(), RandomLength(long=4), None, n_timesteps, deterministic=True, seed=5).lengths
    assert sum(lengths[:-1]) < n_timesteps <= sum(lengths)


def test_at_least_one_episode_is_played():
    with pytest.raises(ValueError, match="n_episodes must be at least 1, or None, got 0"):
        play_episodes(Scripted(), RandomLength(), 0)


class PaysTheDead(toys.ToyEnv):
    """``a`` ends after two of seven steps; everybody is paid in every step, and so is a key that is no agent."""

    def __init__(self):
        box = spaces.Box(-1, 1, (2,), np.float32)
        ends = {"a": (2, "terminated"), "b": (7, "terminated")}
        super().__init__(dict.fromkeys(ends, box), dict.fromkeys(ends, spaces.Discrete(2)), ends, jitter=0)

    def step(self, actions):
        observations, _, *rest = super().step(actions)
        return observations, {"a": 1.0, "b": 1.0, "__all__": 2.0}, *rest


def test_rewards_of_dead_agents_do_not_count():
    env = PaysTheDead()
    chance = RandomPolicy(
        {agent: env.observation_space(agent) for agent in "ab"}, {agent: env.action_space(agent) for agent in "ab"}
    )
    single = play_episodes(chance, env, 1, seed=0)
    vectorised = evaluate_policy(chance, PaysTheDead, 1, seed=0)
    assert single.agent_returns.tolist() == vectorised.agent_returns.tolist()
    assert single.agent_means["a"] == 2.0 < single.agent_means["b"]


def test_episode_start_is_told_to_the_model():
    model = Scripted()
    lengths = play_episodes(model, RandomLength(long=4), 4, None, deterministic=True, seed=3).lengths
    starts = [step == 0 for length in lengths for step in range(length)]
    assert [bool(start[0]) for start in model.episode_starts] == starts


def chance_in(make):
    env = as_parallel(make())
    return RandomPolicy(
        *({agent: space(agent) for agent in env.possible_agents} for space in (env.observation_space, env.action_space))
    )


def test_an_aec_env_is_played_in_turns():
    result = play_episodes(chance_in(connect_four_v3.env), connect_four_v3.env(), 2, seed=0)
    assert (result.lengths >= 7).all() and result.returns.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("make", [RandomLength, lambda: RandomLength()], ids=["class", "function"])
def test_what_makes_an_env_is_none(make):
    with pytest.raises(TypeError, match="may make one: give what it returns"):
        play_episodes(Scripted(), make)


def test_hidden_turns_and_old_observations_are_errors():
    env = supersuit.clip_reward_v0(as_parallel(connect_four_v3.env()))
    with pytest.raises(ValueError, match="acting_agents of the env inside are hidden"):
        play_episodes(chance_in(connect_four_v3.env), env)
    with pytest.raises(ValueError, match="would see old observations"):
        play_episodes(Scripted(), supersuit.frame_stack_v1(simple_spread_v3.env(), 2))
