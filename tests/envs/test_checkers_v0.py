import itertools

import numpy as np
import pytest

from sb3_matrl.envs import checkers_v0
from sb3_matrl.envs.checkers_v0 import CheckersCore, CheckersOptions
from tests.envs.comparison import assert_copies_match_single_envs, assert_follows_reference, play
from tests.envs.references import SlowCheckers, parse

# Found by breadth-first search: agent_0 eats all nine apples, agent_1 the three lemons of the middle row.
OPTIMUM = parse("DLRRUDULDDLLLRUDDDDDULLLRUDDDDDULLUDD", "DDDULLRRRLULDLLLLRRUDDUDLLLLRRUDDUDUD")

START = """\
A L A L A L 0 .
L A L A L A . .
A L A L A L 1 .
step 0/100"""


@pytest.mark.cases(
    quick=["flags0-one_hot", "flags1-codes", "flags3-one_hot", "flags4-codes", "flags6-one_hot", "flags7-codes"],
    rest="expensive",
)
@pytest.mark.parametrize("observation", ["one_hot", "codes"])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)))
def test_random_play_follows_the_written_rules(observation, flags):
    options = dict(
        zip(("clock", "full_observability", "team_reward"), flags, strict=True), observation=observation, max_cycles=20
    )
    core = CheckersCore(5, CheckersOptions(**options))
    assert assert_follows_reference(core, lambda: SlowCheckers(**options), n_steps=45, seed=1) == 2 * 5


def test_random_play_with_other_numbers_follows_the_written_rules():
    options = {"step_cost": -0.5, "apple_rewards": (10, 1), "lemon_rewards": [-10, -1.5], "max_cycles": 9}
    core = CheckersCore(3, CheckersOptions(**options))
    assert assert_follows_reference(core, lambda: SlowCheckers(**options), n_steps=50, seed=2) == 3 * 5


@pytest.mark.e2e
def test_random_play_reaches_the_end_of_the_apples():
    # Long episodes: random walks eat everything, so that terminations are compared as well as truncations.
    options = {"max_cycles": 5000}
    core = CheckersCore(3, CheckersOptions(**options))
    assert assert_follows_reference(core, lambda: SlowCheckers(**options), n_steps=500, seed=3) >= 1


def test_copies_match_single_environments():
    env = checkers_v0.parallel_env(max_cycles=30, clock=True, observation="codes")
    assert_copies_match_single_envs(env, n_copies=5, n_steps=70, seed=4)


def test_optimum_is_41_26_in_37_steps():
    total, steps = play(checkers_v0.parallel_env(), OPTIMUM)
    assert steps == 37
    assert total == pytest.approx(41.26)


def test_optimum_terminates_rather_than_truncates():
    env = checkers_v0.parallel_env(max_cycles=37)  # both would apply in the last step
    play(env, OPTIMUM[:-1])
    row = dict(zip(env.agents, OPTIMUM[-1], strict=True))
    _, _, terminated, truncated, _ = env.step(row)
    assert terminated == {"agent_0": True, "agent_1": True}
    assert truncated == {"agent_0": False, "agent_1": False}
    assert env.agents == []


def test_doing_nothing_costs_two():
    total, steps = play(checkers_v0.parallel_env(), [[4, 4]] * 200)
    assert steps == 100
    assert total == pytest.approx(-2)


def test_team_reward_gives_both_the_sum():
    env = checkers_v0.parallel_env(team_reward=True)
    env.reset()
    _, rewards, *_ = env.step({"agent_0": 1, "agent_1": 4})  # agent_0 eats the lemon at (0, 5)
    assert rewards == pytest.approx({"agent_0": -5.02, "agent_1": -5.02})


def test_one_hot_view_at_the_start():
    observations, _ = checkers_v0.parallel_env().reset()
    view = observations["agent_0"]
    np.testing.assert_array_equal(view[:2], np.array([0, 0.86], np.float32))
    window = view[2:].reshape(3, 3, 5)
    expected = np.zeros((3, 3, 5))
    expected[1, 0, 0] = 1  # lemon (0, 5)
    expected[1, 1, 2] = 1  # itself
    expected[2, 0, 1] = 1  # apple (1, 5)
    np.testing.assert_array_equal(window, expected)


def test_code_view_at_the_start():
    observations, _ = checkers_v0.parallel_env(observation="codes").reset()
    expected = np.array([0.67, 0.86, 2, 0, 0, 1, 3, 0, 0, 0, 0], np.float32)
    np.testing.assert_array_equal(observations["agent_1"], expected)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 47),
        ({"observation": "codes"}, 11),
        ({"clock": True}, 48),
        ({"full_observability": True}, 94),
        ({"observation": "codes", "clock": True, "full_observability": True}, 24),
    ],
)
def test_size_of_the_observation(options, size):
    env = checkers_v0.parallel_env(**options)
    observations, _ = env.reset()
    assert observations["agent_0"].shape == env.observation_space("agent_0").shape == (size,)
    assert env.state().shape == env.state_space.shape == (97,)


def test_seed_changes_nothing():
    first, _ = checkers_v0.parallel_env().reset(seed=1)
    second, _ = checkers_v0.parallel_env().reset(seed=2)
    np.testing.assert_array_equal(first["agent_0"], second["agent_0"])


def test_text_of_the_start():
    env = checkers_v0.parallel_env(render_mode="ansi")
    env.reset()
    assert env.render() == START


def test_text_shows_eaten_fruit_and_moved_agents():
    env = checkers_v0.parallel_env(render_mode="ansi", max_cycles=5)
    env.reset()
    env.step({"agent_0": 1, "agent_1": 2})
    env.step({"agent_0": 3, "agent_1": 1})
    assert env.render() == "A L A L A . 0 .\nL A L A L 1 . .\nA L A L A L . .\nstep 2/5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": "onehot"}, "observation 'onehot' is unknown; did you mean 'one_hot'? Known: one_hot, codes"),
        ({"max_cycles": 0}, "max_cycles must be an integer of at least 1, got 0"),
        ({"max_cycles": True}, "max_cycles must be an integer of at least 1, got True"),
        ({"max_cycles": 10.0}, "max_cycles must be an integer of at least 1, got 10.0"),
        ({"step_cost": float("nan")}, "step_cost must be a finite number, got nan"),
        ({"step_cost": "0"}, "step_cost must be a finite number, got '0'"),
        ({"apple_rewards": (5,)}, "apple_rewards must be 2 finite numbers, one per agent in order, got (5,)"),
        ({"apple_rewards": 5}, "apple_rewards must be 2 finite numbers, one per agent in order, got 5"),
        ({"apple_rewards": "51"}, "apple_rewards must be 2 finite numbers, one per agent in order, got '51'"),
        ({"lemon_rewards": (float("inf"), 1)}, "lemon_rewards must be 2 finite numbers, one per agent in order, got (inf, 1)"),
        ({"clock": "False"}, "clock must be True or False, got 'False'"),
        ({"full_observability": 1}, "full_observability must be True or False, got 1"),
        ({"team_reward": None}, "team_reward must be True or False, got None"),
        ({"render_mode": "ascii"}, "render_mode 'ascii' is unknown; did you mean 'ansi'? Known: human, rgb_array, ansi"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError) as caught:
        checkers_v0.parallel_env(**options)
    assert str(caught.value) == message
