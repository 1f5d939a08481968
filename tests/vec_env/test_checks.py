"""What is wrong with an env or an action is said where it happens, and so that one can act on it."""

import pickle
from contextlib import closing
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from sb3_matrl.vec_env import EnvDataError, EnvError, make_joint_vec_env
from sb3_matrl.vec_env.answers import results
from sb3_matrl.vec_env.conform import conforming_leaves
from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.copy_loop import CopyLoop
from sb3_matrl.vec_env.env_copy import EnvCopy
from sb3_matrl.vec_env.errors import CopyFailure
from sb3_matrl.vec_env.spaces import leaves_of
from sb3_matrl.vec_env.value_checks import ActionRangeCheck, ObservationCheck
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_KIND, IN_PROCESS, IN_WORKERS
from tests.vec_env.reference import random_actions
from tests.vec_env.turn_toys import Waiting

STEP_FAULTS = {
    "observation_shape": r"env copy 0, agent 'ant': observation has shape \(4,\), expected \(3,\)",
    "observation_dtype": r"env copy 0, agent 'ant': observation has dtype <U1, expected float32",
    "observation_bounds": r"env copy 0, agent 'ant': observation after step 2 has 7.5 at index \[1\], outside .*check_bounds=",
    "observation_nan": r"env copy 0, agent 'ant': observation after step 2 has nan at index \[2\].*must be finite",
    "observation_inf": r"env copy 0, agent 'ant': observation after step 2 has inf at index \[0\].*must be finite",
    "observation_ragged": r"env copy 0, agent 'ant': observation is no array of shape \(3,\): .*inhomogeneous",
    "observation_missing": r"env copy 0, agent 'ant': no observation, though it is in env.agents",
    "reward_missing": r"env copy 0, agent 'ant': step\(\) returned no reward",
    "reward_nan": r"env copy 0, agent 'ant': reward after step 2 is nan; it must be finite",
    "reward_large": r"env copy 0, agent 'ant': reward after step 2 is 1e\+300; it must be finite as float32",
    "reward_huge": r"env copy 0, agent 'ant': reward is 10+, expected one number",
    "reward_array": r"env copy 0, agent 'ant': reward is array\(\[0.\]\), expected one number",
    "reward_text": r"env copy 0, agent 'ant': reward is 'much', expected one number",
    "termination_missing": r"env copy 0, agent 'ant': step\(\) returned no termination",
    "termination_of_two": r"env copy 0, agent 'ant': its termination and truncation must be one bool each",
    "truncation_missing": r"env copy 0, agent 'ant': step\(\) returned no truncation",
    "four_results": r"env copy 0, step\(\) must return five dicts",
    "infos_list": r"env copy 0, the infos are of type list, expected a dict keyed by agent",
    "info_text": r"env copy 0, agent 'ant': its info is of type str, expected a dict",
    "agent_unknown": r"env copy 0, agent 'stranger' is in env.agents but not in possible_agents",
    "agent_vanishes": r"env copy 0, agent 'ant' left env.agents without termination or truncation",
    "agent_returns": r"env copy 0, agent 'ant' came back to env.agents after its end",
}
RESET_FAULTS = {
    "reset_nan": r"env copy 0, agent 'ant': observation after reset has nan",
    "reset_nobody": r"env copy 0, env.agents is empty after reset\(\)",
    "reset_alone": r"env copy 0, reset\(\) must return \(observations, infos\)",
    "reset_changes_agents": r"env copy 0, possible_agents changed from .*'zebra', 'ant'.* to .*'ant', 'yak'",
}


SEED = 5


def now(copy):
    return "now"


def play(venv, n_steps=4):
    """Copy 0's agents play 1 and 2."""
    venv.reset()
    for _ in range(n_steps):
        actions = random_actions(venv.action_spaces, venv.num_envs, np.random.default_rng(0))
        venv.step(actions | {"zebra": np.ones(venv.num_envs, int), "ant": np.full(venv.num_envs, 2)})


