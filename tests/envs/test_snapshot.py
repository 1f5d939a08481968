"""A world that is saved and restored goes on as if nothing had happened."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from sb3_matrl.envs import checkers_v0, escalation_v0, make, matrix_game_v0, predator_prey_v0, stag_hunt_v0, switch_v0
from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv, CoreStep

WORLDS = {
    "checkers": checkers_v0.parallel_env(max_cycles=9, clock=True),
    "switch": switch_v0.parallel_env(max_cycles=11),
    "switch_leave": switch_v0.parallel_env(max_cycles=40, n_agents=2, finished_agents="leave"),
    "stag_hunt": stag_hunt_v0.parallel_env(max_cycles=9, stag_follows=True, respawn=True),
    "escalation": escalation_v0.parallel_env(max_cycles=9, size=3),
    "predator_prey": predator_prey_v0.parallel_env(max_cycles=11, size=4, n_agents=3, n_prey=4),
    "random_matrix_game": matrix_game_v0.parallel_env("climbing_stochastic", max_cycles=4),
    "matrix_game": matrix_game_v0.parallel_env(max_cycles=4),
}


class DiceCore(BatchedCore):
    """Every copy rolls dice from a generator of its own; a shared one decides when an episode ends."""

    changing = ("alive", "dice", "rngs", "shared", "rolls", "luck", "name", "lucky")
    metadata = {"name": "dice_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self, num_envs, bit_generator=np.random.PCG64):
        self.num_envs, self.possible_agents, self._kind = num_envs, ["roller"], bit_generator
        self.observation_spaces = {"roller": spaces.Box(0, 6, (1,), np.float32)}
        self.action_spaces = {"roller": spaces.Discrete(2)}
        self.state_space = spaces.Box(0, 6, (1,), np.float32)
        self.rngs = [np.random.Generator(bit_generator(copy)) for copy in range(num_envs)]
        self.shared = np.random.Generator(bit_generator(99))
        self.alive = np.zeros((num_envs, 1), dtype=bool)
        self.dice = np.zeros((num_envs, 1), dtype=np.float32)
        self.rolls, self.luck, self.name, self.lucky = 0, 0.0, "fresh", False

    def replicate(self, num_envs):
        return DiceCore(num_envs, self._kind)

    def seed(self, seeds):
        self.rngs = [np.random.Generator(self._kind(seed)) for seed in seeds]

    def reset(self, copies=None):
        self.alive = self.alive | (True if copies is None else copies[:, None])

    def step(self, actions):
        self.dice = np.array([[rng.integers(1, 7)] for rng in self.rngs], dtype=np.float32)
        self.rolls, self.luck, self.name = self.rolls + 1, self.luck + float(self.dice[0, 0]), f"roll {self.rolls}"
        self.lucky = bool(self.dice[0, 0] == 6)
        ended = self.alive & (self.shared.random((self.num_envs, 1)) < 0.2)
        self.alive = self.alive & ~ended
        return CoreStep(np.where(self.alive | ended, self.dice + self.luck, 0.0), ended, np.zeros_like(ended))

    def observations(self):
        return {"roller": self.dice.copy()}

    def state(self):
        return self.dice.copy()


def play(core, n_steps, seed):
    """Random actions, resetting copies that end; everything that can be seen."""
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(n_steps):
        outcome = core.step(rng.integers(2, size=core.alive.shape))
        seen += [outcome.rewards, outcome.terminated, outcome.truncated, core.alive, core.state()]
        seen += [array.copy() for array in core.observations().values()]
        core.reset(~core.alive.any(axis=1))
    return seen


def assert_equal_lists(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def through_json(value):
    """Stored as JSON and arrays, and read again; fails on anything else."""
    arrays = []

    def placed(entry):
        if isinstance(entry, np.ndarray):
            assert not entry.dtype.hasobject
            arrays.append(entry)
            return {"array": len(arrays) - 1}
        if isinstance(entry, dict):
            assert all(isinstance(key, str) for key in entry)
            return {key: placed(item) for key, item in entry.items()}
        return [placed(item) for item in entry] if isinstance(entry, list) else entry

    def replaced(entry):
        if isinstance(entry, dict):
            if entry.keys() == {"array"}:
                return arrays[entry["array"]]
            return {key: replaced(item) for key, item in entry.items()}
        return [replaced(item) for item in entry] if isinstance(entry, list) else entry

    return replaced(json.loads(json.dumps(placed(value), allow_nan=False)))


def dice(bit_generator=np.random.PCG64):
    return DiceCore(3, bit_generator)


@pytest.mark.parametrize("name", [*WORLDS, "dice", "dice_mt19937"])
def test_a_restored_core_goes_on_as_the_original(name):
    kinds = {"dice": np.random.PCG64, "dice_mt19937": np.random.MT19937}
    core = dice(kinds[name]) if name in kinds else WORLDS[name].make_core(3)
    core.seed([5, 6, 7])
    core.reset()
    play(core, 30, seed=1)
    snapshot = through_json(core.snapshot())
    expected = play(core, 50, seed=2)
    other = core.replicate(3)
    other.restore(snapshot)
    assert_equal_lists(play(other, 50, seed=2), expected)
    core.restore(snapshot)
    assert_equal_lists(play(core, 50, seed=2), expected)


@pytest.mark.parametrize("name", WORLDS)
def test_arrays_are_copied_both_ways(name):
    core = WORLDS[name].make_core(2)
    core.reset()
    snapshot = core.snapshot()
    as_it_was = {key: array.copy() for key, array in snapshot.items()}
    play(core, 5, seed=0)
    core.restore(snapshot)
    play(core, 5, seed=0)
    for key, array in snapshot.items():
        np.testing.assert_array_equal(array, as_it_was[key])


def test_generators_stay_the_same_objects():
    core = dice()
    rng = core.rngs[1]
    core.restore(core.snapshot())
    assert core.rngs[1] is rng


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"steps": None},
            r"snapshot of CheckersCore: 'steps' must be an array of shape \(2,\) and dtype int64, got a NoneType",
        ),
        ({"steps": np.zeros(3, np.int64)}, r"'steps' must be .*, got shape \(3,\) and dtype int64"),
        ({"alive": np.ones((2, 2))}, r"'alive' must be .* dtype bool, got shape \(2, 2\) and dtype float64"),
        ({"_arrived": True}, r"snapshot of CheckersCore lacks \[\] and has unknown \['_arrived'\]; was it taken from another"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_and_changes_nothing(changes, message):
    core = checkers_v0.parallel_env().make_core(2)
    core.reset()
    snapshot = core.snapshot()
    core.step(np.array([[1, 1], [0, 2]]))
    before = core.state()
    with pytest.raises(ValueError, match=message):
        core.restore({**snapshot, **changes})
    np.testing.assert_array_equal(core.state(), before)


@pytest.mark.parametrize(
    ("world", "name", "high"),
    [
        ("checkers_v0", "cells", 23),
        ("checkers_v0", "steps", 100),
        ("checkers_v0", "_grid", 4),
        ("switch_v0", "cells", 20),
        ("stag_hunt_v0", "animals", 15),
        ("escalation_v0", "lit", 24),
        ("escalation_v0", "streak", 50),
        ("predator_prey_v0", "cells", 100),
        ("predator_prey_v0", "prey", 100),
    ],
)
def test_numbers_outside_the_grid_are_refused_and_change_nothing(world, name, high):
    core = make(world).make_core(2)
    core.reset()
    before = core.snapshot()
    for value in (-1, high + 1, np.iinfo(np.int64).min, np.iinfo(np.int64).max):
        spoilt = core.snapshot()
        spoilt[name].flat[-1] = value
        with pytest.raises(ValueError, match=rf"{name}' must be integers from 0 to {high}, got {value}$"):
            core.restore(spoilt)
        assert_equal_lists(list(core.snapshot().values()), list(before.values()))
    for value in (0, high):
        spoilt[name].flat[-1] = value
        core.restore(spoilt)
        play(core, 20, seed=0)


def test_grid_of_checkers_with_agents_in_other_places_is_played():
    core = checkers_v0.parallel_env(lemon_rewards=(-5, -5), apple_rewards=(1, 1)).make_core(1)
    core.reset()
    snapshot = core.snapshot()
    snapshot["_grid"][:, :24] = 3
    core.restore(snapshot)
    for _ in range(20):
        assert core.step(np.array([[1, 1]])).rewards.tolist() == [[-0.01, -0.01]]


def test_missing_entries_and_other_things_than_dicts_are_refused():
    core = matrix_game_v0.parallel_env().make_core(1)
    with pytest.raises(ValueError, match=r"lacks \['alive', '_rounds', '_last_actions', '_last_rewards'\]"):
        core.restore({})
    with pytest.raises(ValueError, match=r"must be a dict with .*, got a list"):
        core.restore([])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shared", {}, r"'shared' must be the state of a PCG64, which it is not: ValueError"),
        ("shared", 3, r"'shared' must be the state of a PCG64, which it is not: TypeError"),
        ("shared", np.random.MT19937(0).state, r"'shared' must be the state of a PCG64"),
        ("rngs", [], r"'rngs' must have 3 entries, got 0"),
        ("rngs", {}, r"'rngs' must be of type list, got dict"),
        ("rngs", [{}, {}, {}], r"'rngs'\[0\] must be the state of a PCG64"),
        ("rolls", 1.0, r"'rolls' must be of type int, got float"),
    ],
)
def test_generators_and_numbers_are_checked_too(name, value, message):
    core = dice()
    with pytest.raises(ValueError, match=message):
        core.restore({**core.snapshot(), name: value})


def test_what_a_snapshot_cannot_hold_is_named():
    core = dice()
    core.luck = object()
    with pytest.raises(TypeError, match=r"DiceCore.luck is of type object, which a snapshot cannot hold; expected an array"):
        core.snapshot()
    core.luck, core.dice = 0.0, np.array([None])
    with pytest.raises(TypeError, match=r"DiceCore.dice is of type ndarray, which"):
        core.snapshot()


def test_a_core_that_names_nothing_cannot_save_its_state():
    class Silent(DiceCore):
        changing = ()

    core = Silent(1)
    assert not core.can_snapshot and not CoreParallelEnv(core).can_snapshot
    with pytest.raises(TypeError, match="Silent cannot save its state: it names no attributes in 'changing'"):
        core.snapshot()


def env_play(env, n_steps, seed):
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(n_steps):
        if not env.agents:
            seen += list(env.reset()[0].values())
        observations, *rest, _ = env.step({agent: int(rng.integers(2)) for agent in env.agents})
        seen += [*observations.values(), *(list(part.values()) for part in rest), env.state(), env.agents]
    return seen


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("n_steps", [0, 1, 7, 8, 9, 10])
def test_the_pettingzoo_view_goes_on_too(name, n_steps):
    core = WORLDS[name].make_core(1)
    env, other = CoreParallelEnv(core), CoreParallelEnv(core.replicate(1))
    assert env.can_snapshot
    env.reset()
    env_play(env, n_steps, seed=1)
    other.restore(through_json(env.snapshot()))
    assert other.agents == env.agents
    assert_equal_lists(env_play(other, 20, seed=2), env_play(env, 20, seed=2))


def test_whether_an_episode_runs_is_restored():
    fresh, over = checkers_v0.parallel_env().snapshot(), checkers_v0.parallel_env(max_cycles=1)
    over.reset()
    over.step({"agent_0": 4, "agent_1": 4})
    env = checkers_v0.parallel_env(max_cycles=1)
    for snapshot, reason in ((over.snapshot(), "the episode is over"), (fresh, "no episode has begun")):
        env.restore(snapshot)
        with pytest.raises(RuntimeError, match=reason):
            env.step({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agents": ["agent_1", "agent_0"]}, r"snapshot of checkers_v0: 'agents' must list some of .* in that order"),
        ({"agents": ["stranger"]}, "'agents' must list some of"),
        ({"agents": "agent_0"}, "'agents' must list some of"),
        ({"started": 1}, "'started' must be of type bool, got int"),
        ({"core": {}}, "snapshot of CheckersCore lacks"),
        ({"more": 1}, r"has unknown \['more'\]"),
    ],
)
def test_the_pettingzoo_view_checks_its_snapshot(changes, message):
    env = checkers_v0.parallel_env()
    snapshot = env.snapshot()
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.restore({**snapshot, **changes})
    assert env.agents == ["agent_0", "agent_1"]
