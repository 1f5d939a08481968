import itertools

import numpy as np
import pytest

from sb3_matrl.envs import escalation_v0
from sb3_matrl.envs.escalation_v0 import EscalationCore, EscalationOptions
from tests.envs.comparison import assert_copies_match_single_envs, assert_same_situation
from tests.envs.random_references import SlowEscalation, SplitMix

DOWN, LEFT, UP, RIGHT, NOOP = range(5)


def follow(options, n_copies, n_steps, seed, act):
    """Play beside one slow world per copy, which takes its random numbers from the copy's own stream."""
    core = EscalationCore(n_copies, EscalationOptions(**options))
    core.seed(range(seed, seed + n_copies))
    randoms = [SplitMix(seed + copy) for copy in range(n_copies)]
    slow = [SlowEscalation(random, **options) for random in randoms]
    core.reset()
    rng, ends = np.random.default_rng(seed), {"terminated": 0, "truncated": 0}
    for _ in range(n_steps):
        actions = act(core, rng)
        outcome = core.step(actions)
        expected = [world.step(row.tolist()) for world, row in zip(slow, actions, strict=True)]
        for values, column in zip((outcome.rewards, outcome.terminated, outcome.truncated), range(3), strict=True):
            np.testing.assert_allclose(values, [one[column] for one in expected], atol=1e-12)
        assert_same_situation(core, slow)
        over = ~core.alive.any(axis=1)
        ends["terminated"] += int(outcome.terminated[:, 0].sum())
        ends["truncated"] += int(outcome.truncated[:, 0].sum())
        core.reset(over)
        worlds = zip(over, randoms, slow, strict=True)
        slow = [SlowEscalation(random, **options) if ended else world for ended, random, world in worlds]
        assert_same_situation(core, slow)
    return ends


def anything(core, rng):
    return rng.integers(5, size=core.alive.shape)


def to_the_light(core, rng=None, chance=1.0):
    """Each agent walks to the lit cell, or sometimes anywhere."""
    size = core.options.size
    rows, cols = np.divmod(core.lit, size)
    down, right = rows[:, None] - core.cells // size, cols[:, None] - core.cells % size
    vertical = np.where(down > 0, DOWN, np.where(down < 0, UP, NOOP))
    action = np.where(right > 0, RIGHT, np.where(right < 0, LEFT, vertical))
    if rng is None:
        return action
    return np.where(rng.random(action.shape) < chance, action, rng.integers(5, size=action.shape))


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=2)))
def test_play_follows_the_written_rules(flags):
    options = dict(zip(("clock", "team_reward"), flags, strict=True), max_cycles=12)
    assert follow(options, 3, 40, 1, anything)["truncated"] >= 6
    ends = follow(options, 3, 40, 2, lambda core, rng: to_the_light(core, rng, 0.95))
    assert min(ends.values()) >= 2


@pytest.mark.parametrize("size", [3, 10])
def test_play_on_other_grids_and_with_other_numbers_follows_the_written_rules(size):
    options = {"size": size, "streak_reward": 2.5, "desertion_penalty": 0.3, "step_cost": -0.1, "max_cycles": 30}
    follow(options, 3, 60, 3, lambda core, rng: to_the_light(core, rng, 0.9))


def test_copies_match_single_environments():
    assert_copies_match_single_envs(escalation_v0.parallel_env(size=3, max_cycles=9), n_copies=4, n_steps=40, seed=3)


