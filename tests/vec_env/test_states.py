"""Global states: exactly those of single envs, free if nobody asks for them, and refused where there are none."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.classic import connect_four_v3
from pettingzoo.utils import BaseParallelWrapper, parallel_to_aec
from stable_baselines3.common.vec_env import VecEnvWrapper
from supersuit import dtype_v0, frame_stack_v1

from sb3_matrl.envs import checkers_v0, make, matrix_game_v0, pong_v3, switch_v0
from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.matrix_game_v0 import MatrixGameCore, MatrixGameOptions
from sb3_matrl.vec_env import EnvDataError, EnvError, make_joint_vec_env
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_IN_WORKERS, EVERY_KIND
from tests.vec_env.reference import random_actions
from tests.vec_env.test_agent_names import Race
from tests.vec_env.test_equivalence import SEPARATE_COPIES, SHIPPED, agent_0_goes_right, play
from tests.vec_env.test_snapshot import assert_identical
from tests.vec_env.turn_toys import SavingTurnGame, TurnGame, Waiting

CHECKERS = SHIPPED["checkers"]
LEAVING = partial(switch_v0.parallel_env, n_agents=2, max_cycles=40, finished_agents="leave")


def wrapped():
    """Wrappers of SuperSuit around a conversion to AEC and back."""
    return frame_stack_v1(dtype_v0(checkers_v0.parallel_env(max_cycles=9), "float64"), 2)


def converted():
    return parallel_to_aec(toys.plain())


class Numbered(Race):
    """Agents named by numbers; the state is a list."""

    def __init__(self):
        super().__init__([5, 2])

    def state(self):
        return [self.t, *self.at.values()]


class Pictured(toys.ToyEnv):
    """A declared state with the shape and dtype of an image."""

    state_space = spaces.Box(0, 255, (3, 4, 3), np.uint8)

    def state(self):
        return np.zeros((3, 4, 3), np.uint8)


def like_plain(kind, **attributes):
    """``toys.plain`` of another class, with other attributes of the class."""
    model = toys.plain()
    return type("Toy", (kind,), attributes)(
        model._observation_spaces, model._action_spaces, dict.fromkeys(model.possible_agents, (3, "truncated"))
    )


def raises(error):
    def state(self):
        raise error

    return state


def acts(venv, seed=0):
    return random_actions(venv.action_spaces, venv.num_envs, np.random.default_rng(seed))


@pytest.mark.cases(expensive=SEPARATE_COPIES)
@pytest.mark.parametrize("kind", ["batched", "dummy"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_envs_give_the_states_of_single_envs(name, kind):
    finished, _ = play(SHIPPED[name], kind, 4, 40, states=True)
    assert finished >= 4


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["batched", "dummy", "subproc"])
def test_states_where_agents_leave_early(kind):
    finished, out = play(LEAVING, kind, 3, 90, agent_0_goes_right, states=True)
    assert finished >= 3 and out > 10


@EVERY_KIND
def test_states_in_worker_processes_and_through_supersuit(kind):
    finished, _ = play(CHECKERS, kind, 3, 40, states=True, num_cpus=2)
    assert finished >= 4


@pytest.mark.parametrize("name", toys.WELL_BEHAVED)
def test_states_whatever_agents_and_spaces_there_are(name):
    finished, _ = play(toys.WELL_BEHAVED[name], "dummy", 3, 30, states=True)
    assert finished >= 6


@EVERY_KIND
def test_states_where_agents_wait(kind):
    finished, _ = play(Waiting, kind, 3, 30, states=True)
    assert finished >= 4


@pytest.mark.parametrize("factory", [wrapped, Numbered, partial(make, "hopper_3x1", max_episode_steps=9)])
def test_states_through_wrappers_and_with_other_names(factory):
    finished, _ = play_by_text(factory, 2, 20)
    assert finished >= 2


def play_by_text(factory, n_envs, n_steps):
    """Compare with envs stepped by hand; they use their own names."""
    with closing(make_joint_vec_env(factory, n_envs, "dummy", states=True)) as venv:
        seeds, finished = venv.seed(3), 0
        envs = [factory() for _ in seeds]
        for env, seed in zip(envs, seeds, strict=True):
            env.reset(seed=seed)
        venv.reset()
        for step in range(n_steps):
            np.testing.assert_array_equal(venv.states, [np.float32(env.state()).flatten() for env in envs])
            actions = acts(venv, step)
            names = [{str(agent): agent for agent in env.agents} for env in envs]
            for copy, env in enumerate(envs):
                env.step({own: actions[text][copy] for text, own in names[copy].items()})
            venv.step(actions)
            for copy, env in enumerate(envs):
                if venv.last_step.dones[copy]:
                    np.testing.assert_array_equal(venv.last_step.final_states[copy], np.float32(env.state()).flatten())
                    env.reset()
                    finished += 1
        return finished, n_steps


def test_states_of_converted_and_turn_based_envs():
    for factory, size in ((converted, 4), (TurnGame, 3)):
        with closing(make_joint_vec_env(factory, 2, states=True, seed=1)) as venv, closing(factory()) as env:
            venv.reset()
            env.reset(seed=1)
            assert venv.state_space.shape == (size,)
            np.testing.assert_array_equal(venv.states[0], np.float32(env.state()).flatten())


def test_the_batched_mujoco_robots_give_the_states_of_the_single_ones():
    factory = partial(make, "hopper_3x1", max_episode_steps=4)
    with closing(make_joint_vec_env(factory, 3, "batched", states=True, seed=5)) as venv:
        with closing(make_joint_vec_env(factory, 3, "dummy", states=True, seed=5)) as other:
            assert venv.state_space == other.state_space and venv.state_space.shape == (11,)
            venv.reset(), other.reset()
            for step in range(6):
                assert_identical(venv.states, other.states)
                actions = acts(venv, step)
                venv.step(actions), other.step(actions)
                assert_identical(venv.last_step.final_states, other.last_step.final_states)
            assert venv.episode_lengths.tolist() == [2, 2, 2]


@pytest.mark.e2e
def test_the_state_of_pong_is_the_machines_memory():
    pytest.importorskip("multi_agent_ale_py")
    with closing(make_joint_vec_env(pong_v3.parallel_env, 1, states=True, seed=0)) as venv:
        env = pong_v3.parallel_env()
        env.reset(seed=0), venv.reset()
        np.testing.assert_array_equal(venv.states[0], env.state())


@pytest.mark.cases(quick=["dummy"])
@EVERY_KIND
def test_a_restored_env_has_the_states_of_the_original(kind):
    for factory in (CHECKERS, partial(toys.saving, "early_death"), SavingTurnGame):
        with closing(make_joint_vec_env(factory, 2, kind, states=True, seed=1)) as venv:
            with closing(make_joint_vec_env(factory, 2, kind, states=True, seed=2)) as other:
                venv.reset()
                for step in range(2):
                    venv.step(acts(venv, step))
                other.restore(venv.snapshot())
                assert_identical(other.states, venv.states)
                for step in range(8):
                    venv.step(acts(venv, step)), other.step(acts(venv, step))
                    assert_identical(other.states, venv.states)
                    assert_identical(other.last_step.final_states, venv.last_step.final_states)


def test_snapshots_fit_envs_with_and_without_states():
    for kind in ("batched", "dummy"):
        with_states, without = (make_joint_vec_env(CHECKERS, 2, kind, states=states, seed=1) for states in (True, False))
        for source, target in ((with_states, without), (without, with_states)):
            source.reset(), source.step(acts(source))
            target.restore(source.snapshot())
            assert_identical(target.snapshot()["envs"], source.snapshot()["envs"])
        np.testing.assert_array_equal(with_states.states[:, -1], np.float32([1 / 17, 1 / 17]))


@pytest.mark.parametrize("kind", ["batched", "dummy", "subproc"])
def test_the_space_is_known_without_states_and_states_say_that_they_are_missing(kind):
    with closing(make_joint_vec_env(CHECKERS, 2, kind)) as venv:
        assert venv.state_space == spaces.Box(0, 1, (97,), np.float32) and not venv.with_states
        venv.reset(), venv.step(acts(venv))
        assert venv.last_step.states is None and venv.last_step.final_states is None
        with pytest.raises(RuntimeError, match=r"made without states: make it with make_joint_vec_env\(\.\.\., states=True\)"):
            print(venv.states)


@pytest.mark.parametrize("kind", ["batched", "dummy"])
def test_states_are_not_computed_unless_asked_for(kind, monkeypatch):
    monkeypatch.setattr(CoreParallelEnv, "state", raises(AssertionError))
    monkeypatch.setattr(MatrixGameCore, "state", raises(AssertionError))
    with closing(make_joint_vec_env(matrix_game_v0.parallel_env, 2, kind)) as venv:
        venv.reset(), venv.step(acts(venv))
    with pytest.raises((AssertionError, ValueError)):
        make_joint_vec_env(matrix_game_v0.parallel_env, 2, kind, states=True).reset()


def test_states_before_the_first_reset():
    with closing(make_joint_vec_env(CHECKERS, 2, states=True)) as venv, pytest.raises(RuntimeError, match=r"call reset\(\)"):
        print(venv.states)


def test_states_of_an_env_in_wrappers_of_sb3():
    class Wrapper(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            return self.venv.step_wait()

    venv = Wrapper(make_joint_vec_env(CHECKERS, 2, states=True))
    venv.reset()
    assert venv.states is venv.unwrapped.states and make_joint_vec_env(venv, states=True) is venv
    with pytest.raises(ValueError, match=r"given has no states: make it with make_joint_vec_env\(\.\.\., states=True\)"):
        make_joint_vec_env(Wrapper(make_joint_vec_env(CHECKERS)), states=True)
    assert not make_joint_vec_env(make_joint_vec_env(CHECKERS), states="auto").with_states


NONE = {
    "no state()": (toys.Bare, r"it does not define state\(\)"),
    "no state() in a wrapper": (lambda: toys.Doubled(toys.Bare()), r"its method state\(\) raised AttributeError"),
    "no state() before the conversion": (
        connect_four_v3.env,
        r"its method state\(\) raised NotImplementedError: .*connect_four",
    ),
    "a space alone": (
        partial(like_plain, toys.ToyEnv, state_space=spaces.Box(0, 1, (2,)), state=raises(NotImplementedError("later"))),
        r"its method state\(\) raised NotImplementedError: later\. Without a state, .*state='observations'",
    ),
    "another shape": (
        partial(like_plain, toys.ToyEnv, state_space=spaces.Box(0, 1, (5,))),
        r"state\(\) has shape \(2, 2\), but its state_space has shape \(5,\)",
    ),
    "text": (partial(like_plain, toys.ToyEnv, state=lambda self: ["a"]), "dtype <U1, expected an array of numbers"),
    "ragged": (partial(like_plain, toys.ToyEnv, state=lambda self: [[1], [2, 3]]), "is no array of numbers"),
    "empty": (partial(like_plain, toys.ToyEnv, state=lambda self: np.zeros(0)), "its state is empty"),
    "empty space": (
        partial(like_plain, toys.ToyEnv, state_space=spaces.Box(0, 1, (0,))),
        r"its state_space Box\(.*\) has no elements",
    ),
    "discrete": (
        partial(like_plain, toys.ToyEnv, state_space=spaces.Discrete(3)),
        r"its state_space is Discrete\(3\), expected a Box",
    ),
    "image": (partial(like_plain, Pictured), r"its state is an image of shape \(3, 4, 3\), which is too large"),
    "image without a space": (partial(like_plain, Pictured, state_space=None), r"its state is an image of shape \(3, 4, 3\)"),
}


@pytest.mark.cases(
    quick=[
        "no state()-dummy",
        "no state() in a wrapper-subproc",
        "a space alone-dummy",
        "another shape-subproc",
        "ragged-dummy",
        "empty-dummy",
        "empty space-dummy",
        "discrete-subproc",
        "image without a space-dummy",
    ],
    rest="expensive",
)
@pytest.mark.parametrize("kind", ["dummy", "subproc"])
@pytest.mark.parametrize("name", NONE)
def test_an_env_without_a_state_is_refused_by_name_or_does_without(name, kind):
    factory, message = NONE[name]
    with pytest.raises(ValueError, match=message) as caught:
        make_joint_vec_env(factory, 2, kind, states=True)
    assert str(caught.value).startswith(f"{factory()} has no state that can be used: ")
    with closing(make_joint_vec_env(factory, 2, kind, states="auto")) as venv:
        venv.reset()
        assert venv.state_space is None and not venv.with_states and venv.last_step is None


def test_a_batched_core_without_a_space_has_no_state():
    class Blind(CoreParallelEnv):
        def make_core(self, num_envs):
            core = super().make_core(num_envs)
            del core.state_space
            return core

    factory = partial(Blind, MatrixGameCore(1, MatrixGameOptions(payoffs=np.zeros((2, 2, 2)))))
    with pytest.raises(ValueError, match="its core has no state_space"):
        make_joint_vec_env(factory, 2, "batched", states=True)
    assert make_joint_vec_env(factory, 2, "batched", states="auto").state_space is None


@pytest.mark.parametrize("states", ["env", 1, None, "observations"])
def test_states_must_be_a_flag_or_auto(states: Any):
    with pytest.raises(ValueError, match=f"states must be True, False or 'auto', not {states!r}"):
        make_joint_vec_env(CHECKERS, states=states)


def test_an_undeclared_state_is_found_and_has_no_bounds():
    assert make_joint_vec_env(toys.plain).state_space is None
    with closing(make_joint_vec_env(toys.plain, states="auto")) as venv:
        assert venv.with_states and venv.state_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)


class Wrong(BaseParallelWrapper):
    """The second copy's states turn wrong after its second step."""

    def __init__(self, env, fault):
        super().__init__(env)
        self.fault, self.wrong = fault, False

    def reset(self, seed=None, options=None):
        self.wrong = self.wrong or seed == SEEDS[1]
        return super().reset(seed, options)

    def state(self):
        state = super().state()
        return self.fault(state) if self.wrong and self.env.time >= 2 else state


