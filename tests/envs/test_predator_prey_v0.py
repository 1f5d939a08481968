import itertools

import numpy as np
import pytest

from sb3_matrl.envs import predator_prey_v0
from sb3_matrl.envs.predator_prey_v0 import CATCH, PredatorPreyCore, PredatorPreyOptions
from tests.envs.comparison import assert_copies_match_single_envs, assert_same_situation
from tests.envs.random_references import SlowPredatorPrey, SplitMix

DOWN, LEFT, UP, RIGHT, NOOP = range(5)


def catchers_when_beside(core, rng):
    """Random moves; a predator beside prey mostly tries to catch it."""
    beside = (core._beside[core.cells][..., None] == core.prey[:, None, None, :]).any(axis=(2, 3))
    actions = rng.integers(6, size=core.alive.shape)
    return np.where(beside & (rng.random(actions.shape) < 0.7), CATCH, actions)


def follow(options, n_copies, n_steps, seed):
    core = PredatorPreyCore(n_copies, PredatorPreyOptions(**options))
    core.seed(range(seed, seed + n_copies))
    randoms = [SplitMix(seed + copy) for copy in range(n_copies)]
    slow = [SlowPredatorPrey(random, **options) for random in randoms]
    core.reset()
    rng, rewards, ends = np.random.default_rng(seed), [], 0
    for _ in range(n_steps):
        actions = catchers_when_beside(core, rng)
        outcome = core.step(actions)
        expected = [world.step(row.tolist()) for world, row in zip(slow, actions, strict=True)]
        for values, column in zip((outcome.rewards, outcome.terminated, outcome.truncated), range(3), strict=True):
            np.testing.assert_allclose(values, [one[column] for one in expected], atol=1e-12)
        assert_same_situation(core, slow)
        rewards.append(outcome.rewards)
        over = ~core.alive.any(axis=1)
        ends += int(over.sum())
        core.reset(over)
        worlds = zip(over, randoms, slow, strict=True)
        slow = [SlowPredatorPrey(random, **options) if ended else world for ended, random, world in worlds]
        assert_same_situation(core, slow)
    rewards = np.array(rewards)
    return ends, int((rewards > 0).sum()), int((rewards < 0).sum())


@pytest.mark.cases(
    quick=["flags0-wait", "flags1-leave", "flags3-wait", "flags4-leave", "flags6-wait", "flags7-leave"], rest="expensive"
)
@pytest.mark.parametrize("finished_agents", ["wait", "leave"])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)))
def test_play_follows_the_written_rules(flags, finished_agents):
    options = dict(zip(("clock", "full_observability", "observe_walls"), flags, strict=True))
    options |= {"size": 5, "n_agents": 4, "n_prey": 3, "max_cycles": 15, "finished_agents": finished_agents}
    ends, caught, failed = follow(options, 3, 40, seed=1)
    assert ends >= 6 and caught >= 4 and failed >= 4


@pytest.mark.cases(quick=["3-2-7-False", "4-7-1-True"], e2e=["10-8-8-False", "10-8-8-True"], rest="expensive")
@pytest.mark.parametrize("team_reward", [False, True])
@pytest.mark.parametrize(("size", "n_agents", "n_prey"), [(10, 8, 8), (3, 5, 4), (4, 8, 8), (3, 2, 7), (4, 7, 1)], ids=str)
def test_play_of_other_worlds_follows_the_written_rules(size, n_agents, n_prey, team_reward):
    options = {"size": size, "n_agents": n_agents, "n_prey": n_prey, "team_reward": team_reward, "max_cycles": 25}
    options |= {"capture_reward": 6.0, "miscapture_reward": -1.5, "step_cost": -0.125}
    follow(options, 2, 60, seed=2)


@pytest.mark.parametrize("finished_agents", ["wait", "leave"])
def test_copies_match_single_environments(finished_agents):
    env = predator_prey_v0.parallel_env(size=5, n_agents=3, n_prey=2, max_cycles=9, finished_agents=finished_agents)
    assert_copies_match_single_envs(env, n_copies=4, n_steps=30, seed=3)


