import itertools

import numpy as np
import pytest

from sb3_matrl.envs import stag_hunt_v0
from sb3_matrl.envs.stag_hunt_v0 import StagHuntCore, StagHuntOptions
from tests.envs.comparison import assert_copies_match_single_envs, assert_follows_reference, play
from tests.envs.random_references import SlowStagHunt, SplitMix
from tests.envs.references import parse

MONSTER_HUNT = {"size": 5, "stag_follows": True, "respawn": True, "hare_reward": 2, "lone_reward": -2}


def follow(options, n_copies, n_steps, seed):
    """Compare with one slow world per copy, each with the copy's seed; an ended world continues its stream."""
    core = StagHuntCore(n_copies, StagHuntOptions(**options))
    core.seed([seed + copy for copy in range(n_copies)])
    randoms = itertools.cycle([SplitMix(seed + copy) for copy in range(n_copies)])
    # Without reappearing animals there is nothing random; with them, all copies end in the same step, in order.
    return assert_follows_reference(core, lambda: SlowStagHunt(next(randoms), **options), n_steps, seed)


@pytest.mark.cases(quick=["flags0", "flags3", "flags6", "flags9", "flags12", "flags15"], rest="expensive")
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)))
def test_random_play_follows_the_written_rules(flags):
    options = dict(zip(("clock", "team_reward", "stag_follows", "respawn"), flags, strict=True), max_cycles=15)
    assert follow(options, 3, 40, seed=1) >= 2 * 3


@pytest.mark.parametrize("size", [3, 5, 10])
def test_random_play_on_other_grids_follows_the_written_rules(size):
    options = {**MONSTER_HUNT, "size": size, "step_cost": -0.25, "max_cycles": 40}
    assert follow(options, 2, 90, seed=2) == 2 * 2


def test_long_random_play_ends_by_the_rules():
    options = {"max_cycles": 5000, "stag_reward": 3, "hare_reward": -1.5}
    assert follow(options, 4, 60, seed=3) >= 4


@pytest.mark.parametrize("options", [{}, MONSTER_HUNT])
def test_copies_match_single_environments(options):
    assert_copies_match_single_envs(stag_hunt_v0.parallel_env(clock=True, **options), n_copies=4, n_steps=30, seed=4)


@pytest.mark.parametrize(("size", "steps"), [(3, 2), (4, 3), (5, 4), (6, 5), (10, 9)])
def test_both_on_the_stag_get_the_optimum_of_ten(size, steps):
    env = stag_hunt_v0.parallel_env(size=size)
    last = size - 1
    down, right = last // 2, size // 2
    scripts = parse("R" * right + "D" * down, "L" * (last - right) + "U" * (last - down))
    assert play(env, scripts) == (10.0, steps)


def test_both_at_their_hares_get_three_in_two_steps():
    assert play(stag_hunt_v0.parallel_env(), parse("DD", "UU")) == (3.0, 2)


def test_no_play_beats_ten():
    """All that can happen in twelve steps, by dynamic programming over the positions of both agents."""
    situations = np.array(list(itertools.product(range(16), range(16), range(5), range(5))))
    core = StagHuntCore(len(situations))
    core.reset()
    core.cells = situations[:, :2]
    outcome = core.step(situations[:, 2:])
    rewards, ended, after = outcome.rewards.sum(axis=1), outcome.terminated[:, 0], core.cells @ [16, 1]
    best = np.zeros(256)
    for _ in range(12):
        values = rewards + np.where(ended, 0.0, best[after])
        best = values.reshape(256, 25).max(axis=1)
    assert best[0 * 16 + 15] == pytest.approx(10.0)


def test_the_lone_hunter_pays_in_every_step():
    env = stag_hunt_v0.parallel_env()
    total, steps = play(env, parse("DRR" + "." * 9, "." * 12))
    assert (total, steps) == (-0.5 * 10, 12)
    assert env.agents == []


def test_the_end_is_a_termination_after_a_catch_and_a_truncation_at_the_limit():
    for script, flags in ((("DD", "UU"), (True, False)), (("..", ".."), (False, True))):
        env = stag_hunt_v0.parallel_env(max_cycles=2)
        env.reset()
        for first, second in parse(*script):
            *_, terminated, truncated, _ = env.step({"agent_0": first, "agent_1": second})
        assert (terminated["agent_0"], truncated["agent_0"]) == flags
        assert env.agents == []


def test_observation_and_state_at_the_start():
    env = stag_hunt_v0.parallel_env(clock=True)
    observations, _ = env.reset()
    planes = np.zeros((4, 16), np.float32)
    planes[[0, 1, 2, 3, 3], [15, 0, 6, 8, 7]] = 1
    np.testing.assert_array_equal(observations["agent_1"], [*planes.ravel(), 0])
    planes[[0, 1]] = planes[[1, 0]]
    np.testing.assert_array_equal(env.state(), [*planes.ravel(), 0])
    assert env.state_space.shape == (65,) and env.observation_space("agent_0").shape == (65,)


def test_the_stag_comes_to_the_nearer_agent():
    env = stag_hunt_v0.parallel_env(stag_follows=True, render_mode="ansi")
    env.reset()
    _, rewards, *_ = env.step({"agent_0": 4, "agent_1": 2})  # agent_1 is two steps from the stag: along the column
    assert env.render() == "0 . . .\n. . . H\nH . S 1\n. . . .\nstep 1/12"
    _, rewards, *_ = env.step({"agent_0": 4, "agent_1": 4})
    assert rewards == {"agent_0": 0.0, "agent_1": -0.5}


def test_text_shows_both_agents_on_the_stag():
    env = stag_hunt_v0.parallel_env(render_mode="ansi")
    play(env, parse("RRD", "LUU"))
    assert env.render() == ". . . .\n. . & H\nH . . .\n. . . .\nstep 3/12"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 2}, "size must be an integer from 3 to 10, got 2"),
        ({"size": 4.0}, "size must be an integer from 3 to 10, got 4.0"),
        ({"max_cycles": 0}, "max_cycles must be an integer of at least 1, got 0"),
        ({"stag_reward": float("nan")}, "stag_reward must be a finite number, got nan"),
        ({"hare_reward": "1"}, "hare_reward must be a finite number, got '1'"),
        ({"lone_reward": None}, "lone_reward must be a finite number, got None"),
        ({"stag_follows": 1}, "stag_follows must be True or False, got 1"),
        ({"respawn": "no"}, "respawn must be True or False, got 'no'"),
        ({"render_mode": "ascii"}, "render_mode 'ascii' is unknown; did you mean 'ansi'? Known: human, rgb_array, ansi"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError) as caught:
        stag_hunt_v0.parallel_env(**options)
    assert str(caught.value) == message