SEEDS = make_joint_vec_env(toys.plain, 2).seed(4)


def fails(state):
    raise KeyError("lost")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            lambda state: state * [[1, np.nan], [1, 1]],
            EnvDataError,
            "the state after step 2 has nan at index 1; states must be finite",
        ),
        (lambda state: state + 1e300, EnvDataError, "the state after step 2 has inf at index 0"),
        (lambda state: state[0], EnvDataError, r"state\(\) has shape \(2,\), expected \(2, 2\); the shape must never change"),
        (lambda state: state.astype(str), EnvDataError, "expected an array of numbers"),
        (fails, EnvError, r"state\(\) raised KeyError: 'lost'"),
    ],
)
@EVERY_KIND
def test_a_wrong_state_is_an_error_with_copy_and_time(kind, fault, error, message):
    with closing(make_joint_vec_env(lambda: Wrong(toys.plain(), fault), 2, kind, seed=4, states=True)) as venv:
        venv.reset()
        venv.step(acts(venv))
        with pytest.raises(error, match=rf"env copy 1.*{message}.*in step 2 of episode 1 since seed {SEEDS[1]}"):
            venv.step(acts(venv))
        with pytest.raises(RuntimeError, match="after an error"):
            venv.step(acts(venv))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda core: np.full((2, 1), np.inf), "copy 0, the state after reset has inf at index 0"),
        (lambda core: np.zeros((2, 3)), r"state\(\) has shape \(2, 3\), expected \(2, 1\)"),
    ],
)
def test_a_wrong_state_of_a_batched_core(state, message, monkeypatch):
    venv = make_joint_vec_env(matrix_game_v0.parallel_env, 2, "batched", states=True)
    monkeypatch.setattr(MatrixGameCore, "state", state)
    with pytest.raises(EnvDataError, match=message):
        venv.reset()


