"""Each of the eight traps between SuperSuit 3.11 and SB3 2.9, by number, for both ways of batching."""

import os
from functools import partial

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_matrl.vec_env import make_joint_vec_env
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_KIND
from tests.vec_env.reference import random_actions


class PassThrough(VecEnvWrapper):
    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


@pytest.fixture
def make():
    made = []

    def make_and_remember(*args, **kwargs):
        made.append(make_joint_vec_env(*args, **kwargs))
        return made[-1]

    yield make_and_remember
    for venv in made:
        venv.close()


def play(venv, n_steps, seed=0):
    """All joint steps of a random run from a reset on."""
    rng = np.random.default_rng(seed)
    venv.reset()
    steps = []
    for _ in range(n_steps):
        venv.step(random_actions(venv.action_spaces, venv.num_envs, rng))
        steps.append(venv.last_step)
    return steps


@EVERY_KIND
def test_trap_1_seed_and_access_to_the_envs_work(make, kind):
    """SuperSuit's SB3 wrapper has no seed, get_attr, set_attr, env_method."""
    venv = PassThrough(make(toys.plain, 3, kind))
    assert venv.seed(5)[0] == 5
    play(venv.unwrapped, 1)
    assert venv.get_attr("time") == [1, 1, 1]
    venv.set_attr("time", 7, indices=[0, 2])
    assert venv.get_attr("time", indices=[2, 1]) == [7, 1]
    assert venv.env_method("scaled", 2, indices=0, offset=1) == [15]
    assert venv.env_is_wrapped(toys.Doubled) == [False, False, False]
    with pytest.raises(AttributeError, match="nonsense"):
        venv.get_attr("nonsense")
    assert venv.get_attr("time", indices=-1) == [7], "a failing call must not end the workers"


@EVERY_KIND
def test_trap_1_reset_uses_the_seed_and_passes_options(make, kind):
    """SuperSuit's SB3 wrapper raises AttributeError in reset(seed=...)."""
    venv = make(toys.plain, 2, kind)
    seeds = venv.seed(5)
    venv.set_options({"level": 3})
    observations = venv.reset()
    for copy, seed in enumerate(seeds):
        expected, _ = toys.plain().reset(seed=seed)
        np.testing.assert_array_equal(observations["ant"][copy], expected["ant"])
    assert venv.get_attr("last_options") == [{"level": 3}] * 2
    venv.reset()
    assert venv.get_attr("last_options") == [None, None], "options count for one reset"


@EVERY_KIND
def test_trap_2_truncation_is_kept_apart_from_termination(make, kind):
    """SuperSuit's SB3 wrapper ORs the two and never sets TimeLimit.truncated."""
    expected = {
        toys.plain: ([True, True], [False, False], False),
        toys.truncated: ([False, False], [True, True], True),
        toys.mixed_end: ([True, False], [False, True], True),
    }
    for env, (terminated, truncated, cut_off) in expected.items():
        last = play(make(partial(env, jitter=0), 2, kind), 3 if env is toys.plain else 2)[-1]
        assert last.dones.all()
        assert last.terminated.tolist() == [terminated] * 2
        assert last.truncated.tolist() == [truncated] * 2
        assert [info["TimeLimit.truncated"] for info in last.infos] == [cut_off] * 2


def test_trap_2_an_agent_both_terminated_and_truncated_is_not_cut_off(make):
    """TimeLimit.truncated asks for bootstrapping, which a termination rules out."""
    env = toys.plain(jitter=0)
    env.ends = dict.fromkeys(env.possible_agents, (1, "both"))
    assert play(make(env, 1, "dummy"), 1)[-1].infos[0]["TimeLimit.truncated"] is False


