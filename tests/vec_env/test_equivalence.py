"""Every backend gives exactly what hand-driven single envs give."""

from functools import partial

import pytest

from sb3_matrl.envs import checkers_v0, matrix_game_v0, switch_v0
from sb3_matrl.vec_env import make_joint_vec_env
from tests.vec_env.reference import assert_same_as_reference
from tests.vec_env.toys import WELL_BEHAVED

SHIPPED = {
    "checkers": partial(checkers_v0.parallel_env, max_cycles=17),
    "switch": partial(switch_v0.parallel_env, max_cycles=13),
    "switch leave": partial(switch_v0.parallel_env, max_cycles=40, finished_agents="leave"),
    "matrix game": matrix_game_v0.parallel_env,
}


def play(factory, kind, n_envs, n_steps, **options):
    venv = make_joint_vec_env(factory, n_envs, kind, seed=11, **options)
    try:
        return assert_same_as_reference(venv, factory, venv.seed(11), n_steps)
    finally:
        venv.close()


@pytest.mark.parametrize("name", WELL_BEHAVED)
def test_dummy_gives_what_single_envs_give(name):
    assert play(WELL_BEHAVED[name], "dummy", 3, 40) >= 9


@pytest.mark.parametrize("name", ["unequal", "early_death", "late_entry"])
def test_subproc_gives_what_single_envs_give(name):
    assert play(WELL_BEHAVED[name], "subproc", 3, 25, num_cpus=2) >= 5


@pytest.mark.parametrize("kind", ["batched", "dummy"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_envs_give_what_single_envs_give(name, kind):
    assert play(SHIPPED[name], kind, 4, 90) >= 4


def test_shipped_env_in_worker_processes_gives_what_single_envs_give():
    assert play(SHIPPED["switch leave"], "subproc", 3, 60) >= 2


@pytest.mark.parametrize("kind", ["batched", "dummy"])
def test_some_agent_of_switch_leaves_before_the_others(kind):
    """The comparison above covers early death in a batched env only if there is one."""
    venv = make_joint_vec_env(SHIPPED["switch leave"], 8, kind, seed=0)
    venv.reset()
    partly_alive = False
    for _ in range(120):
        actions = {agent: [venv.action_spaces[agent].sample() for _ in range(8)] for agent in venv.agents}
        venv.step(actions)
        partly_alive |= bool((venv.alive.any(axis=1) & ~venv.alive.all(axis=1)).any())
    assert partly_alive
