import sys
import types

import pytest
from pettingzoo import AECEnv, ParallelEnv

from sb3_matrl.envs import checkers_v0, factory, make, mamujoco, registered_ids

OTHERS = "'pettingzoo:<family>/<name>-v<version>', 'openspiel:<game>' or 'module:callable'"
KNOWN = f"Known: {', '.join(registered_ids())}; or give {OTHERS}"


@pytest.fixture
def module(monkeypatch):
    """An importable module of somebody else's."""
    fake = types.ModuleType("somebodys_envs")
    fake.make_nothing = lambda: None
    fake.parallel_env = checkers_v0.parallel_env
    fake.NUMBER = 3
    monkeypatch.setitem(sys.modules, "somebodys_envs", fake)
    return fake


def test_registered_ids():
    grids = ["checkers_v0", "switch_v0", "stag_hunt_v0", "escalation_v0", "predator_prey_v0"]
    assert registered_ids() == [*grids, "matrix_game_v0", "pong_v3", *mamujoco.env_ids()]
    assert "hopper_3x1" in registered_ids()


@pytest.mark.parametrize("env_id", [*registered_ids(), "manysegmentswimmer_2x2"])
def test_registered_env_bears_its_id(env_id):
    env = make(env_id)
    assert isinstance(env, ParallelEnv)
    assert env.metadata["name"] == env_id
    assert str(env) == env_id


def test_options_reach_the_environment():
    assert make("switch_v0", n_agents=3).possible_agents == ["agent_0", "agent_1", "agent_2"]


def test_factory_is_the_modules_own_function():
    assert factory("checkers_v0") is checkers_v0.parallel_env


def test_any_callable_of_any_module(module):
    assert make("somebodys_envs:parallel_env", observation="codes").observation_space("agent_0").shape == (11,)


def test_pettingzoo_environment_by_module_and_callable():
    env = make("pettingzoo.butterfly.cooperative_pong_v6:parallel_env", max_cycles=2)
    assert env.possible_agents == ["paddle_0", "paddle_1"]


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("checkers_v1", f"env 'checkers_v1' is unknown; did you mean 'checkers_v0'? {KNOWN}"),
        ("hoper_3x1", f"env 'hoper_3x1' is unknown; did you mean 'hopper_3x1'? {KNOWN}"),
        ("go", f"env 'go' is unknown. {KNOWN}"),
        ("hopper_4x1", "env 'hopper_4x1' is unknown; hopper has: hopper_3x1"),
        ("somebodys_envs:", "env 'somebodys_envs:' must have the form 'module:callable'"),
        (":parallel_env", "env ':parallel_env' must have the form 'module:callable'"),
        (
            "no_such_module:parallel_env",
            "env 'no_such_module:parallel_env': module 'no_such_module' cannot be imported: No module named 'no_such_module'",
        ),
        (
            "somebodys_envs:paralel_env",
            "env 'somebodys_envs:paralel_env': 'paralel_env' in module 'somebodys_envs' does not exist; "
            "did you mean 'parallel_env'?",
        ),
        ("somebodys_envs:NUMBER", "env 'somebodys_envs:NUMBER': 'NUMBER' in module 'somebodys_envs' is not callable"),
    ],
)
def test_wrong_ids_are_explained(module, env_id, message):
    with pytest.raises(ValueError) as caught:
        make(env_id)
    assert str(caught.value) == message


def test_relative_module_names_are_refused():
    with pytest.raises(ValueError, match=r"env '\.x:y': module '\.x' cannot be imported"):
        make(".x:y")


def test_unknown_option_is_explained():
    with pytest.raises(TypeError) as caught:
        make("matrix_game_v0", max_cycle=3)
    assert str(caught.value) == (
        "matrix_game_v0: option 'max_cycle' is unknown; did you mean 'max_cycles'? "
        "Known: game, payoffs, max_cycles, render_mode, team_reward, game_kwargs"
    )


def test_callable_that_returns_something_else_is_refused(module):
    with pytest.raises(TypeError, match=r"env 'somebodys_envs:make_nothing' returned a NoneType, expected a pettingzoo\.Par"):
        make("somebodys_envs:make_nothing")


def test_aec_environments_are_refused_but_for_pettingzoos_own():
    with pytest.raises(TypeError, match=r"expected a pettingzoo\.ParallelEnv"):
        make("pettingzoo.classic.connect_four_v3:env")
    assert isinstance(make("pettingzoo:classic/connect_four-v3"), AECEnv)
