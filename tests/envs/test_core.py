import copy
import logging
import warnings

import cloudpickle
import numpy as np
import pytest

from sb3_matrl.envs import checkers_v0, matrix_game_v0, switch_v0
from sb3_matrl.envs.checkers_v0 import CheckersCore, CheckersOptions
from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv, discrete_actions
from sb3_matrl.envs.switch_v0 import SwitchCore

AGENTS = ["agent_0", "agent_1"]


class CoreWithoutExtras(BatchedCore):
    """Only what the contract asks for."""

    def seed(self, seeds): ...
    def reset(self, copies=None): ...
    def step(self, actions): ...
    def observations(self): ...
    def state(self): ...


class SeedRecorder(CheckersCore):
    seeds = None

    def seed(self, seeds):
        self.seeds = list(seeds)


def test_step_before_the_first_reset_is_refused():
    with pytest.raises(RuntimeError, match=r"checkers_v0: step\(\) was called although no episode has begun; call reset"):
        checkers_v0.parallel_env().step({"agent_0": 4, "agent_1": 4})


def test_step_after_the_end_is_refused_until_reset():
    env = checkers_v0.parallel_env(max_cycles=1)
    env.reset()
    _, _, terminated, truncated, infos = env.step({"agent_0": 4, "agent_1": 4})
    assert not any(terminated.values()) and all(truncated.values()) and infos == {"agent_0": {}, "agent_1": {}}
    with pytest.raises(RuntimeError, match="the episode is over; call reset"):
        env.step({})
    env.reset()
    assert env.agents == AGENTS


@pytest.mark.parametrize(
    ("actions", "missing", "extra"),
    [
        ({"agent_0": 4}, "['agent_1']", "[]"),
        ({"agent_0": 4, "agent_1": 4, "agent_2": 4}, "[]", "['agent_2']"),
        ({"agent_0": 4, "agent1": 4}, "['agent_1']", "['agent1']"),
    ],
)
def test_missing_and_extra_agents_are_named(actions, missing, extra):
    env = checkers_v0.parallel_env()
    env.reset()
    with pytest.raises(ValueError) as caught:
        env.step(actions)
    expected = "checkers_v0: step() needs one action for each of ['agent_0', 'agent_1']; "
    assert str(caught.value) == f"{expected}missing: {missing}, without a turn: {extra}"


@pytest.mark.parametrize("action", [5, -1, 1.0, "3", None, np.array([1])])
def test_invalid_action_is_named_with_its_agent_and_changes_nothing(action):
    env = checkers_v0.parallel_env(render_mode="ansi")
    env.reset()
    before = env.render()
    with pytest.raises(ValueError) as caught:
        env.step({"agent_0": 1, "agent_1": action})
    assert str(caught.value) == f"agent_1: action {action!r} is not valid; expected an element of Discrete(5)"
    assert env.render() == before


@pytest.mark.parametrize("action", [1, np.int64(1), np.uint8(1), np.array(1)])
def test_integers_of_every_kind_are_actions(action):
    env = checkers_v0.parallel_env()
    env.reset()
    _, rewards, *_ = env.step({"agent_0": action, "agent_1": 4})
    assert rewards["agent_0"] == pytest.approx(-5.01)
    assert type(rewards["agent_0"]) is float


@pytest.mark.parametrize("bad", [5, -1, 99, -(2**40)])
def test_core_names_agent_and_value_of_an_invalid_action(bad):
    core = CheckersCore(3)
    core.reset()
    actions = np.full((3, 2), 4)
    actions[2, 1] = bad
    with pytest.raises(ValueError, match=f"^agent_1: action {bad} is not valid; expected an integer from 0 to 4$"):
        core.step(actions)
    assert core.steps.tolist() == [0, 0, 0]


def test_core_refuses_actions_that_are_no_integers():
    core = CheckersCore(2)
    core.reset()
    with pytest.raises(ValueError, match=r"^agent_0: action 0\.5 is not valid; expected an integer from 0 to 4$"):
        core.step(np.full((2, 2), 0.5))


def test_core_refuses_actions_of_another_shape():
    core = SwitchCore(2)
    core.reset()
    with pytest.raises(ValueError, match=r"actions have shape \(2, 3\), expected \(num_envs, n_agents\) = \(2, 4\)"):
        core.step(np.zeros((2, 3), dtype=int))


def test_actions_of_dead_agents_are_ignored_whatever_they_are():
    alive = np.array([[True, False]])
    assert discrete_actions(np.array([[1, 77]]), np.array([5, 5]), alive, AGENTS, idle=4).tolist() == [[1, 4]]
    assert discrete_actions(np.array([[0.5, 0.5]]), np.array([5, 5]), ~alive & False, AGENTS).tolist() == [[0, 0]]


def test_copies_that_are_over_stand_still_until_they_are_reset():
    core = CheckersCore(2, CheckersOptions(max_cycles=2))
    core.reset()
    core.step(np.full((2, 2), 4))
    core.reset(np.array([False, True]))  # the copies are now one step apart
    core.step(np.full((2, 2), 4))
    assert core.alive.tolist() == [[False, False], [True, True]]
    over = core.state()[0]
    outcome = core.step(np.array([[1, 1], [4, 4]]))
    np.testing.assert_array_equal(core.state()[0], over)
    assert outcome.rewards.tolist() == [[0, 0], [-0.01, -0.01]]
    assert outcome.truncated.tolist() == [[False, False], [True, True]]
    assert not outcome.terminated.any()


