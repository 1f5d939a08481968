"""JointVecEnv keeps SB3's conventions."""

import os
import subprocess
import sys
import textwrap
from contextlib import closing

import numpy as np
import pytest
import supersuit
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.envs import checkers_v0
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.vec_env.joint import copy_seeds
from sb3_matrl.vec_env.workers import end_workers
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_KIND
from tests.vec_env.reference import random_actions
from tests.vec_env.test_supersuit_traps import PassThrough


def actions_for(venv):
    return random_actions(venv.action_spaces, venv.num_envs, np.random.default_rng(0))


def test_copy_0_gets_the_seed_itself_and_the_others_independent_ones():
    seeds = copy_seeds(17, 64)
    spawned = np.random.SeedSequence(17).spawn(63)
    assert seeds == [17, *(int(child.generate_state(1)[0]) for child in spawned)]
    assert len(set(seeds)) == 64 and all(0 <= seed < 2**32 for seed in seeds)
    assert copy_seeds(17, 3) == seeds[:3], "more copies do not change the others' seeds"


def test_colliding_seeds_are_drawn_again():
    second = copy_seeds(0, 2)[1]

    class Colliding:
        drawn = iter([0, second, second, 5])

        def __init__(self, seed):
            pass

        def spawn(self, n):
            return [self]

        def generate_state(self, n):
            return [next(self.drawn)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "SeedSequence", Colliding)
        assert copy_seeds(0, 3) == [0, second, 5]


def test_seeds_count_for_one_reset():
    venv = make_joint_vec_env(toys.plain, 2, seed=3)
    assert venv._seeds == copy_seeds(3, 2)
    first, second = venv.reset()["ant"], venv.reset()["ant"]
    assert venv._seeds == [None, None]
    assert (first != second).any()
    venv.seed(3)
    np.testing.assert_array_equal(venv.reset()["ant"], first)
    np.testing.assert_array_equal(venv.reset()["ant"], second)


def test_without_a_seed_fresh_ones_are_drawn():
    venv = make_joint_vec_env(toys.plain, 2)
    seeds = [tuple(venv.seed(None)), tuple(venv.seed()), tuple(venv.seed())]
    assert len(set(seeds)) == 3
    assert venv.seed(np.int64(4))[0] == 4


@pytest.mark.parametrize("kind", ["dummy", "batched"])
def test_attributes_are_reached_through_wrappers(kind):
    venv = PassThrough(make_joint_vec_env(checkers_v0.parallel_env, 2, kind))
    assert isinstance(venv, VecEnv)
    venv.reset()
    assert venv.agents == ["agent_0", "agent_1"] and venv.alive.all() and venv.last_step is None
    _, rewards, _, _ = venv.step(actions_for(venv))
    assert venv.last_step.rewards is rewards
    assert venv.last_step is venv.unwrapped.last_step


def test_what_is_returned_stays_as_it_was():
    """Rollout buffers and callers may keep arrays without copying."""
    for factory in (checkers_v0.parallel_env, toys.early_death):
        venv = make_joint_vec_env(factory, 2, seed=0)
        venv.reset()
        kept = []
        for _ in range(8):
            venv.step(actions_for(venv))
            step = venv.last_step
            arrays = [*step.observations.values(), step.rewards, step.alive, step.terminated, step.truncated, step.dones]
            kept += [(array, array.copy()) for array in arrays]
        for array, as_it_was in kept:
            np.testing.assert_array_equal(array, as_it_was)


def test_order_of_calls_is_enforced():
    venv = make_joint_vec_env(toys.plain, 2)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before the first step"):
        venv.step(actions_for(venv))
    venv.reset()
    with pytest.raises(RuntimeError, match=r"step_wait\(\) without step_async\(\)"):
        venv.step_wait()
    venv.step_async(actions_for(venv))
    with pytest.raises(RuntimeError, match=r"step_async\(\) was called twice"):
        venv.step_async(actions_for(venv))
    venv.step_wait()
    venv.close()
    for call in (venv.reset, lambda: venv.step_async(actions_for(venv))):
        with pytest.raises(RuntimeError, match="is closed"):
            call()


@EVERY_KIND
def test_reset_abandons_a_step_under_way(kind):
    venv = make_joint_vec_env(toys.plain, 2, kind, seed=1)
    venv.reset()
    venv.step_async(actions_for(venv))
    venv.seed(1)
    observations = venv.reset()
    venv.seed(1)
    np.testing.assert_array_equal(observations["ant"], venv.reset()["ant"])
    venv.close()


def test_indices_may_be_none_one_or_many():
    venv = make_joint_vec_env(toys.plain, 3)
    venv.reset()
    venv.set_attr("time", 4, indices=-1)
    assert venv.get_attr("time") == [0, 0, 4]
    assert venv.get_attr("time", 2) == [4]
    with pytest.raises(IndexError):
        venv.get_attr("time", [3])


@EVERY_KIND
def test_attributes_are_found_behind_pettingzoos_conversions(kind):
    with closing(make_joint_vec_env(lambda: supersuit.clip_reward_v0(toys.plain()), 2, kind)) as venv:
        venv.reset()
        venv.set_attr("time", 4, indices=1)
        assert venv.get_attr("time") == [0, 4]
        assert venv.env_method("scaled", 2, indices=1, offset=1) == [9]
        assert venv.env_is_wrapped(toys.ToyEnv) == [True, True]
        with pytest.raises(AttributeError, match="nonsense"):
            venv.get_attr("nonsense")


