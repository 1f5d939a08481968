"""The loop over separate copies: the same trajectories and snapshots as with SuperSuit and the batched worlds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, closing
from copy import deepcopy
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
import pytest
from gymnasium import spaces

from sb3_matrl.envs import checkers_v0, env_ids, pong_v3, switch_v0
from sb3_matrl.vec_env import EnvDataError, make_joint_vec_env
from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.describe import describe
from sb3_matrl.vec_env.errors import DataFault
from sb3_matrl.vec_env.value_checks import ObservationCheck
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_IN_WORKERS, EVERY_KIND, IN_PROCESS, IN_WORKERS
from tests.vec_env.reference import random_actions
from tests.vec_env.test_snapshot import assert_goes_on, assert_identical
from tests.vec_env.turn_toys import SavingTurnGame, TurnGame, Waiting

HALFCHEETAH = partial(env_ids.factory("halfcheetah_2x3"), max_episode_steps=9)


def lingering() -> toys.Lingering:
    model = toys.early_death()
    return toys.Lingering(model._observation_spaces, model._action_spaces, model.ends)


# Name -> factory, whether there is a batched core, number of steps
TRAJECTORIES: dict[str, tuple[Any, bool, int]] = {
    "checkers": (partial(checkers_v0.parallel_env, max_cycles=17), True, 60),
    "agents leave": (partial(switch_v0.parallel_env, n_agents=2, max_cycles=30, finished_agents="leave"), True, 90),
    "turns": (TurnGame, False, 60),
    "deaths": (toys.early_death, False, 40),
    "late entries": (toys.late_entry, False, 40),
    "lists the dead": (lingering, False, 40),
    "every kind of space": (toys.unequal, False, 40),
    "masks in observations and infos": (Waiting, False, 40),
    "MuJoCo": (HALFCHEETAH, True, 20),
    "Pong": (partial(pong_v3.parallel_env, max_cycles=12), False, 15),
}


def everything(venv: Any, n_steps: int) -> list[Any]:
    """All that a user sees of a random run, but for the time that episodes took."""
    rng = np.random.default_rng(3)
    seen: list[Any] = [venv.reset(), venv.reset_infos, venv.alive, venv.acting, dict(venv.action_masks)]
    for _ in range(n_steps):
        venv.step(random_actions(venv.action_spaces, venv.num_envs, rng))
        for info in venv.last_step.infos:
            if "episode" in info:
                del info["episode"]["t"]
        seen.append(dict(vars(venv.last_step)))
        seen.append(list(venv.reset_infos))
    return seen


@pytest.mark.cases(quick=["deaths"], expensive=["every kind of space", "checkers", "late entries", "MuJoCo", "Pong"])
@pytest.mark.parametrize("name", TRAJECTORIES)
def test_every_kind_gives_the_same_trajectory(name: str) -> None:
    factory, batched, n_steps = TRAJECTORIES[name]
    runs = {}
    for kind in (*IN_PROCESS, *IN_WORKERS, *["batched"] * batched):
        with closing(make_joint_vec_env(factory, 3, kind, seed=11, num_cpus=2)) as venv:
            runs[kind] = everything(venv, n_steps)
    assert any(step["dones"].any() for step in runs["dummy"][5::2])
    for kind, run in runs.items():
        # Numbers in the infos of a batched core may be Python's.
        compare = np.testing.assert_equal if kind == "batched" else assert_identical
        for one, other in zip(run, runs["supersuit"], strict=True):
            compare(one, other)


@pytest.mark.parametrize("duplicate", [deepcopy, lambda venv: cloudpickle.loads(cloudpickle.dumps(venv))])
@pytest.mark.parametrize("kind", ["dummy", "supersuit"])
def test_copies_of_a_vec_env_go_on_like_the_original(kind: str, duplicate: Any) -> None:
    venv = make_joint_vec_env(toys.early_death, 3, kind, seed=11)
    everything(venv, 5)
    copied = duplicate(venv)
    for one, other in zip(everything(copied, 20), everything(venv, 20), strict=True):
        assert_identical(one, other)


SAVING: dict[str, Any] = {
    "every kind of space": partial(toys.saving, "unequal"),
    "deaths": partial(toys.saving, "early_death"),
    "turns": SavingTurnGame,
    "checkers": partial(checkers_v0.parallel_env, max_cycles=17),
}


@pytest.mark.e2e
@pytest.mark.parametrize("name", SAVING)
@pytest.mark.parametrize("kind", ["dummy", "subproc"])
@pytest.mark.parametrize("supersuit_first", [True, False])
def test_snapshots_of_supersuit_and_of_the_loop_are_the_same(name: str, kind: str, supersuit_first: bool) -> None:
    kinds = ["supersuit", kind] if supersuit_first else [kind, "supersuit"]
    with ExitStack() as stack:
        venvs = [
            stack.enter_context(closing(make_joint_vec_env(SAVING[name], 3, each, seed=seed, num_cpus=2)))
            for seed, each in enumerate(kinds)
        ]
        assert_goes_on(*venvs, 13, 20)
        assert_identical(venvs[0].snapshot()["envs"], venvs[1].snapshot()["envs"])


@EVERY_KIND
def test_rows_in_a_snapshot_have_the_layout_of_saved_models(kind: str) -> None:
    """Flags in bytes 0 to 4, the reward from byte 8 on, the observation from byte 16 on, padded with zeros."""
    with closing(make_joint_vec_env(partial(toys.saving, "late_entry"), 1, kind, seed=1)) as venv:
        venv.reset()
        rng = np.random.default_rng(0)
        for _ in range(12):
            venv.step(random_actions(venv.action_spaces, 1, rng))
            step = venv.last_step
            rows = venv.snapshot()["envs"]["copies"][0]["rows"]
            assert rows.dtype == np.uint8 and rows.shape == (2, 24)
            flags = [step.alive, step.terminated, step.truncated, np.tile(step.dones[:, None], 2), step.acting]
            np.testing.assert_array_equal(rows[:, :5], np.stack([flag[0] for flag in flags], axis=1))
            assert not rows[:, 5:8].any()
            rewards = np.frombuffer(rows[:, 8:16].tobytes(), np.float64)
            np.testing.assert_array_equal(rewards.astype(np.float32), step.rewards[0])
            seen = np.frombuffer(rows[:, 16:].tobytes(), np.int64)
            np.testing.assert_array_equal(seen, [step.observations[agent][0] for agent in venv.agents])


class Grabbing(toys.ToyEnv):
    """Keeps its actions and the observations that it gave, and changes both afterwards."""

    def __init__(self) -> None:
        model = toys.early_death()
        super().__init__(model._observation_spaces, model._action_spaces, model.ends)
        self.kept: list[Any] = []

    def step(self, actions: Any) -> Any:
        for action, as_it_was in self.kept:
            np.testing.assert_array_equal(action, as_it_was)
        for action in actions.values():
            action += 0.25
            self.kept.append((action, action.copy()))
        return super().step({agent: np.clip(action, -1, 1) for agent, action in actions.items()})


@EVERY_KIND
def test_envs_may_keep_and_change_their_actions(kind: str) -> None:
    with closing(make_joint_vec_env(Grabbing, 2, kind, seed=1)) as venv:
        venv.reset()
        rng = np.random.default_rng(0)
        for _ in range(10):
            actions = random_actions(venv.action_spaces, 2, rng)
            given = {agent: action.copy() for agent, action in actions.items()}
            venv.step_async(actions)
            venv.step_wait()
            assert_identical(actions, given)


@pytest.mark.e2e
@EVERY_KIND
def test_actions_that_change_during_a_step_count_as_they_were(kind: str) -> None:
    results = []
    for change in (0.0, 1.0):
        with closing(make_joint_vec_env(toys.early_death, 2, kind, seed=1)) as venv:
            venv.reset()
            actions = {agent: np.full((2, 2), 0.5, np.float32) for agent in venv.agents}
            if change and kind in IN_PROCESS:  # workers may have read them before
                venv.step_async(actions)
                for action in actions.values():
                    action[:] = change
            else:
                venv.step_async(actions)
            results.append(venv.step_wait()[1])
    np.testing.assert_array_equal(*results)


@EVERY_KIND
def test_what_is_returned_stays_as_it_was(kind: str) -> None:
    """Also final observations, Dict observations and masks."""
    with closing(make_joint_vec_env(toys.unequal, 2, kind, seed=0)) as venv:
        kept = [(array, array.copy()) for array in leaves(venv.reset())]
        rng = np.random.default_rng(0)
        for _ in range(12):
            venv.step(random_actions(venv.action_spaces, 2, rng))
            kept += [(array, array.copy()) for array in leaves(dict(vars(venv.last_step)))]
        for array, as_it_was in kept:
            np.testing.assert_array_equal(array, as_it_was)


def leaves(value: Any) -> list[np.ndarray]:
    """Arrays in nested dicts and lists."""
    if isinstance(value, np.ndarray):
        return [value]
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [array for entry in entries for array in leaves(entry)]


class Telling(toys.ToyEnv):
    """``plain`` with an object in an info that cannot be pickled, from the second step on."""

    def __init__(self) -> None:
        self.__dict__.update(vars(toys.plain(jitter=0)))

    def step(self, actions: Any) -> Any:
        *result, _ = super().step(actions)
        return *result, {"ant": {"how": lambda: None} if self.time > 1 else {}}


def test_an_info_that_cannot_be_sent_is_named() -> None:
    with closing(make_joint_vec_env(Telling, 2, "subproc", num_cpus=1, seed=4)) as venv:
        venv.reset()
        actions = {agent: np.zeros(2, int) for agent in venv.agents}
        venv.step(actions)
        with pytest.raises(
            EnvDataError,
            match=r"env copy 0, agent 'ant': its info cannot be sent from the worker process \(.*lambda.*\); leave out what "
            r"cannot be pickled, or use vec_env='dummy'\. It happened in step 2 of episode 1 since seed 4",
        ):
            venv.step(actions)
        assert not any(process.is_alive() for process in venv.backend.processes)
    venv = make_joint_vec_env(Telling, 2, "dummy")
    venv.reset()
    for _ in range(3):
        venv.step(actions)


@pytest.mark.e2e
@EVERY_IN_WORKERS
def test_envs_of_all_sizes_fit_into_the_memory(kind: str) -> None:
    """More workers than copies are not started, and each writes to its own copies alone."""
    for n_envs, num_cpus, expected in ((5, 2, 2), (3, 8, 3)):
        with closing(make_joint_vec_env(toys.unequal, n_envs, kind, seed=2, num_cpus=num_cpus)) as venv:
            assert len(venv.backend.processes) == expected
            other = make_joint_vec_env(toys.unequal, n_envs, "dummy", seed=2)
            assert_identical(everything(venv, 10), everything(other, 10))


def test_arrays_share_no_memory_and_are_aligned() -> None:
    description = describe(toys.unequal())
    memory = bytearray(CopyArrays.nbytes(description, 3))
    arrays = CopyArrays(description, 3, memory)
    every = [
        arrays.rewards,
        arrays.flags,
        arrays.dones,
        *arrays.actions.values(),
        *(array for each in (arrays.observations, arrays.final) for per_leaf in each.values() for array in per_leaf),
    ]
    for number, array in enumerate(every):
        assert array.flags.aligned and array.flags.c_contiguous
        array.view(np.uint8)[...] = number % 2 if array.dtype == bool else number
    for number, array in enumerate(every):
        assert (array.view(np.uint8) == (number % 2 if array.dtype == bool else number)).all()
    assert CopyArrays(description, 3, memory).rewards.tobytes() == arrays.rewards.tobytes()


@pytest.mark.e2e
def test_workers_close_their_envs_when_the_parent_is_killed(tmp_path: Any) -> None:
    program = f"""
        import time
        from functools import partial
        from tests.vec_env import toys
        from sb3_matrl.vec_env import make_joint_vec_env
        venv = make_joint_vec_env(partial(toys.plain, closed_in={str(tmp_path)!r}), 4, "subproc", num_cpus=2)
        venv.reset()
        print(*(process.pid for process in venv.backend.processes), flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = parent.stdout.readline().split()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all((tmp_path / pid).exists() for pid in pids):
        time.sleep(0.05)
    assert [(tmp_path / pid).read_text().count("closed") for pid in pids] == [2, 2]


OBSERVED: dict[str, spaces.Space[Any]] = {
    "a": spaces.Box(-1, 1, (3,), np.float32),
    "b": spaces.Box(-1, 1, (2, 2), np.float32),
    "c": spaces.Box(np.array([-1, 0], np.float64), np.array([1, 5], np.float64), dtype=np.float64),
    "d": spaces.Box(0, 200, (4,), np.uint8),
    "e": spaces.Box(-1, 1, (3,), np.float32),
    "f": spaces.Discrete(4, start=-2),
    "g": spaces.Box(-np.inf, np.inf, (2,), np.float32),
}
SPOILT = [
    ("a", 0.9999, None),
    ("a", 1.5, r"has 1.5.* outside its space"),
    ("b", np.nan, "has nan.* must be finite"),
    ("c", 1.5, r"has 1.5 at index \[0\], outside"),
    ("d", 201, r"has 201 at index \[0\], outside"),
    ("e", -np.inf, "has -inf.* must be finite"),
    ("f", 2, "has 2, outside"),
    ("g", 3e38, None),
    ("g", np.inf, "has inf.* must be finite"),
]


@pytest.mark.parametrize(("agent", "value", "message"), SPOILT)
@pytest.mark.parametrize("copies", [3, 20_000])
def test_one_bad_value_among_all_agents_is_found(agent: str, value: float, message: str | None, copies: int) -> None:
    """Few small arrays are checked together, large ones one by one."""
    check = ObservationCheck(OBSERVED, check_bounds=True)
    observations = {name: np.zeros((copies, *(space.shape or ())), space.dtype) for name, space in OBSERVED.items()}
    rows = np.ones((copies, len(OBSERVED)), bool)
    check(observations, rows, str)
    observations[agent].reshape(copies, -1)[1, 0] = value
    if message is None:
        return check(observations, rows, str)
    with pytest.raises(DataFault, match=rf"^env copy 1, agent '{agent}': observation 1 {message}"):
        check(observations, rows, str)
    rows[1, list(OBSERVED).index(agent)] = False
    check(observations, rows, str)
