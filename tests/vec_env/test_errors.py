"""An env that raises or a worker process that dies: the message says in which copy, when, and after which actions."""

import os
import pickle
import re
import signal
import time
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from sb3_matrl.vec_env import EnvError, make_joint_vec_env
from sb3_matrl.vec_env.errors import CopyFailure, WorkerLost
from sb3_matrl.vec_env.joint import copy_seeds
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_IN_WORKERS, EVERY_KIND

SEEDS = copy_seeds(7, 4)


def failing(how, kind, copy=2, n_envs=4):
    """Copies of which one fails; two copies in each of two worker processes."""
    return make_joint_vec_env(partial(toys.Failing, SEEDS[copy], how), n_envs, kind, seed=7, num_cpus=2)


def play(venv, n_steps):
    """Copy k's agents play (k, time % 4)."""
    for step in range(n_steps):
        venv.step({"zebra": np.minimum(np.arange(venv.num_envs), 2), "ant": np.full(venv.num_envs, step % 4)})


@EVERY_KIND
def test_an_env_that_raises_in_a_step(kind):
    with closing(failing("raise", kind)) as venv:
        venv.reset()
        play(venv, 2)
        with pytest.raises(EnvError) as caught:
            play(venv, 1)
        assert str(caught.value) == (
            f"env copy 2: step() raised KeyError: 'lost' in step 3 of episode 1 since seed {SEEDS[2]}, "
            "with actions {'zebra': 2, 'ant': 0}"
        )
        assert type(caught.value.__cause__) is KeyError and caught.value.__cause__.args == ("lost",)
        with pytest.raises(RuntimeError, match="after an error"):
            play(venv, 1)


@EVERY_IN_WORKERS
def test_the_traceback_in_a_worker_process_is_kept(kind):
    with closing(failing("raise", kind)) as venv:
        venv.reset()
        with pytest.raises(EnvError) as caught:
            play(venv, 3)
        (note,) = caught.value.__cause__.__notes__
        assert "Traceback in the worker process" in note and 'raise KeyError("lost")' in note
        assert not any(process.is_alive() for process in venv.backend.processes)
        with pytest.raises(RuntimeError, match="worker processes have ended after an earlier error; make a new"):
            venv.reset()


@EVERY_KIND
def test_an_env_that_raises_in_its_automatic_reset(kind):
    """The episodes of five steps are counted from the seed on, also after a reset without one."""
    with closing(failing("reset", kind, copy=1)) as venv:
        venv.reset()
        play(venv, 5)
        with pytest.raises(EnvError) as caught:
            play(venv, 5)
        assert str(caught.value) == (
            f"env copy 1: reset() raised OSError: no more levels in step 5 of episode 2 since seed {SEEDS[1]}, "
            "with actions {'zebra': 1, 'ant': 0}"
        )


@EVERY_KIND
def test_an_env_that_raises_when_all_are_reset(kind):
    with closing(failing("reset", kind, copy=1)) as venv:
        venv.reset()
        venv.reset()
        with pytest.raises(EnvError) as caught:
            venv.reset()
        expected = f"env copy 1: reset() raised OSError: no more levels in reset() with seed {SEEDS[1]}"
        assert str(caught.value) == expected and isinstance(caught.value.__cause__, OSError)


def test_episodes_are_counted_from_the_last_seed_on():
    venv = failing("raise", "dummy", copy=3)
    venv.set_attr("how", "never", indices=3)
    venv.reset()
    play(venv, 5)
    venv.reset()
    play(venv, 7)
    assert venv._episodes.numbers.tolist() == [4] * 4 and venv._episodes.lengths.tolist() == [2] * 4
    venv.seed(5)
    venv.reset()
    assert venv._episodes.numbers.tolist() == [1] * 4 and venv._episodes.seeds == copy_seeds(5, 4)


def test_a_restored_vec_env_names_the_same_moment():
    class SavingFailing(toys.Failing, toys.Saving):
        def snapshot(self):
            return {**super().snapshot(), "seeded": self.seeded}

        def restore(self, snapshot):
            self.seeded = snapshot["seeded"]
            super().restore(snapshot)

    venv, other = (make_joint_vec_env(partial(SavingFailing, SEEDS[1], "raise"), 4, seed=seed) for seed in (7, 8))
    venv.reset()
    play(venv, 2)
    other.restore(venv.snapshot())
    messages = []
    for each in (venv, other):
        with pytest.raises(EnvError) as caught:
            play(each, 1)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "in step 3 of episode 1 since seed" in messages[0]