@EVERY_KIND
def test_trap_3_columns_follow_possible_agents_and_rows_the_copies(make, kind):
    """SuperSuit's rows are env-major, then possible_agents; gymnasium would sort a plain dict's keys."""
    venv = make(toys.plain, 3, kind)
    assert venv.agents == ["zebra", "ant"]
    assert list(venv.observation_space.spaces) == list(venv.action_space.spaces) == venv.agents
    venv.reset()
    actions = {"zebra": np.array([0, 1, 2]), "ant": np.array([3, 3, 0])}
    venv.set_attr("rng", _Silent())
    _, rewards, _, _ = venv.step(actions)
    np.testing.assert_allclose(rewards, np.array([[0, 3], [1, 3], [2, 0]]) / 7, rtol=1e-6)


class _Silent:
    """In place of a random generator."""

    def normal(self):
        return 0.0

    def random(self, shape):
        return np.zeros(shape)


@EVERY_KIND
def test_trap_3_dones_are_bool(make, kind):
    """SuperSuit gives uint8 in one process, where ~dones is 255 or 254."""
    steps = play(make(toys.plain, 2, kind), 4)
    assert {step.dones.dtype for step in steps} == {np.dtype(bool)}
    assert {flags.dtype for step in steps for flags in (step.terminated, step.truncated, step.alive)} == {np.dtype(bool)}


@EVERY_KIND
def test_trap_4_final_infos_and_observations_survive_the_reset(make, kind):
    """In SuperSuit reset infos overwrite final infos, and early deaths have no terminal_observation."""
    steps = play(make(partial(toys.early_death, jitter=0), 2, kind, seed=0), 4)
    assert steps[0].infos[0]["agents"]["b"] == {"time": 1}
    assert "terminal_observation" not in steps[0].infos[0]
    assert steps[0].final_observations["b"].all() and not steps[0].final_observations["a"].any()
    assert steps[3].final_observations["a"].all() and not steps[3].final_observations["b"].any()
    terminal = steps[3].infos[1]["terminal_observation"]
    np.testing.assert_array_equal(terminal["a"], steps[3].final_observations["a"][1])


@EVERY_KIND
def test_trap_4_infos_of_the_last_step_and_of_the_reset_are_both_there(make, kind):
    """SuperSuit merges them into one dict."""
    venv = make(partial(toys.plain, jitter=0), 2, kind)
    last = play(venv, 3)[-1]
    assert [info["agents"] for info in last.infos] == [{"zebra": {"time": 3}, "ant": {"time": 3}}] * 2
    assert [info["agents"] for info in venv.reset_infos] == [{"zebra": {"begun": None}}] * 2


@EVERY_KIND
def test_trap_4_an_env_without_infos_ends_well(make, kind):
    """SuperSuit raises KeyError at the end of an episode whose infos are empty."""
    last = play(make(toys.Bare, 2, kind), 1)[-1]
    assert last.dones.all() and "agents" not in last.infos[0]
    assert last.infos[0]["terminal_observation"]["only"].tolist() == [0.0], "left out by the env, as it may be"