def test_attributes_are_set_where_they_are_defined():
    venv = make_joint_vec_env(lambda: toys.Doubled(toys.Doubled(toys.plain())), 2)
    base = venv.get_attr("unwrapped")
    venv.set_attr("jitter", 5)
    venv.set_attr("label", "tripled", indices=1)
    venv.set_attr("brand_new", 1)
    assert [env.jitter for env in base] == [5, 5]
    assert [env.brand_new for env in base] == [1, 1]
    assert venv.get_attr("label") == ["doubled", "tripled"]
    assert venv.env_is_wrapped(toys.Doubled, [0]) == [True]
    assert venv.env_is_wrapped(toys.Faulty) == [False, False]


def test_batched_copies_have_no_env_of_their_own():
    venv = make_joint_vec_env(checkers_v0.parallel_env, 3)
    assert venv.get_attr("possible_agents", [0, 1]) == [venv.agents] * 2
    assert venv.env_is_wrapped(toys.Doubled) == [False] * 3
    assert not venv.has_attr("nonsense")
    with pytest.raises(NotImplementedError, match="set 'x' on; make them with vec_env='dummy'"):
        venv.set_attr("x", 1)
    with pytest.raises(NotImplementedError, match=r"call state\(\) on"):
        venv.env_method("state")


@EVERY_KIND
def test_render_shows_copy_0(kind):
    venv = make_joint_vec_env(toys.plain, 2, kind, render_mode="rgb_array")
    venv.reset()
    venv.step(actions_for(venv))
    assert venv.metadata["render_modes"] == ["human", "rgb_array"]
    np.testing.assert_array_equal(venv.render(), np.ones((2, 3, 3)))
    (image,) = venv.get_images()
    np.testing.assert_array_equal(image, venv.render("rgb_array"))
    with pytest.warns(UserWarning, match="nothing is drawn in mode 'ansi': the env was made with render_mode='rgb_array'"):
        assert venv.render("ansi") is None
    venv.close()


def test_batched_render_shows_copy_0_as_the_single_env_does():
    venv = make_joint_vec_env(checkers_v0.parallel_env, 2, render_mode="ansi")
    env = checkers_v0.parallel_env(render_mode="ansi")
    venv.reset()
    env.reset()
    venv.step({"agent_0": [3, 1], "agent_1": [3, 4]})
    env.step({"agent_0": 3, "agent_1": 3})
    assert venv.render() == env.render()
    with pytest.warns(UserWarning, match="made without a render_mode"):
        assert make_joint_vec_env(checkers_v0.parallel_env).render() is None


def test_batched_human_rendering_opens_a_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    venv = make_joint_vec_env(checkers_v0.parallel_env, 2, render_mode="human")
    venv.reset()
    assert venv.render() is None
    venv.render()
    venv.close()
    venv.close()


@pytest.mark.e2e
def test_workers_end_with_the_program_even_without_close():
    program = """
        from tests.vec_env import toys
        from sb3_matrl.vec_env import make_joint_vec_env
        venv = make_joint_vec_env(toys.plain, 2, "subproc")
        venv.reset()
        print(*(process.pid for process in venv.backend.processes))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stderr == ""
    for pid in result.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.e2e
def test_workers_forked_later_do_not_touch_those_of_a_vec_env_that_is_garbage():
    program = """
        import gc, os
        from tests.vec_env import toys
        from sb3_matrl.vec_env import make_joint_vec_env
        here = os.getpid()
        def make():
            if os.getpid() != here:
                gc.collect()
            return toys.plain()
        gc.disable()
        first = make_joint_vec_env(toys.plain, 2, "subproc")
        first.itself = first
        first.close()
        del first
        second = make_joint_vec_env(make, 2, "subproc")
        second.reset()
        second.close()
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stderr == ""


def test_an_error_on_closing_in_a_worker_is_raised_after_all_have_ended(tmp_path):
    def make():
        env = toys.plain()
        env.close = lambda: open(tmp_path / "missing" / "file")
        return env

    description = toys.plain()
    venv = make_joint_vec_env(_first_then(description, make), 2, "subproc")
    processes = venv.backend.processes
    with pytest.raises(FileNotFoundError):
        venv.close()
    assert not any(process.is_alive() for process in processes)
    venv.close()


def _first_then(first, make):
    """A factory that gives ``first`` in this process, where the spaces are read, and makes envs in the workers."""
    here = os.getpid()
    return lambda: first if os.getpid() == here else make()


def test_a_worker_that_hangs_is_killed():
    class Pipe:
        closed = False

        def send(self, message):
            raise BrokenPipeError

        def poll(self, timeout):
            return False

        def close(self):
            self.closed = True

    class Process:
        killed = False

        def join(self, timeout=None):
            pass

        def is_alive(self):
            return not self.killed

        def kill(self):
            self.killed = True

    pipe, process = Pipe(), Process()
    assert end_workers([pipe], [process], patience=0.0) is None
    assert pipe.closed and process.killed