def moment(fault):
    """What a message says about the moment: the fault is in step 2, or in step 3 where the agent is out since step 2."""
    step, ant = (3, "") if fault == "agent_returns" else (2, ", 'ant': 2")
    return rf"It happened in step {step} of episode 1 since seed {SEED}, with actions {{'zebra': 1{ant}}}$"


@pytest.mark.parametrize("fault", STEP_FAULTS)
def test_faults_of_a_step_are_named(fault):
    venv = make_joint_vec_env(partial(toys.Faulty, fault), 2, "dummy", seed=SEED)
    with pytest.raises(EnvDataError, match=rf"^{STEP_FAULTS[fault]}.*\. {moment(fault)}") as caught:
        play(venv)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, EnvError)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before the first step, and after an error"):
        venv.step(random_actions(venv.action_spaces, 2, np.random.default_rng(0)))


@pytest.mark.parametrize("fault", RESET_FAULTS)
def test_faults_of_a_reset_are_named(fault):
    venv = make_joint_vec_env(partial(toys.Faulty, fault), 2, "dummy", seed=SEED)
    with pytest.raises(EnvDataError, match=rf"{RESET_FAULTS[fault]}.*\. It happened in reset\(\) with seed {SEED}$"):
        for _ in range(2):
            venv.reset()


@pytest.mark.e2e
@pytest.mark.parametrize("fault", ["observation_shape", "observation_nan", "agent_returns", "reset_nobody"])
def test_faults_in_worker_processes_read_the_same(fault):
    messages = []
    for kind in (*IN_PROCESS, *IN_WORKERS):
        with closing(make_joint_vec_env(partial(toys.Faulty, fault), 2, kind, seed=SEED)) as venv:
            with pytest.raises(EnvDataError, match=(STEP_FAULTS | RESET_FAULTS)[fault]) as caught:
                play(venv)
            messages.append(str(caught.value))
    assert len(set(messages)) == 1


@pytest.mark.cases(quick=["dummy", "supersuit"], rest="expensive")
@pytest.mark.parametrize("kind", [*IN_PROCESS, *IN_WORKERS])
def test_a_final_observation_that_is_left_out_is_not_checked(kind):
    high = spaces.Dict({"x": spaces.Box(2, 3, (2,), np.float32), "n": spaces.MultiDiscrete([3, 4])})

    class Silent(toys.ToyEnv):
        def __init__(self):
            ends = {"a": (1, "terminated"), "b": (4, "terminated")}
            super().__init__(dict.fromkeys("ab", high), dict.fromkeys("ab", spaces.Discrete(2)), ends, jitter=0)

        def step(self, actions):
            observations, *rest = super().step(actions)
            return {agent: one for agent, one in observations.items() if agent in self.agents}, *rest

    with closing(make_joint_vec_env(Silent, 2, kind, seed=SEED)) as venv:
        venv.reset()
        venv.step({agent: [0, 1] for agent in "ab"})
        assert venv.last_step.terminated[:, 0].all()
        final = venv.last_step.final_observations["a"]
        assert (final["x"] == 2).all() and (final["n"] == 0).all()
        for _ in range(3):
            venv.step({agent: [0, 1] for agent in "ab"})
        assert venv.last_step.dones.all()


def test_a_fault_in_an_automatic_reset_is_one_of_the_last_step():
    class Spoilt(toys.Faulty):
        def reset(self, seed=None, options=None):
            observations, infos = toys.ToyEnv.reset(self, seed, options)
            self.ends = dict.fromkeys(self.possible_agents, (2, "truncated"))
            self.jitter = 0
            return ({"zebra": observations["zebra"]} if seed is None else observations), infos

    venv = make_joint_vec_env(partial(Spoilt, "reset_nobody"), 1, seed=SEED)
    with pytest.raises(EnvDataError, match=rf"^env copy 0, agent 'ant': no observation.* of episode 1 since seed {SEED}, "):
        play(venv, 9)


