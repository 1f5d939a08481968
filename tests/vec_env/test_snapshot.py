"""A JointVecEnv restored from a snapshot goes on as the one from which it was taken."""

from contextlib import closing
from functools import partial

import numpy as np
import pytest

from sb3_matrl.envs import checkers_v0, switch_v0
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.vec_env.conform import Life
from tests.envs.test_snapshot import through_json
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_KIND
from tests.vec_env.reference import random_actions
from tests.vec_env.test_equivalence import SEPARATE_COPIES, SHIPPED

LEAVING = partial(switch_v0.parallel_env, n_agents=2, max_cycles=30, finished_agents="leave")
ENVS = {**SHIPPED, "leaving": LEAVING, **{name: partial(toys.saving, name) for name in toys.WELL_BEHAVED}}
CASES = [
    *((name, kind) for name in SHIPPED for kind in ("batched", "dummy")),
    ("leaving", "batched"),
    *((name, "dummy") for name in toys.WELL_BEHAVED),
    ("checkers", "subproc"),
    ("unequal", "subproc"),
]


def play(venv, n_steps, seed):
    """Random joint actions; everything that a user sees, but for the time an episode took."""
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(n_steps):
        observations, rewards, dones, infos = venv.step(random_actions(venv.action_spaces, venv.num_envs, rng))
        step = venv.last_step
        for info in infos:
            if "episode" in info:
                del info["episode"]["t"]
        seen.append(
            (observations, rewards, dones, infos, step.terminated, step.truncated, step.alive, step.final_observations)
        )
    return seen