def test_a_wrong_final_state(monkeypatch):
    """The state is wrong in the last step alone, before the automatic reset."""
    venv = make_joint_vec_env(matrix_game_v0.parallel_env, 2, "batched", states=True)
    venv.reset()
    right = MatrixGameCore.state
    monkeypatch.setattr(MatrixGameCore, "state", lambda core: np.where(right(core) == 1, np.nan, right(core)))
    with pytest.raises(EnvDataError, match="copy 0, the state after step 1 has nan at index 0"):
        venv.step(acts(venv))


def test_an_env_that_is_asked_is_no_copy_unless_it_is_the_only_one():
    """So that all kinds reset their copies equally often."""

    class Resets(toys.ToyEnv):
        made: list[Any] = []  # noqa: RUF012

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.resets, self.closed = 0, 0
            self.made.append(self)

        def reset(self, seed=None, options=None):
            self.resets += 1
            return super().reset(seed, options)

        def close(self):
            self.closed += 1

    venv = make_joint_vec_env(partial(like_plain, Resets), 2, "dummy", states=True)
    venv.reset()
    assert [(env.resets, env.closed) for env in Resets.made] == [(1, 0), (1, 1), (1, 0)]
    env = like_plain(Resets)
    venv = make_joint_vec_env(env, 1, states=True)
    assert (env.resets, env.closed) == (1, 0) and venv.get_attr("resets") == [1]


@EVERY_IN_WORKERS
def test_workers_that_are_asked_for_states_end_with_the_env(kind):
    venv = make_joint_vec_env(toys.plain(), 2, kind, states=True, seed=0)
    venv.reset()
    assert venv.states.shape == (2, 4)
    processes = venv.backend.processes
    venv.close()
    assert not any(process.is_alive() for process in processes)
