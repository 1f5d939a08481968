import numpy as np
import pytest

from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.vec_env import make_joint_vec_env
from tests.evaluation.worlds import RandomLength, Scripted


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


def test_episode_start_is_told_to_the_model():
    model = Scripted()
    lengths = play_episodes(model, RandomLength(long=4), 4, None, deterministic=True, seed=3).lengths
    starts = [step == 0 for length in lengths for step in range(length)]
    assert [bool(start[0]) for start in model.episode_starts] == starts