def test_a_caller_is_told_that_an_action_is_wrong_not_the_env():
    for kind in ("batched", *IN_PROCESS):
        venv = make_joint_vec_env("matrix_game_v0", 2, kind)
        venv.reset()
        with pytest.raises(ValueError, match="action 99 is not") as caught:
            venv.step({agent: np.array([99, 0]) for agent in venv.agents})
        assert not isinstance(caught.value, EnvError)


def test_an_env_that_cannot_be_made_in_a_worker_says_why(tmp_path):
    """The first call, which tells the spaces, succeeds; those in the workers fail."""
    flag = tmp_path / "made"

    def make():
        if flag.exists():
            raise OSError("no display")
        flag.touch()
        return toys.plain()

    with pytest.raises(OSError, match="no display") as caught:
        make_joint_vec_env(make, 2, "subproc")
    assert "in env copy 0" in caught.value.__notes__


def test_bounds_are_checked_with_room_for_rounding_only():
    check = ObservationCheck({"a": spaces.Box(-1, 1, (2,), np.float32)}, check_bounds=True)
    everyone = np.ones((2, 1), bool)
    check({"a": np.array([[1 + 1e-6, 0], [0, -1 - 1e-6]], np.float32)}, everyone, now)
    with pytest.raises(ValueError, match=r"env copy 1, agent 'a': observation now has -1.0\d* at index \[0\]"):
        check({"a": np.array([[0, 0], [-1.001, 0]], np.float32)}, everyone, now)


def test_bounds_may_differ_between_elements_and_agents_that_are_out_do_not_count():
    box = spaces.Box(np.array([1, -np.inf], np.float32), np.array([np.inf, 5], np.float32))
    check = ObservationCheck({"a": box}, check_bounds=True)
    values = {"a": np.array([[1, -1e30], [0, 0]], np.float32)}
    check(values, np.array([[True], [False]]), now)
    with pytest.raises(ValueError, match="env copy 1"):
        check(values, np.array([[True], [True]]), now)


def test_discrete_observations_have_bounds_too():
    space = spaces.Dict({"n": spaces.Discrete(3, start=2), "m": spaces.MultiDiscrete([2, 4]), "b": spaces.MultiBinary(2)})
    check = ObservationCheck({"a": space}, check_bounds=True)
    good = {"n": np.array([2]), "m": np.array([[1, 3]]), "b": np.array([[0, 1]], np.int8)}
    alive = np.ones((1, 1), bool)
    check({"a": good}, alive, now)
    for key, bad in (("n", [5]), ("n", [1]), ("m", [[2, 0]]), ("b", [[0, 2]])):
        with pytest.raises(ValueError, match=f"outside its space .*entry {key!r}"):
            check({"a": {**good, key: np.array(bad)}}, alive, now)
    ObservationCheck({"a": space}, check_bounds=False)({"a": {**good, "n": np.array([9])}}, alive, now)


def test_observations_may_be_bool():
    for check_bounds in (True, False):
        check = ObservationCheck({"a": spaces.Box(0, 1, (2,), np.bool_)}, check_bounds)
        check({"a": np.array([[True, False]])}, np.ones((1, 1), bool), now)


def test_without_bounds_check_nan_is_still_refused():
    venv = make_joint_vec_env(partial(toys.Faulty, "observation_bounds"), 2, check_bounds=False)
    play(venv)
    assert venv.last_step.observations["ant"][0, 1] == 7.5
    with pytest.raises(ValueError, match="must be finite"):
        play(make_joint_vec_env(partial(toys.Faulty, "observation_nan"), 2, check_bounds=False))


def test_final_observations_are_checked():
    env = toys.plain(jitter=0)
    env.ends = dict.fromkeys(env.possible_agents, (1, "truncated"))
    step = env.step
    env.step = lambda actions: ({**step(actions)[0], "ant": np.full(3, np.nan, np.float32)}, *_last(env))

    def _last(env):
        flags = dict.fromkeys(env.possible_agents, True)
        return dict.fromkeys(env.possible_agents, 0.0), dict.fromkeys(env.possible_agents, False), flags, {}

    with pytest.raises(ValueError, match="agent 'ant': observation after step 1 has nan"):
        play(make_joint_vec_env(env, 1, "dummy"), 1)


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), np.array([1, 2]), [1, 2.0]])
def test_other_widths_and_integers_for_floats_are_converted(value):
    (array,) = conforming_leaves("a", leaves_of(spaces.Box(-9, 9, (2,), np.float32)), value)
    assert array.dtype == np.float32 and array.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("value", "message"), [([256, 0], "does not fit uint8"), ([0.5, 0], "has dtype float64")])
