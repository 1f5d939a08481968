"""make_joint_vec_env: what it takes for an env, and which backend it chooses."""

import threading
from contextlib import closing
from functools import partial

import gymnasium
import numpy as np
import pytest
from pettingzoo.classic import rps_v2, tictactoe_v3
from pettingzoo.utils.conversions import parallel_to_aec
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_matrl.envs import checkers_v0
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env
from sb3_matrl.vec_env.batched import BatchedBackend
from sb3_matrl.vec_env.loop_backend import DummyBackend, SubprocBackend
from sb3_matrl.vec_env.supersuit_backend import SuperSuitDummyBackend, SuperSuitSubprocBackend
from tests.vec_env import toys
from tests.vec_env.kinds import IN_PROCESS, IN_WORKERS
from tests.vec_env.reference import assert_same_as_reference, random_actions
from tests.vec_env.test_supersuit_traps import PassThrough


def test_auto_is_batched_for_envs_with_a_core_and_dummy_for_others():
    assert isinstance(make_joint_vec_env(checkers_v0.parallel_env).backend, BatchedBackend)
    assert isinstance(make_joint_vec_env(toys.plain).backend, DummyBackend)
    wrapped = make_joint_vec_env(lambda: toys.Doubled(checkers_v0.parallel_env()))
    assert isinstance(wrapped.backend, DummyBackend), "a wrapper may change the rules"


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("batched", BatchedBackend),
        ("dummy", DummyBackend),
        ("subproc", SubprocBackend),
        ("supersuit", SuperSuitDummyBackend),
        ("supersuit-subproc", SuperSuitSubprocBackend),
    ],
)
def test_every_kind_has_its_backend(kind, backend):
    with closing(make_joint_vec_env("checkers_v0", 1, kind)) as venv:
        assert type(venv.backend) is backend


def test_batched_needs_a_core():
    with pytest.raises(ValueError, match=r"vec_env='batched' needs an env with batched rules .* not a ToyEnv"):
        make_joint_vec_env(toys.plain, vec_env="batched")


@pytest.mark.parametrize("kind", [*IN_PROCESS, *IN_WORKERS])
@pytest.mark.parametrize("make", [toys.plain, lambda: parallel_to_aec(toys.plain())], ids=["parallel", "AEC"])
def test_copies_that_are_one_env_are_refused(kind, make):
    shared = make()
    with pytest.raises(Exception, match="returned the same ToyEnv again, but every copy needs its own"):
        make_joint_vec_env(lambda: shared, 3, kind, num_cpus=1)
    with closing(make_joint_vec_env(lambda: shared, 1, "dummy")) as venv:
        venv.reset()
    with closing(make_joint_vec_env(make(), 3, kind)) as venv:  # copies of an instance
        venv.reset()


def test_kwargs_and_render_mode_reach_the_factory():
    venv = make_joint_vec_env("checkers_v0", 2, env_kwargs={"max_cycles": 3}, render_mode="rgb_array")
    assert venv.render_mode == "rgb_array"
    venv.reset()
    for _ in range(3):
        venv.step({agent: [4, 4] for agent in venv.agents})
    assert venv.last_step.dones.all() and venv.last_step.truncated.all()


def test_ids_come_from_the_registry():
    assert make_joint_vec_env("switch_v0", 3).num_envs == 3
    with pytest.raises(ValueError, match=r"checkers_v1.*did you mean 'checkers_v0'"):
        make_joint_vec_env("checkers_v1")


@pytest.mark.parametrize(("kind", "calls"), [("dummy", 3), ("supersuit", 3), ("subproc", 1), ("supersuit-subproc", 1)])
def test_factory_is_called_once_per_copy(kind, calls):
    """With worker processes the one call here tells the spaces; the others happen in the workers."""
    made = []

    def make():
        made.append(None)
        return toys.plain()

    with closing(make_joint_vec_env(make, 3, kind)):
        assert len(made) == calls


def test_an_instance_serves_as_copy_0_and_is_copied_for_the_others():
    env = toys.plain()
    venv = make_joint_vec_env(env, 3)
    assert venv.get_attr("unwrapped")[0] is env and len({id(copy) for copy in venv.get_attr("unwrapped")}) == 3
    play(venv, 1)
    venv.set_attr("time", 99, indices=[1, 2])
    assert env.time == 1


def play(venv, n_steps):
    rng = np.random.default_rng(0)
    venv.reset()
    for _ in range(n_steps):
        venv.step(random_actions(venv.action_spaces, venv.num_envs, rng))