def placed(predators, prey, **options):
    """A 4x4 grid with given cells."""
    env = predator_prey_v0.parallel_env(size=4, n_agents=len(predators), n_prey=len(prey), **options)
    env.reset(seed=0)
    env._core.cells, env._core.prey = np.array([predators]), np.array([prey])
    return env


def step(env, *actions):
    return env.step(dict(zip(env.agents, actions, strict=True)))


def test_two_catch_the_prey_between_them_and_the_episode_ends():
    env = placed([4, 6], [5])
    _, rewards, terminated, truncated, _ = step(env, CATCH, CATCH)
    assert rewards == {"agent_0": 5.0, "agent_1": 5.0}
    assert all(terminated.values()) and not any(truncated.values())
    assert not env.state()[:32].any()


def test_three_share_the_reward():
    env = placed([4, 6, 1], [5, 15])
    _, rewards, terminated, *_ = step(env, CATCH, CATCH, CATCH)
    assert list(rewards.values()) == pytest.approx([10 / 3] * 3)
    assert all(terminated.values())  # no predator is left


def test_one_that_tries_alone_is_punished_for_every_prey_beside_it_and_the_prey_moves():
    env = placed([5, 15], [4, 6])
    _, rewards, terminated, *_ = step(env, CATCH, CATCH)
    assert rewards == {"agent_0": -4.0, "agent_1": 0.0}  # agent_1 has no prey beside it
    assert not any(terminated.values())
    assert env._core.prey[0, 0] in (0, 8) and env._core.prey[0, 1] in (2, 7, 10)


def test_those_that_have_caught_wait_or_leave():
    for finished_agents, agents in (("wait", 4), ("leave", 2)):
        env = placed([4, 6, 0, 15], [5, 11], finished_agents=finished_agents)
        observations, *_ = step(env, CATCH, CATCH, NOOP, NOOP)
        assert len(env.agents) == agents
        assert not observations["agent_0"].any() and observations["agent_3"].any()
        assert env._core.cells[0].tolist() == [16, 16, 0, 15]
        *_, rewards = step(env, *[CATCH] * agents)[1].values()
        assert rewards <= 0


def test_a_snapshot_with_predators_and_prey_that_have_left_the_grid_is_restored():
    env = placed([4, 6, 0, 15], [5, 11])
    step(env, CATCH, CATCH, NOOP, NOOP)
    snapshot = env.snapshot()
    other = predator_prey_v0.parallel_env(size=4, n_agents=4, n_prey=2)
    other.restore(snapshot)
    np.testing.assert_array_equal(other.state(), env.state())
    assert other._core.cells[0].tolist() == [16, 16, 0, 15] and 16 in other._core.prey[0]


def test_predators_and_prey_never_share_a_cell_or_leave_the_grid():
    core = PredatorPreyCore(50, PredatorPreyOptions(size=4, n_agents=6, n_prey=7, max_cycles=1000))
    core.seed(range(50))
    core.reset()
    rng = np.random.default_rng(0)
    for _ in range(60):
        core.step(rng.integers(5, size=core.alive.shape))
        cells = np.sort(np.concatenate([core.cells, core.prey], axis=1), axis=1)
        assert (np.diff(cells, axis=1) > 0).all() and cells.max() < 16 and cells.min() >= 0


def test_a_prey_moves_to_each_free_cell_with_the_same_probability():
    core = PredatorPreyCore(3000, PredatorPreyOptions(size=3, n_agents=2, n_prey=1))
    core.seed(range(3000))
    core.reset()
    core.cells, core.prey = np.tile([[1, 8]], (3000, 1)), np.full((3000, 1), 4)
    core.step(np.full((3000, 2), NOOP))
    counts = np.bincount(core.prey[:, 0], minlength=9)
    assert np.flatnonzero(counts).tolist() == [3, 5, 7]
    np.testing.assert_allclose(counts[[3, 5, 7]] / 3000, 1 / 3, atol=0.04)