def test_integers_must_fit_and_floats_are_no_integers(value, message):
    with pytest.raises(ValueError, match=message):
        conforming_leaves("a", leaves_of(spaces.Box(0, 255, (2,), np.uint8)), value)


def test_dict_observations_must_have_the_entries_of_their_space():
    leaves = leaves_of(spaces.Dict({"x": spaces.Discrete(2), "y": spaces.Discrete(2)}))
    for value in ({"x": 0}, {"x": 0, "y": 0, "z": 0}, np.zeros(2)):
        with pytest.raises(ValueError, match=r"agent 'a': observation has .*expected a dict of \['x', 'y'\]"):
            conforming_leaves("a", leaves, value)


@pytest.fixture
def venv():
    made = make_joint_vec_env(toys.early_death, 2)
    made.reset()
    return made


def actions_of(venv, **changes):
    return {**random_actions(venv.action_spaces, venv.num_envs, np.random.default_rng(0)), **changes}


def test_actions_must_be_given_for_all_agents_and_no_others(venv):
    with pytest.raises(ValueError, match="actions must be a dict keyed by agent"):
        venv.step(np.zeros((2, 3)))
    missing = actions_of(venv)
    del missing["a"]
    with pytest.raises(ValueError, match=r"actions are missing for \['a'\]; give one array per possible agent"):
        venv.step(missing)
    with pytest.raises(ValueError, match=r"missing for \['a'\] and given for unknown agents \['d'\]"):
        venv.step({**missing, "d": np.zeros(2)})


def test_actions_must_have_the_right_shape_and_kind(venv):
    with pytest.raises(ValueError, match=r"agent 'a' have shape \(2,\), expected \(2, 2\)"):
        venv.step(actions_of(venv, a=np.zeros(2)))
    discrete = make_joint_vec_env(toys.plain, 2)
    discrete.reset()
    with pytest.raises(ValueError, match=r"agent 'ant' have dtype float64, expected integers"):
        discrete.step({"zebra": [0, 0], "ant": np.zeros(2)})
    discrete.step({"zebra": [0, 0], "ant": np.zeros(2, np.int32)})


def test_actions_outside_their_space_are_refused_for_live_agents_only():
    check = ActionRangeCheck({"n": spaces.Discrete(3, start=1), "m": spaces.MultiDiscrete([2, 2])})
    actions = {"n": np.array([1, 4]), "m": np.array([[0, 1], [1, 2]])}
    check(actions, np.array([[True, True], [False, False]]))
    with pytest.raises(ValueError, match=r"env copy 1, agent 'n': action 4 is not in Discrete\(3, start=1\)"):
        check(actions, np.array([[True, True], [True, False]]))
    with pytest.raises(ValueError, match=r"env copy 1, agent 'm': action \[1, 2\] is not in MultiDiscrete"):
        check(actions, np.array([[True, True], [False, True]]))


def test_actions_of_agents_that_wait_are_ignored():
    venv = make_joint_vec_env(Waiting, 1, seed=0)
    venv.reset()
    waiting = [agent for agent, acts in zip(venv.agents, venv.acting[0], strict=True) if not acts]
    assert "late" in waiting and len(waiting) > 1
    absurd = {agent: np.full((1, *(venv.action_spaces[agent].shape)), 99) for agent in waiting}
    venv.step(actions_of(venv, **absurd))
    with pytest.raises(ValueError, match=r"action \[?99.* is not in"):
        venv.step({agent: np.full((1, *venv.action_spaces[agent].shape), 99) for agent in venv.agents})


