"""Envs that hang, or that want to end the program: an EnvError that names the copy and the moment."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest

from sb3_matrl import MATRL
from sb3_matrl.evaluation import RandomPolicy, play_episodes
from sb3_matrl.vec_env import EnvError, make_joint_vec_env
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_KIND

ACTIONS = {"zebra": np.ones(4, int), "ant": np.zeros(4, int)}


class Stuck(toys.ToyEnv):
    """Does something bad in a method, from its third call on."""

    def __init__(self, where: str, what: Any) -> None:
        self.__dict__.update(vars(toys.plain()))
        self.where, self.what, self.calls = where, what, 0
        self.did("make")

    def did(self, where: str) -> None:
        self.calls += where == self.where
        if self.calls >= (1 if where == "make" else 3):
            self.what()

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.did("reset")
        return super().reset(seed, options)

    def step(self, actions: Any) -> Any:
        self.did("step")
        return super().step(actions)


def hang() -> None:
    time.sleep(600)


def leave() -> None:
    sys.exit(3)


class StuckInOneCopy(Stuck):
    """Only the copy that was seeded with copy 2's seed is bad."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        from sb3_matrl.vec_env.joint import copy_seeds

        self.mine = getattr(self, "mine", False) or seed == copy_seeds(7, 4)[2]
        return super().reset(seed, options)

    def did(self, where: str) -> None:
        if getattr(self, "mine", False):
            super().did(where)


@pytest.mark.cases(e2e=["auto"], rest="expensive")
@pytest.mark.parametrize("kind", ["auto", "supersuit-subproc"])
def test_a_worker_that_hangs_in_a_step_is_ended(kind: str) -> None:
    factory = partial(StuckInOneCopy, "step", hang)
    env = make_joint_vec_env(factory, 4, kind, seed=7, num_cpus=2, env_timeout=1.0)
    assert env.backend.layout == "separate"
    start = time.monotonic()
    with closing(env):
        env.reset()
        env.step(ACTIONS)
        env.step(ACTIONS)
        with pytest.raises(
            EnvError,
            match=r"\(env copies 2, 3\) did not answer within 1 s \(env_timeout\).*env copy 2 in step 3 of .* with actions "
            r".*'zebra': 1, 'ant': 0",
        ):
            env.step(ACTIONS)
        assert not any(process.is_alive() for process in env.backend.processes)  # type: ignore[attr-defined]
    assert time.monotonic() - start < 30


@pytest.mark.e2e
@pytest.mark.parametrize("where", ["reset", "make"])
def test_a_worker_that_hangs_elsewhere_is_ended(where: str) -> None:
    class Env(Stuck):
        """Hangs in worker processes alone: one copy is made in this process, to read its spaces."""

        def did(self, where: str) -> None:
            import multiprocessing

            if multiprocessing.parent_process() is not None:
                super().did(where)

    with pytest.raises(EnvError, match=r"\(env copies 0, 1\) did not answer within 0.5 s"):
        env = make_joint_vec_env(partial(Env, where, hang), 2, "subproc", num_cpus=1, env_timeout=0.5)
        with closing(env):
            for _ in range(3):
                env.reset()


def test_a_limit_that_is_kept_changes_nothing() -> None:
    with closing(make_joint_vec_env(toys.plain, 4, "subproc", seed=3, num_cpus=2, env_timeout=60)) as env:
        plain = make_joint_vec_env(toys.plain, 4, "dummy", seed=3)
        np.testing.assert_equal(env.reset(), plain.reset())
        for _ in range(6):
            np.testing.assert_equal(env.step(ACTIONS)[:3], plain.step(ACTIONS)[:3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_timeout": 0}, "positive number of seconds"),
        ({"env_timeout": float("nan")}, "positive number of seconds"),
        ({"env_timeout": float("inf")}, "positive number of seconds, at most 2,000,000, not inf"),
        ({"env_timeout": 1e8}, "positive number of seconds, at most 2,000,000"),
        ({"env_timeout": 1, "vec_env": "dummy"}, "needs vec_env='subproc', not 'dummy'"),
        ({"env_timeout": 1, "vec_env": "batched"}, "needs vec_env='subproc', not 'batched'"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_joint_vec_env(toys.plain, 2, **arguments)


def test_an_existing_vec_env_gets_no_limit() -> None:
    with pytest.raises(ValueError, match="env_timeout cannot change an existing JointVecEnv"):
        make_joint_vec_env(make_joint_vec_env(toys.plain), env_timeout=1)


@EVERY_KIND
@pytest.mark.parametrize("where", ["step", "reset"])
def test_an_env_that_exits_is_an_error(kind: str, where: str) -> None:
    with closing(make_joint_vec_env(partial(Stuck, where, leave), 4, kind, num_cpus=2)) as env:
        with pytest.raises(EnvError, match=rf"env copy 0: {where}\(\) raised SystemExit: 3 in "):
            for _ in range(3):
                env.reset()
                env.step(ACTIONS)


@EVERY_KIND
def test_an_env_that_exits_while_it_is_made_is_an_error(kind: str) -> None:
    with pytest.raises(EnvError, match="making the env raised SystemExit: 3"):
        make_joint_vec_env(partial(Stuck, "make", leave), 2, kind)


def test_training_and_playing_end_with_the_error_too() -> None:
    with pytest.raises(EnvError, match="SystemExit"):
        MATRL("MlpPolicy", partial(Stuck, "step", leave), n_steps=8, batch_size=8, seed=0, device="cpu").learn(8)
    env = Stuck("step", leave)
    policy = RandomPolicy(env._observation_spaces, env._action_spaces)
    with pytest.raises(EnvError, match=r"step\(\) raised SystemExit: 3"):
        play_episodes(policy, env)
