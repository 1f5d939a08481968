"""PettingZoo's own tests, on every combination of options."""

import itertools
import warnings
from functools import partial

import pytest
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

from sb3_matrl.envs import checkers_v0, escalation_v0, matrix_game_v0, predator_prey_v0, stag_hunt_v0, switch_v0

FLAGS = [
    dict(zip(("clock", "full_observability", "team_reward"), flags, strict=True))
    for flags in itertools.product([False, True], repeat=3)
]
FACTORIES = [
    *(
        partial(checkers_v0.parallel_env, observation=observation, max_cycles=12, **flags)
        for observation in ("one_hot", "codes")
        for flags in FLAGS
    ),
    *(
        partial(switch_v0.parallel_env, n_agents=n_agents, finished_agents=finished, max_cycles=12, **flags)
        for n_agents in (2, 3, 4)
        for finished in ("pay", "leave")
        for flags in FLAGS
    ),
    *(
        partial(stag_hunt_v0.parallel_env, max_cycles=12, **dict(zip(names, flags, strict=True)))
        for names in [("clock", "team_reward", "stag_follows", "respawn")]
        for flags in itertools.product([False, True], repeat=4)
    ),
    *(
        partial(escalation_v0.parallel_env, size=3, max_cycles=12, clock=clock, team_reward=team_reward)
        for clock in (False, True)
        for team_reward in (False, True)
    ),
    *(
        partial(predator_prey_v0.parallel_env, size=4, n_agents=3, n_prey=2, max_cycles=12, finished_agents=finished, **flags)
        for finished in ("wait", "leave")
        for flags in FLAGS
    ),
    *(
        partial(matrix_game_v0.parallel_env, game=game, max_cycles=max_cycles, team_reward=team_reward)
        for game in matrix_game_v0.game_names()
        for max_cycles in (1, 3)
        for team_reward in (False, True)
    ),
    partial(matrix_game_v0.parallel_env, game="congestion", game_kwargs={"n_agents": 16, "n_resources": 8}),
]


def describe(factory: partial) -> str:
    return f"{factory.func.__module__.rpartition('.')[2]}-{'-'.join(map(str, factory.keywords.values()))}"


@pytest.mark.parametrize("factory", FACTORIES, ids=describe)
def test_passes_pettingzoos_parallel_tests_without_warnings(factory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(factory(), num_cycles=15)
        parallel_seed_test(factory, num_cycles=15)


@pytest.mark.parametrize("module", [checkers_v0, switch_v0, stag_hunt_v0, escalation_v0, predator_prey_v0, matrix_game_v0])
def test_aec_version_passes_pettingzoos_test(module):
    env = module.env(max_cycles=5)
    api_test(env, num_cycles=15)
    assert env.metadata["name"] == module.__name__.rpartition(".")[2]