def test_box_actions_may_exceed_their_bounds_but_not_be_nan():
    check = ActionRangeCheck({"a": spaces.Box(-1, 1, (1,), np.float32)})
    alive = np.ones((1, 1), bool)
    check({"a": np.array([[2.0]], np.float32)}, alive)
    with pytest.raises(ValueError, match="agent 'a': action"):
        check({"a": np.array([[np.nan]], np.float32)}, alive)


class Described(toys.Bare):
    """A ParallelEnv whose description can be spoilt."""

    def __init__(self, agents=("only",), observation=None, action=None):
        self.possible_agents = list(agents)
        self._given = [spaces.Discrete(2) if space is None else space for space in (observation, action)]

    def observation_space(self, agent):
        if self._given[0] == "raise":
            raise KeyError(agent)
        return self._given[0]

    def action_space(self, agent):
        return self._given[1]


@pytest.mark.parametrize(
    ("spoilt", "error", "message"),
    [
        ({"agents": []}, ValueError, "possible_agents is empty or missing"),
        ({"agents": ["a", "a"]}, ValueError, "repeated names"),
        ({"agents": [1, "1"]}, ValueError, "two have the same text"),
        ({"agents": [["a", "b"]]}, ValueError, "a name must be hashable"),
        ({"agents": [object()]}, ValueError, "its class has no __str__"),
        ({"observation": "raise"}, ValueError, r"observation_space\('only'\) raised KeyError"),
        ({"observation": 3}, TypeError, "is 3, expected a gymnasium space"),
        ({"observation": spaces.Text(5)}, TypeError, "observation_space of agent 'only' is a Text space; SB3's policies"),
        ({"observation": spaces.Dict({"x": spaces.Dict()})}, TypeError, "a Dict space whose entry 'x' is a Dict"),
        ({"observation": spaces.Dict()}, TypeError, "a Dict space without entries"),
        ({"observation": spaces.Sequence(spaces.Discrete(2))}, TypeError, "a Sequence space"),
        ({"action": spaces.Tuple([spaces.Discrete(2)])}, TypeError, "action_space of agent 'only' is a Tuple space"),
        (
            {"action": spaces.Dict({"x": spaces.Discrete(2)})},
            TypeError,
            "a Dict space, which SB3 supports for observations only",
        ),
    ],
)
@EVERY_KIND
def test_envs_that_sb3_cannot_handle_are_refused(spoilt, error, message, kind):
    with pytest.raises(error, match=message):
        make_joint_vec_env(partial(Described, **spoilt), 2, kind)


def test_a_worker_finds_out_about_its_own_env_only():
    """What happens in a worker, seen in this process: the error is fit for travelling and says where it was raised."""
    copy = EnvCopy(partial(toys.Faulty, "breaks_oddly"), 5, remote=True)
    loop = CopyLoop([copy], CopyArrays(copy.description, 6))
    loop.begin([None] * 6, [{}] * 6)
    loop.step()
    with pytest.raises(CopyFailure) as caught:
        loop.step()
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert (travelled.copy, travelled.method, str(travelled.error)) == (5, "step", "Unpicklable: 1 and 2")
    note = travelled.error.__notes__[0]
    assert "Traceback in the worker process" in note and "in breaks_oddly" in note
    assert loop.ask("query", {}) == {}
    assert results(loop.ask("query", {5: ("get_attr", "time")})) == {5: 2}
    with pytest.raises(AttributeError, match="nonsense"):
        results(loop.ask("query", {5: ("get_attr", "nonsense")}))


def test_single_agent_envs_are_refused():
    for env in (gymnasium.make("CartPole-v1"), partial(gymnasium.make, "CartPole-v1")):
        with pytest.raises(TypeError, match=r"needs a PettingZoo ParallelEnv.*is a single-agent gymnasium env"):
            make_joint_vec_env(env)
    with pytest.raises(TypeError, match=r"the dict given does not derive from pettingzoo.ParallelEnv"):
        make_joint_vec_env(dict)