@EVERY_KIND
def test_trap_5_early_death_is_masked_without_an_extra_step(make, kind):
    """SuperSuit fails, or with black death ends one step late and mixes up the flags."""
    steps = play(make(partial(toys.early_death, jitter=0), 1, kind), 5)
    alive = [step.alive[0].tolist() for step in steps]
    assert alive == [[False, True, True], [False, True, False], [False, True, False], [True] * 3, [False, True, True]]
    assert [step.dones[0] for step in steps] == [False, False, False, True, False]
    assert [step.terminated[0].tolist() for step in steps[:4]] == [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert [step.truncated[0].tolist() for step in steps[:4]] == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    for step in steps[1:4]:
        assert step.rewards[0, 0] == 0.0 and step.rewards[0, 1] != 0.0
    assert not steps[1].observations["b"].any()


@EVERY_KIND
def test_trap_5_an_env_that_goes_on_listing_the_dead_is_understood(make, kind):
    """What such an env says about an agent after its end is ignored."""
    model = toys.early_death()
    factory = partial(toys.Lingering, model._observation_spaces, model._action_spaces, model.ends, jitter=0)
    steps = play(make(factory, 1, kind), 4)
    assert [step.alive[0].tolist() for step in steps[:3]] == [[False, True, True], [False, True, False], [False, True, False]]
    assert [step.dones[0] for step in steps] == [False, False, False, True]
    assert not np.stack([step.truncated[0, 0] for step in steps[1:]]).any()


def first_observations(venv):
    return venv.reset()["zebra"]


def test_trap_6_copies_get_their_own_seeds_in_every_process(make):
    """In SuperSuit two of four copies in two processes share a seed."""
    remote = make(toys.plain, 4, "subproc", seed=3, num_cpus=2)
    local = make(toys.plain, 4, "dummy", seed=3)
    observations = first_observations(remote)
    assert len(np.unique(observations, axis=0)) == 4
    np.testing.assert_array_equal(observations, first_observations(local))
    assert len(set(remote.env_method("pid"))) == 2
    expected = [toys.plain().reset(seed=seed)[0]["zebra"] for seed in local.seed(3)]
    np.testing.assert_array_equal(observations, expected)


@EVERY_KIND
@pytest.mark.parametrize("seed", [None, 3])
def test_trap_6_copies_of_an_env_whose_generator_exists_differ(make, kind, seed):
    """Copies are pickled: a generator made before gives identical streams until each copy is seeded."""
    env = toys.plain()
    venv = make(env, 4, kind, seed=seed)
    assert len(np.unique(first_observations(venv), axis=0)) == 4
    assert len(np.unique(first_observations(venv), axis=0)) == 4, "unseeded resets go on with the copies' generators"


@EVERY_KIND
def test_trap_7_every_env_is_closed_where_it_lives(make, kind, tmp_path):
    """SuperSuit never calls close() in worker processes."""
    venv = make(partial(toys.plain, closed_in=str(tmp_path)), 4, kind)
    pids = venv.env_method("pid")
    for file in tmp_path.iterdir():
        file.unlink()  # of the env that told the spaces
    venv.close()
    venv.close()
    closed = {int(file.name): file.read_text().count("closed") for file in tmp_path.iterdir()}
    assert closed == {pid: pids.count(pid) for pid in pids}


def test_trap_7_workers_are_gone_after_close(make):
    """No process is left, not even as a zombie."""
    venv = make(toys.plain, 4, "subproc", num_cpus=2)
    processes = venv.backend.processes
    assert len({process.pid for process in processes}) == 2 and all(process.is_alive() for process in processes)
    venv.reset()
    venv.step_async(random_actions(venv.action_spaces, 4, np.random.default_rng(0)))
    venv.close()
    assert [process.exitcode for process in processes] == [0, 0]
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def test_trap_7_one_cpu_means_one_worker_process(make):
    """In SuperSuit num_cpus=1 means this process."""
    for n_envs, num_cpus in ((1, None), (2, 1)):
        pids = make(toys.plain, n_envs, "subproc", num_cpus=num_cpus).env_method("pid")
        assert len(set(pids)) == 1 and os.getpid() not in pids


@EVERY_KIND
def test_trap_8_no_render_mode_is_needed(make, kind):
    """SuperSuit requires env.unwrapped.render_mode."""
    venv = make(toys.Bare, 2, kind)
    assert venv.render_mode is None and venv.get_attr("render_mode") == [None, None]


@EVERY_KIND
def test_trap_8_spaces_may_differ_and_stay_as_they_are(make, kind):
    """SuperSuit requires equal spaces; padding must not be seen."""
    venv = make(toys.unequal, 2, kind)
    env = toys.unequal()
    for agent in env.possible_agents:
        assert venv.observation_space[agent] == venv.observation_spaces[agent] == env.observation_space(agent)
        assert venv.action_space[agent] == venv.action_spaces[agent] == env.action_space(agent)
        assert isinstance(venv.observation_spaces[agent], spaces.Space)
    observations = venv.reset()
    assert observations["image"].dtype == np.uint8 and observations["image"].shape == (2, 4, 4, 1)
    assert observations["big"].dtype == np.int64 and abs(observations["big"]).max() > 2**53, "beyond float64's integers"
