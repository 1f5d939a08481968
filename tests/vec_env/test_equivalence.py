"""Every backend gives exactly what hand-driven single envs give."""

from functools import partial

import numpy as np
import pytest

from sb3_matrl.envs import checkers_v0, escalation_v0, matrix_game_v0, predator_prey_v0, stag_hunt_v0, switch_v0
from sb3_matrl.vec_env import make_joint_vec_env
from tests.vec_env.kinds import EVERY_KIND
from tests.vec_env.reference import assert_same_as_reference, random_actions
from tests.vec_env.toys import WELL_BEHAVED
from tests.vec_env.turn_toys import Waiting

SHIPPED = {
    "checkers": partial(checkers_v0.parallel_env, max_cycles=17),
    "switch": partial(switch_v0.parallel_env, max_cycles=13),
    "stag hunt": partial(stag_hunt_v0.parallel_env, stag_follows=True, respawn=True),
    "escalation": partial(escalation_v0.parallel_env, max_cycles=13),
    "predator-prey": partial(predator_prey_v0.parallel_env, size=4, n_agents=3, n_prey=3, max_cycles=13),
    "predator-prey that leave": partial(
        predator_prey_v0.parallel_env, size=3, n_agents=4, n_prey=2, max_cycles=13, finished_agents="leave"
    ),
    "matrix game": matrix_game_v0.parallel_env,
}
# Cases of these in separate copies; Checkers and Switch stand for them in the quick tests.
SEPARATE_COPIES = [f"{name}-dummy" for name in SHIPPED if name not in ("checkers", "switch")]


RIGHT = 3


def play(factory, kind, n_envs, n_steps, act=random_actions, **options):
    venv = make_joint_vec_env(factory, n_envs, kind, **options)
    try:
        return assert_same_as_reference(venv, factory, venv.seed(11), n_steps, act)
    finally:
        venv.close()


def agent_0_goes_right(action_spaces, num_envs, rng):
    """In Switch it then arrives, and leaves, long before the others."""
    actions = random_actions(action_spaces, num_envs, rng)
    return {**actions, "agent_0": np.where(rng.random(num_envs) < 0.6, RIGHT, actions["agent_0"])}


@pytest.mark.parametrize("name", WELL_BEHAVED)
def test_dummy_gives_what_single_envs_give(name):
    finished, out = play(WELL_BEHAVED[name], "dummy", 3, 40)
    assert finished >= 9 and (out > 0) == (name in ("early_death", "late_entry", "unequal"))


@pytest.mark.parametrize("name", ["unequal", "early_death", "late_entry"])
def test_subproc_gives_what_single_envs_give(name):
    finished, out = play(WELL_BEHAVED[name], "subproc", 3, 25, num_cpus=2)
    assert finished >= 5 and out > 0


@EVERY_KIND
def test_agents_that_wait_give_what_single_envs_give(kind):
    finished, out = play(Waiting, kind, 3, 40)
    assert finished >= 6 and out > 0


@pytest.mark.cases(expensive=SEPARATE_COPIES)
@pytest.mark.parametrize("kind", ["batched", "dummy"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_envs_give_what_single_envs_give(name, kind):
    finished, _ = play(SHIPPED[name], kind, 4, 60)
    assert finished >= 4


@pytest.mark.cases(expensive=["dummy", "subproc"])
@pytest.mark.parametrize("kind", ["batched", "dummy", "subproc"])
def test_agents_that_leave_switch_early_give_what_single_envs_give(kind):
    factory = partial(switch_v0.parallel_env, n_agents=2, max_cycles=40, finished_agents="leave")
    finished, out = play(factory, kind, 3, 110, agent_0_goes_right)
    assert finished >= 6 and out > 10