def assert_identical(one, other):
    """Nested tuples, lists, dicts and arrays are equal, types included."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def assert_goes_on(venv, other, before, after):
    """Play ``venv``, restore its snapshot in ``other``, and play both."""
    venv.reset()
    last = play(venv, before, seed=1)[-1]
    snapshot = through_json(venv.snapshot())
    observations = other.restore(snapshot)
    assert_identical(observations, last[0])
    assert_identical(other.alive, venv.alive)
    assert other.last_step is None and other.reset_infos == [{}] * other.num_envs
    assert_identical(play(other, after, seed=2), play(venv, after, seed=2))
    assert_identical(other.reset(), venv.reset())


@pytest.mark.cases(
    e2e=["unequal-subproc"],
    expensive=["switch-dummy", *SEPARATE_COPIES],
)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_fresh_vec_env_goes_on_as_the_original(name, kind):
    with closing(make_joint_vec_env(ENVS[name], 3, kind, seed=1)) as venv:
        with closing(make_joint_vec_env(ENVS[name], 3, kind, seed=2)) as other:
            assert venv.can_snapshot
            assert_goes_on(venv, other, *((30, 50) if kind != "subproc" else (9, 12)))


def test_worker_processes_and_this_process_share_snapshots():
    with closing(make_joint_vec_env(ENVS["early_death"], 3, "subproc", seed=1, num_cpus=2)) as venv:
        assert_goes_on(venv, make_joint_vec_env(ENVS["early_death"], 3, "dummy", seed=2), 7, 15)


def test_an_env_that_lists_the_dead_goes_on_too():
    """Who has ended, and who of them is still listed, is state outside the env."""

    class SavingLingering(toys.Lingering, toys.Saving):
        pass

    def make():
        model = toys.early_death()
        return SavingLingering(model._observation_spaces, model._action_spaces, model.ends)

    assert_goes_on(make_joint_vec_env(make, 3, seed=1), make_joint_vec_env(make, 3, seed=2), 23, 40)


def test_who_is_alive_is_saved_and_checked():
    life = Life(["a", "b", "c"])
    life.begin(life.possible_agents, ["a", "b", "c"])
    flags = {"a": False, "b": True, "c": True}
    life.advance(["a", "b"], flags, dict.fromkeys(flags, False))
    snapshot = life.snapshot()
    assert snapshot == {"live": ["a"], "ended": ["b", "c"], "gone": ["c"]}
    other = Life(["a", "b", "c"])
    other.restore(snapshot)
    with pytest.raises(ValueError, match="agent 'c' came back"):
        other.advance(["a", "c"], {"a": False}, {"a": False})
    for spoilt in ({"live": ["z"]}, {"live": None}, {"gone": "a"}, {"more": []}):
        with pytest.raises(ValueError, match=r"agent 'z' is in|expected three lists|unknown \['more'\]"):
            other.restore({**snapshot, **spoilt})
    assert other.snapshot() == snapshot


def test_a_snapshot_is_not_changed_by_playing_on():
    for name in ("checkers", "early_death"):
        venv = make_joint_vec_env(ENVS[name], 2, seed=1)
        venv.reset()
        snapshot = venv.snapshot()
        venv.restore(snapshot)
        first = play(venv, 20, seed=1)
        venv.restore(snapshot)
        assert_identical(play(venv, 20, seed=1), first)


def test_pending_seeds_are_part_of_it():
    venv, other = (make_joint_vec_env(ENVS["plain"], 2, seed=seed) for seed in (1, 2))
    venv.reset()
    seeds = venv.seed(77)
    snapshot = venv.snapshot()
    other.restore(snapshot)
    assert snapshot["pending_seeds"] == other._seeds == seeds
    assert_identical(other.reset(), venv.reset())


def test_time_goes_on(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("sb3_matrl.vec_env.episodes.time.time", lambda: clock[0])
    venv = make_joint_vec_env("matrix_game_v0", 1)
    venv.reset()
    clock[0] += 50.0
    snapshot = venv.snapshot()
    clock[0] += 9000.0
    other = make_joint_vec_env("matrix_game_v0", 1)
    other.restore(snapshot)
    clock[0] += 2.0
    *_, infos = other.step({agent: np.zeros(1, np.int64) for agent in other.agents})
    assert infos[0]["episode"]["t"] == 52.0


@EVERY_KIND
def test_envs_that_cannot_save_their_state_are_named(kind):
    with closing(make_joint_vec_env(toys.Bare, 1, kind)) as venv:
        venv.reset()
        assert not venv.can_snapshot
        for call in (venv.snapshot, lambda: venv.restore({})):
            with pytest.raises(TypeError, match=r"Bare.* cannot save its state: Bare would have to define snapshot\(\) and"):
                call()


def test_a_wrapper_must_save_its_own_state():
    def make(wrapper):
        return lambda: wrapper(toys.saving("plain"))

    hidden = make_joint_vec_env(make(toys.Counting), 2)
    assert hidden.get_attr("snapshot"), "PettingZoo's wrappers pass it on"
    assert not hidden.can_snapshot
    hidden.reset()
    with pytest.raises(TypeError, match=r"Counting would have to define .* for the wrapped env's state and its own"):
        hidden.snapshot()
    make_saving = make(toys.SavingCounting)
    assert_goes_on(make_joint_vec_env(make_saving, 2, seed=1), make_joint_vec_env(make_saving, 2, seed=2), 10, 20)


@pytest.mark.parametrize("kind", ["batched", "dummy"])
def test_a_batched_world_may_be_unable_to_save_its_state(kind, monkeypatch):
    monkeypatch.setattr(checkers_v0.CheckersCore, "changing", ())
    venv = make_joint_vec_env("checkers_v0", 1, kind)
    venv.reset()
    assert not venv.can_snapshot
    with pytest.raises(TypeError, match="checkers_v0 cannot save its state: its attribute can_snapshot is false"):
        venv.snapshot()


def test_snapshots_are_taken_between_steps():
    venv = make_joint_vec_env("checkers_v0", 2)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before snapshot\(\)"):
        venv.snapshot()
    venv.reset()
    actions = random_actions(venv.action_spaces, 2, np.random.default_rng(0))
    snapshot = venv.snapshot()
    venv.step_async(actions)
    with pytest.raises(RuntimeError, match=r"during a step: call step_wait\(\) first"):
        venv.snapshot()
    venv.restore(snapshot)
    with pytest.raises(RuntimeError, match=r"step_wait\(\) without step_async\(\)"):
        venv.step_wait()
    venv.set_options({"level": 3})
    with pytest.raises(RuntimeError, match=r"set_options\(\) has set"):
        venv.snapshot()
    venv.close()
    for call in (venv.snapshot, lambda: venv.restore(snapshot)):
        with pytest.raises(RuntimeError, match="is closed"):
            call()


def changed(snapshot, path, value):
    """The snapshot with another value at a path of keys."""
    if not path:
        return value
    changed_entry = changed(snapshot[path[0]], path[1:], value)
    if isinstance(snapshot, list):
        return [changed_entry if index == path[0] else entry for index, entry in enumerate(snapshot)]
    return {**snapshot, path[0]: changed_entry}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["num_envs"], 3, r"snapshot of a JointVecEnv: 'num_envs' is 3, expected 2"),
        (["agents"], ["agent_0"], r"'agents' is \['agent_0'\], expected \['agent_0', 'agent_1'\]"),
        (["layout"], "batched", r"its copies are batched, expected separate; .* vec_env='batched'"),
        (["pending_seeds"], [1], r"'pending_seeds' must be a list of 2 seeds"),
        (["pending_seeds"], [1, -1], r"'pending_seeds' must be a list of 2 seeds"),
        (["episodes", "seeds"], [True, 1], r"snapshot of the episodes: 'seeds' must be a list of 2 seeds"),
        (["episodes", "elapsed"], "long", r"'elapsed' must be a number of seconds, got 'long'"),
        (["episodes", "lengths"], np.zeros(2), r"'lengths' must be an array of shape \(2,\) and dtype int64"),
        (["episodes"], {}, r"snapshot of the episodes lacks"),
        (["envs"], {}, r"snapshot of the env copies lacks \['copies'\]"),
        (["envs", "copies"], [{}], r"'copies' must be a list of 2, one per copy"),
        (["envs", "copies", 1], {}, r"env copy 1, snapshot lacks \['env', 'life', 'rows'\]"),
        (["envs", "copies", 1, "rows"], np.zeros(2), r"env copy 1, snapshot: 'rows' must be an array"),
        (["envs", "copies", 1, "env"], {}, r"env copy 1, snapshot of checkers_v0 lacks"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(path, value, message):
    venv = make_joint_vec_env("checkers_v0", 2, "dummy")
    venv.reset()
    snapshot = venv.snapshot()
    with pytest.raises(ValueError, match=message):
        venv.restore(changed(snapshot, path, value))
    with pytest.raises(RuntimeError, match=r"call reset\(\) before"):
        venv.snapshot()
    venv.restore(snapshot)
    play(venv, 1, seed=0)


def test_worker_processes_survive_a_snapshot_that_does_not_fit():
    with closing(make_joint_vec_env("checkers_v0", 2, "subproc", seed=1)) as venv:
        venv.reset()
        snapshot = venv.snapshot()
        with pytest.raises(ValueError, match="env copy 1, snapshot of checkers_v0 lacks"):
            venv.restore(changed(snapshot, ["envs", "copies", 1, "env"], {}))
        venv.restore(snapshot)
        play(venv, 1, seed=0)


def test_restored_observations_are_checked():
    venv = make_joint_vec_env(ENVS["early_death"], 1, "dummy", seed=1)
    venv.reset()
    snapshot = venv.snapshot()
    rows = snapshot["envs"]["copies"][0]["rows"]
    rows[0, 16:24] = np.array([np.nan]).view(np.uint8)
    with pytest.raises(ValueError, match=r"env copy 0, agent 'b': observation after restore has nan at index \[0\]"):
        venv.restore(snapshot)