def test_every_order_of_predators_is_played():
    core = PredatorPreyCore(2000, PredatorPreyOptions(size=3, n_agents=2, n_prey=1))
    core.seed(range(2000))
    core.reset()
    core.cells, core.prey = np.tile([[0, 2]], (2000, 1)), np.full((2000, 1), 8)
    core.step(np.tile([[RIGHT, LEFT]], (2000, 1)))  # both want cell 1
    assert np.mean(core.cells[:, 0] == 1) == pytest.approx(0.5, abs=0.05)
    assert ((core.cells == 1).sum(axis=1) == 1).all()


def chase(core, rng):
    """A scripted pair: both walk towards the prey, waiting now and then, and catch when both are beside it."""
    size = core.options.size
    beside = (core._beside[core.cells][..., None] == core.prey[:, None, None, :]).any(axis=(2, 3))
    down, right = core.prey // size - core.cells // size, core.prey % size - core.cells % size
    vertical = np.where(down > 0, DOWN, UP)
    walk = np.where(abs(right) > abs(down), np.where(right > 0, RIGHT, LEFT), vertical)
    # The prey moves in every step; waiting changes whether the distance is odd.
    walk = np.where(rng.random(walk.shape) < 0.4, NOOP, walk)
    return np.where(beside.all(axis=1)[:, None], CATCH, walk)


def test_a_scripted_pair_reaches_the_optimum():
    core = PredatorPreyCore(20, PredatorPreyOptions(size=4, n_agents=2, n_prey=1, max_cycles=500))
    core.seed(range(20))
    core.reset()
    total, steps, rng = np.zeros(20), 0, np.random.default_rng(0)
    while core.alive.any():
        total += core.step(chase(core, rng)).rewards.sum(axis=1)
        steps += 1
    np.testing.assert_allclose(total, 10.0)  # the prey has its turn after the CATCH: no attempt of two fails
    assert steps < 500


def test_observation_state_and_text():
    env = placed([0, 15], [5], render_mode="ansi", observe_walls=True)
    assert env.render() == "0 . . .\n. P . .\n. . . .\n. . . 1\nstep 0/200"
    window = env._core.observations()["agent_0"][0].reshape(5, 5, 3)
    expected = np.zeros((5, 5, 3))
    expected[:2, :, 2] = expected[:, :2, 2] = 1
    expected[2, 2, 0] = expected[3, 3, 1] = 1
    np.testing.assert_array_equal(window, expected)
    state = np.zeros(33)
    state[[0, 15, 16 + 5]] = 1
    np.testing.assert_array_equal(env.state(), state)


def test_sizes_of_the_default():
    env = predator_prey_v0.parallel_env()
    assert len(env.possible_agents) == 8 and env.action_space("agent_7").n == 6
    assert env.observation_space("agent_0").shape == (50,) and env.state_space.shape == (201,)


def test_invalid_actions_are_explained():
    core = PredatorPreyCore(1)
    core.reset()
    with pytest.raises(ValueError, match=r"^agent_0: action 6 is not valid; expected an integer from 0 to 5$"):
        core.step(np.full((1, 8), 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 2}, "size must be an integer from 3 to 20, got 2"),
        ({"n_agents": 9}, "n_agents must be an integer from 2 to 8, got 9"),
        ({"n_agents": 1}, "n_agents must be an integer from 2 to 8, got 1"),
        ({"size": 3, "n_prey": 2}, "n_prey must be an integer from 1 to 1, got 2"),
        ({"n_prey": 0}, "n_prey must be an integer from 1 to 92, got 0"),
        ({"miscapture_reward": float("nan")}, "miscapture_reward must be a finite number, got nan"),
        ({"capture_reward": True}, "capture_reward must be a finite number, got True"),
        ({"finished_agents": "waits"}, "finished_agents 'waits' is unknown; did you mean 'wait'? Known: wait, leave"),
        ({"observe_walls": 1}, "observe_walls must be True or False, got 1"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError) as caught:
        predator_prey_v0.parallel_env(**options)
    assert str(caught.value) == message