def test_actions_of_agents_that_are_out_are_left_out():
    model = toys.early_death()
    env = toys.ToyEnv(model._observation_spaces, model._action_spaces, model.ends, jitter=0)
    venv = make_joint_vec_env(env, 1)
    venv.reset()
    actions = {agent: np.full((1, 2), value, np.float32) for agent, value in (("b", 0.25), ("a", 0.5), ("c", 0.75))}
    venv.step(actions)
    env.step = None
    with pytest.raises(EnvError, match=re.escape("with actions {'a': [0.5, 0.5], 'c': [0.75, 0.75]}")):
        venv.step(actions)


@EVERY_IN_WORKERS
def test_a_worker_process_that_dies_in_a_step(kind):
    with closing(failing("exit", kind, copy=2)) as venv:
        venv.reset()
        play(venv, 2)
        began = time.monotonic()
        with pytest.raises(EnvError) as caught:
            play(venv, 1)
        assert time.monotonic() - began < 60
        assert str(caught.value) == (
            "a worker process of the env (env copies 2, 3) ended without a message: it exited with code 3. "
            "vec_env='dummy' runs the env in this process, where the cause may show. It happened to "
            f"env copy 2 in step 3 of episode 1 since seed {SEEDS[2]}, with actions {{'zebra': 2, 'ant': 0}} or "
            f"env copy 3 in step 3 of episode 1 since seed {SEEDS[3]}, with actions {{'zebra': 2, 'ant': 0}}"
        )
        assert isinstance(caught.value.__cause__, WorkerLost)
        assert not any(process.is_alive() for process in venv.backend.processes)


@EVERY_IN_WORKERS
@pytest.mark.parametrize("call", ["step", "reset", "snapshot", "get_attr"])
def test_a_worker_process_killed_between_steps(call, kind):
    with closing(make_joint_vec_env(partial(toys.saving, "plain"), 2, kind, seed=7, num_cpus=2)) as venv:
        venv.reset()
        victim = venv.backend.processes[1]
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        calls = {"step": lambda: play(venv, 1), "get_attr": lambda: venv.get_attr("time")}
        with pytest.raises(EnvError, match=r"\(env copies 1\) ended without a message: it was killed by signal 9") as caught:
            calls.get(call, getattr(venv, call, None))()
        if call in ("step", "reset"):
            moment = {"step": "step 1 of episode 1 since seed", "reset": "reset() with seed"}[call]
            assert f"env copy 1 in {moment} {SEEDS[1]}" in str(caught.value)


def test_an_unknown_worker_is_said_to_be_unknown():
    assert "worker process of the env ended without a message: it was killed" in str(WorkerLost([], None))


def test_a_failure_survives_its_way_out_of_a_worker_process():
    failure = pickle.loads(pickle.dumps(CopyFailure(3, "step", KeyError("lost"))))
    assert (failure.copy, failure.method, repr(failure.error)) == (3, "step", "KeyError('lost')")
    assert str(failure) == "step() raised KeyError: 'lost'"


@EVERY_IN_WORKERS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_interruptions_to_the_parent(number, kind):
    """Ctrl-C and schedulers signal all processes of a job; the parent must still be able to save its state."""
    with closing(make_joint_vec_env(partial(toys.saving, "plain"), 2, kind, seed=7, num_cpus=2)) as venv:
        venv.reset()
        for process in venv.backend.processes:
            os.kill(process.pid, number)
        play(venv, 2)
        assert venv.snapshot()["episodes"]["lengths"].tolist() == [2, 2]
    assert [process.exitcode for process in venv.backend.processes] == [0, 0]


@EVERY_IN_WORKERS
def test_processes_that_an_env_starts_can_be_terminated(kind):
    with closing(make_joint_vec_env(toys.Spawning, 1, kind)) as venv:
        assert venv.env_method("exit_code_of_a_terminated_child") == [-signal.SIGTERM]