@pytest.mark.parametrize("seed", range(5))
def test_both_on_the_path_get_the_optimum(seed):
    core = EscalationCore(4)
    core.seed([seed, seed + 10, seed + 20, seed + 30])
    core.reset()
    size = core.options.size
    away = abs(core.lit[:, None] // size - core.cells // size) + abs(core.lit[:, None] % size - core.cells % size)
    totals = np.zeros(4)
    while core.alive.any():
        totals += core.step(to_the_light(core)).rewards.sum(axis=1)
    np.testing.assert_allclose(totals, 2 * (50 - np.maximum(away.max(axis=1), 1) + 1))


def placed(cells, lit, streak=0, **options):
    env = escalation_v0.parallel_env(**options)
    env.reset(seed=0)
    core = env._core
    core.cells, core.lit, core.streak = np.array([cells]), np.array([lit]), np.array([streak])
    return env


def test_the_one_left_alone_pays_for_the_whole_streak():
    env = placed([11, 11], lit=12, streak=7)
    _, rewards, terminated, *_ = env.step({"agent_0": RIGHT, "agent_1": NOOP})
    assert rewards == {"agent_0": pytest.approx(-6.3), "agent_1": 0.0}
    assert terminated == {"agent_0": True, "agent_1": True}


def test_before_a_streak_an_agent_waits_without_punishment():
    env = placed([12, 11], lit=12)
    _, rewards, terminated, *_ = env.step({"agent_0": NOOP, "agent_1": NOOP})
    assert rewards == {"agent_0": 0.0, "agent_1": 0.0} and not any(terminated.values())
    _, rewards, *_ = env.step({"agent_0": NOOP, "agent_1": RIGHT})
    assert rewards == {"agent_0": 1.0, "agent_1": 1.0}
    assert env._core.lit[0] in (7, 11, 13, 17) and env._core.streak[0] == 1


def test_leaving_together_ends_the_streak_without_punishment():
    env = placed([11, 11], lit=12, streak=7)
    _, rewards, terminated, *_ = env.step({"agent_0": LEFT, "agent_1": UP})
    assert rewards == {"agent_0": 0.0, "agent_1": 0.0} and not any(terminated.values())
    assert env._core.streak[0] == 0 and env._core.lit[0] == 12


@pytest.mark.parametrize(("lit", "beside"), [(0, [1, 5]), (2, [1, 3, 7]), (12, [7, 11, 13, 17]), (24, [19, 23])])
def test_every_cell_beside_is_lit_next_with_the_same_probability(lit, beside):
    core = EscalationCore(4000)
    core.seed(range(4000))
    core.reset()
    core.cells, core.lit = np.full((4000, 2), lit), np.full(4000, lit)
    core.step(np.full((4000, 2), NOOP))
    counts = np.bincount(core.lit, minlength=25)
    assert np.flatnonzero(counts).tolist() == beside
    np.testing.assert_allclose(counts[beside] / 4000, 1 / len(beside), atol=0.03)


def test_starts_cover_the_grid_evenly():
    core = EscalationCore(5000)
    core.seed(range(5000))
    core.reset()
    for cells in (core.cells[:, 0], core.cells[:, 1], core.lit):
        counts = np.bincount(cells, minlength=25)
        assert ((counts - 200) ** 2 / 200).sum() < 60  # 99.9 % quantile of chi-square with 24 degrees of freedom is 51.2


def test_same_seed_same_episode():
    first, second, other = (escalation_v0.parallel_env() for _ in range(3))
    starts = [env.reset(seed=seed)[0]["agent_0"] for env, seed in ((first, 4), (second, 4), (other, 5))]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_text_and_sizes():
    env = placed([0, 6], lit=12, render_mode="ansi")
    assert env.render() == "0 . . . .\n. 1 . . .\n. . * . .\n. . . . .\n. . . . .\nstep 0/50"
    assert env.observation_space("agent_0").shape == (76,) and env.state_space.shape == (77,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 11}, "size must be an integer from 3 to 10, got 11"),
        ({"streak_reward": float("inf")}, "streak_reward must be a finite number, got inf"),
        ({"desertion_penalty": "0.9"}, "desertion_penalty must be a finite number, got '0.9'"),
        ({"clock": 0}, "clock must be True or False, got 0"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError) as caught:
        escalation_v0.parallel_env(**options)
    assert str(caught.value) == message