def test_an_instance_stays_untouched_by_worker_processes(tmp_path):
    env = toys.plain(closed_in=str(tmp_path))
    with closing(make_joint_vec_env(env, 2, "subproc")) as venv:
        play(venv, 2)
        assert not list(tmp_path.iterdir())
    assert not hasattr(env, "time")


def test_an_instance_that_cannot_be_copied_serves_alone():
    env = toys.plain()
    env.lock = threading.Lock()
    play(make_joint_vec_env(env, 1), 2)
    for kind in (*IN_PROCESS, *IN_WORKERS):
        with pytest.raises(ValueError, match=r"cannot be copied .*pass a function that makes it instead"):
            make_joint_vec_env(env, 2, kind)


def test_kwargs_are_no_use_for_an_instance():
    with pytest.raises(ValueError, match=r"env_kwargs \['x'\] need a factory"):
        make_joint_vec_env(toys.plain(), env_kwargs={"x": 1})


@pytest.mark.parametrize("make", [lambda: parallel_to_aec(toys.plain()), rps_v2.env])
def test_aec_envs_are_converted(make):
    for env in (make, make()):
        venv = make_joint_vec_env(env, 2, seed=0)
        play(venv, 5)
        assert len(venv.agents) == 2 and venv.last_step.alive.all()


def test_a_real_aec_game_gives_what_single_envs_give():
    factory = partial(rps_v2.parallel_env, max_cycles=4)
    venv = make_joint_vec_env(partial(rps_v2.env, max_cycles=4), 3)
    assert assert_same_as_reference(venv, factory, venv.seed(0), 13) == (9, 0)


def test_agents_take_turns_in_aec_envs_that_pettingzoo_cannot_convert():
    for env in (tictactoe_v3.env, tictactoe_v3.env()):
        venv = make_joint_vec_env(env, 2)
        venv.reset()
        for player in (0, 1):
            assert venv.alive.all() and venv.acting.tolist() == [[player == 0, player == 1]] * 2
            venv.step({agent: [player, 4 + player] for agent in venv.agents})
        assert venv.acting.tolist() == [[True, False]] * 2
        squares = venv.last_step.observations["player_2"]["observation"][1].reshape(9, 2)
        assert np.argwhere(squares).tolist() == [[4, 1], [5, 0]], "the first player's move and the second's"


def test_an_existing_joint_vec_env_is_returned_as_it_is():
    venv = make_joint_vec_env(toys.plain, 3)
    assert make_joint_vec_env(venv) is make_joint_vec_env(venv, n_envs=3) is venv
    wrapped = PassThrough(venv)
    assert make_joint_vec_env(wrapped, seed=4) is wrapped
    assert venv._seeds[0] == 4
    with pytest.raises(ValueError, match="n_envs=2, but the JointVecEnv given has 3 copies"):
        make_joint_vec_env(venv, 2)
    with pytest.raises(ValueError, match="cannot change an existing JointVecEnv"):
        make_joint_vec_env(venv, vec_env="dummy")
    with pytest.raises(ValueError, match="cannot change an existing JointVecEnv"):
        make_joint_vec_env(venv, env_kwargs={"a": 1})


def test_single_agent_vec_envs_are_refused():
    with pytest.raises(TypeError, match="the DummyVecEnv given is a vector environment"):
        make_joint_vec_env(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"vec_env": "batchd"}, "vec_env 'batchd' is unknown; did you mean 'batched'"),
        ({"n_envs": 0}, "n_envs must be a positive integer, not 0"),
        ({"n_envs": 2.0}, "n_envs must be a positive integer, not 2.0"),
        ({"num_cpus": 0}, "num_cpus must be positive"),
        ({"seed": -1}, "seed must be non-negative"),
    ],
)
def test_wrong_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_joint_vec_env(toys.plain, **kwargs)


def test_a_module_is_no_factory():
    with pytest.raises(TypeError, match=r"env must be a factory .*did you mean sb3_matrl.envs.checkers_v0.parallel_env\?"):
        make_joint_vec_env(checkers_v0)


def test_the_first_env_is_closed_when_it_does_not_serve(tmp_path):
    with pytest.raises(ValueError, match="batched"):
        make_joint_vec_env(partial(toys.plain, closed_in=str(tmp_path)), vec_env="batched")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_class_is_what_the_function_makes():
    assert isinstance(make_joint_vec_env(toys.plain), JointVecEnv)