@pytest.mark.parametrize("module", [checkers_v0, switch_v0, matrix_game_v0])
def test_arrays_given_out_are_not_changed_later(module):
    core = module.parallel_env(max_cycles=3).make_core(4)
    core.reset()
    rng = np.random.default_rng(0)
    kept, as_they_were = [], []
    for _ in range(5):
        outcome = core.step(rng.integers(2, size=core.alive.shape))
        arrays = [outcome.rewards, outcome.terminated, outcome.truncated, core.state(), core.alive]
        kept += [*arrays, *core.observations().values()]
        as_they_were = as_they_were + [array.copy() for array in kept[len(as_they_were) :]]
        core.reset(~core.alive.any(axis=1))
    for array, original in zip(kept, as_they_were, strict=True):
        np.testing.assert_array_equal(array, original)


def test_full_observations_do_not_share_memory():
    core = CheckersCore(2, CheckersOptions(full_observability=True))
    core.reset()
    observations = core.observations()
    assert not np.shares_memory(observations["agent_0"], observations["agent_1"])


@pytest.mark.parametrize(
    "env",
    [
        checkers_v0.parallel_env(observation="codes", clock=True, max_cycles=7, apple_rewards=(10, 1)),
        switch_v0.parallel_env(n_agents=3, finished_agents="leave", step_cost=-1.0),
        matrix_game_v0.parallel_env(game="chicken", max_cycles=4),
    ],
    ids=str,
)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: cloudpickle.loads(cloudpickle.dumps(env))])
def test_make_core_keeps_the_options_also_after_copying(env, duplicate):
    env.reset()
    copied = duplicate(env)
    core = copied.make_core(3)
    assert core.num_envs == 3
    assert core.observation_spaces == env.observation_spaces
    core.reset()
    actions = [0] * len(env.possible_agents)
    outcome = core.step(np.tile(actions, (3, 1)))
    for each in (env, copied):
        observations, rewards, *_ = each.step(dict(zip(env.possible_agents, actions, strict=True)))
        assert list(rewards.values()) == outcome.rewards[2].tolist()
        np.testing.assert_array_equal(observations["agent_1"], core.observations()["agent_1"][2])
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got 0"):
        copied.make_core(0)


def test_deep_copy_plays_on_independently():
    env = checkers_v0.parallel_env(render_mode="ansi")
    env.reset()
    copied = copy.deepcopy(env)
    copied.step({"agent_0": 1, "agent_1": 1})
    assert env.render().endswith("step 0/100") and copied.render().endswith("step 1/100")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda core: cloudpickle.loads(cloudpickle.dumps(core))])
def test_copied_core_plays_on_alike_and_apart(duplicate):
    core = CheckersCore(2)
    core.reset()
    copied = duplicate(core)
    actions = np.array([[1, 1], [0, 2]])
    for _ in range(3):
        np.testing.assert_array_equal(copied.step(actions).rewards, core.step(actions).rewards)
        np.testing.assert_array_equal(copied.state(), core.state())
        np.testing.assert_array_equal(copied.observations()["agent_0"], core.observations()["agent_0"])


def test_spaces_are_the_same_object_at_every_call():
    env = switch_v0.parallel_env()
    assert env.observation_space("agent_2") is env.observation_space("agent_2")
    assert env.action_space("agent_2") is env.action_space("agent_2")
    assert env.action_space("agent_2") is not env.action_space("agent_1")  # each has its own random generator


def test_reset_seeds_the_core_only_when_a_seed_is_given():
    core = SeedRecorder()
    env = CoreParallelEnv(core)
    env.reset()
    assert core.seeds is None
    env.reset(seed=5, options={"ignored": True})
    assert core.seeds == [5]


def test_a_core_of_several_copies_is_refused():
    with pytest.raises(ValueError, match="core with one copy, got one with num_envs=2"):
        CoreParallelEnv(CheckersCore(2))


def test_extras_of_a_core_are_optional():
    core = CoreWithoutExtras()
    with pytest.raises(NotImplementedError, match="CoreWithoutExtras cannot draw itself as 'ansi'"):
        core.render("ansi")
    with pytest.raises(NotImplementedError, match="CoreWithoutExtras cannot be replicated"):
        core.replicate(2)


@pytest.mark.parametrize("module", [checkers_v0, matrix_game_v0])
def test_unknown_picture_is_refused_by_the_core(module):
    with pytest.raises(NotImplementedError, match="cannot draw itself as 'svg'"):
        module.parallel_env().make_core(1).render("svg")


def test_render_without_a_mode_warns_and_draws_nothing(caplog):
    env = checkers_v0.parallel_env()
    env.reset()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        assert env.render() is None
    text = " ".join([str(warning.message) for warning in caught] + caplog.messages)
    assert "checkers_v0 was made without a render_mode, so nothing is drawn; choose from human, rgb_array, ansi" in text
