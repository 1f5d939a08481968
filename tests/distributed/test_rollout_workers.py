"""Rollouts by workers: equal wherever the workers run, equal to a plain training, recovered, resumed."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from multiprocessing.context import ForkServerProcess

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_matrl import MATRL
from sb3_matrl.common.normalize import Normalizer, NormalizerConfig
from sb3_matrl.distributed import distributed_algorithm
from sb3_matrl.distributed.columns import member_columns
from sb3_matrl.distributed.crew import InTurnCrew, WorkerDied
from sb3_matrl.distributed.gathered_moments import begin_gathering, gather, gathered_moments, merge_moments
from sb3_matrl.distributed.shard import RolloutWorkerError, stream_seed
from sb3_matrl.evaluation import RandomPolicy
from sb3_matrl.utils.random_state import random_generators, restore_random_generators
from sb3_matrl.vec_env import EnvError, make_joint_vec_env
from sb3_matrl.vec_env.joint import copy_seeds
from tests.matrl.test_action_masks import WALK
from tests.matrl.test_exact_resume import SaveAfter, assert_same, assert_same_carried
from tests.vec_env.toys import Failing, plain, saving

STEPS = 72  # three rollouts


def build(env="checkers_v0", policy="MlpPolicy", **arguments):
    small = {"n_envs": 4, "n_steps": 6, "batch_size": 12, "n_epochs": 2, "br_n_epochs": 1, "seed": 3, "device": "cpu"}
    return MATRL(policy, env, **{**small, "policy_kwargs": {"net_arch": [8]}, **arguments})


def in_turn(**arguments):
    return build(**{"worker_backend": "in-turn", "rollout_workers": 2, **arguments})


def turns():
    """Agents that end one after the other, in an env that saves its state."""
    return saving("early_death")


def trained_teacher():
    return build(n_envs=1, norm_obs=True).learn(6), "agent_0"


LSTM = {"policy": "MlpLstmPolicy", "learner_class": RecurrentPPO, "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}}
NORMALISED = {"norm_obs": True, "norm_reward": True, "gamma": 0.9}
PAIR = {"share": {"pair": ["agent_0", "agent_2"]}}
CASES = {
    "feed-forward": dict,
    "one by one": lambda: {"backend": "sb3", "use_sde": True, "env": turns},
    "masked": lambda: dict(WALK),
    "recurrent": lambda: {"env": turns} | LSTM | NORMALISED,
    "shared, recurrent and normalised": lambda: {"env": turns, "share": {"pair": ["a", "c"]}} | LSTM | NORMALISED,
    "shared with a central critic": lambda: {"env": "switch_v0", "critic": "central"} | PAIR | NORMALISED,
    "frozen": lambda: {"frozen": {"agent_1": trained_teacher()}},
}


class OwnStream(BaseCallback):
    """In the rollouts of a training in this process, the global generators are those of a worker."""

    def _on_training_start(self):
        outside, coordinator = random_generators(), getattr(self.model, "coordinator", None)
        rng = None if coordinator is None else coordinator.rng
        self.model.set_random_seed(stream_seed(self.model.seed, 0))
        if coordinator is not None:
            coordinator.rng = rng
        self.inside = random_generators()
        restore_random_generators(outside)

    def _on_rollout_start(self):
        self.outside = random_generators()
        restore_random_generators(self.inside)

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.inside = random_generators()
        restore_random_generators(self.outside)


@pytest.mark.cases(
    quick=["feed-forward"], e2e=["shared, recurrent and normalised", "shared with a central critic"], rest="expensive"
)
@pytest.mark.parametrize("case", CASES)
def test_one_worker_plays_what_a_training_without_workers_plays(case):
    model = in_turn(rollout_workers=1, **CASES[case]()).learn(STEPS)
    reference = build(**CASES[case]()).learn(STEPS, callback=OwnStream())
    assert_same(model, reference)
    for name, normalizer in reference.team.normalizers.items():
        ours, theirs = model.team.normalizers[name].state(), normalizer.state()
        np.testing.assert_array_equal(ours["running"], theirs["running"])
        np.testing.assert_array_equal(ours["observations"][0]["var"], theirs["observations"][0]["var"])


@pytest.mark.cases(rest="expensive", e2e=["recurrent"])
@pytest.mark.parametrize("case", CASES)
def test_workers_in_processes_play_what_they_play_in_turn(case):
    model = build(rollout_workers=2, **CASES[case]()).learn(STEPS)
    assert_same_carried(model, in_turn(**CASES[case]()).learn(STEPS))
    model.env.close()


class Rows(BaseCallback):
    """Everything that the callback is told in a rollout."""

    def __init__(self):
        super().__init__()
        self.rewards, self.episodes, self.counted = [], [], []

    def _on_step(self):
        self.rewards.append(np.array(self.locals["rewards"]))
        self.counted.append(self.num_timesteps)
        for copy in np.flatnonzero(self.locals["dones"]):
            self.episodes.append((len(self.rewards), copy, self.locals["infos"][copy]["episode"]["r"]))
        return True


def test_every_column_is_that_of_its_agent_and_copy():
    env = {"env": "switch_v0", "env_kwargs": {"n_agents": 3}}
    model, rows = in_turn(**env, **PAIR, rollout_workers=3), Rows()
    model.learn(24, callback=rows)
    rewards = np.stack(rows.rewards)  # (n_steps, n_envs, n_agents)
    buffer = model.learners["pair"].rollout_buffer.rewards.reshape(2, 4, 6)  # flattened by the update: copy by copy
    np.testing.assert_array_equal(buffer[0], rewards[:, :, 0].T)
    np.testing.assert_array_equal(buffer[1], rewards[:, :, 2].T)
    assert rows.counted == [4, 8, 12, 16, 20, 24]
    assert rewards.std() > 0


@pytest.mark.parametrize(("n_members", "n_envs", "copies"), [(1, 5, range(2, 5)), (3, 4, range(1, 3))])
def test_columns_of_members_follow_one_another(n_members, n_envs, copies):
    names = [(member, copy) for member in range(n_members) for copy in range(n_envs)]
    own = [(member, copy) for member in range(n_members) for copy in copies]
    assert [names[column] for column in member_columns(n_members, n_envs, copies)] == own


def test_statistics_are_those_of_all_that_the_workers_saw():
    """The observations of this env depend on no action: another one with the same seeds shows what the workers saw."""
    env = partial(saving, "plain")
    model = in_turn(env=env, norm_obs=True).learn(STEPS)
    joint = make_joint_vec_env(env, n_envs=4, seed=3)
    actions = dict.fromkeys(joint.agents, np.zeros(4, dtype=int))
    seen = [joint.reset(), *(joint.step(actions)[0] for _ in range(STEPS // 4))]
    for agent in joint.agents:
        rows = np.concatenate([one[agent] for one in seen]).astype(np.float64)
        prior = 1e-4  # SB3 begins with so many observations of mean 0 and variance 1
        mean = rows.sum(axis=0) / (prior + len(rows))
        squares = (prior + np.square(rows).sum(axis=0)) / (prior + len(rows))
        statistics = model.team.normalizers[agent].observations[None]
        assert statistics.count == pytest.approx(prior + len(rows))
        # SB3 takes the mean of a step's rows in their own dtype, float32.
        np.testing.assert_allclose(statistics.mean, mean, atol=1e-7)
        np.testing.assert_allclose(statistics.var, squares - np.square(mean), atol=1e-7)


def test_merged_moments_are_those_of_the_joined_data():
    rng = np.random.default_rng(0)
    batches = [rng.normal(worker, 1 + worker, size=(3, 5 * worker, 2)) for worker in range(4)]  # the first one saw nothing
    config, space = NormalizerConfig(norm_obs=True), spaces.Box(-np.inf, np.inf, (2,), np.float64)
    whole, moments = Normalizer(config, space, 1), []
    for steps in batches:
        own = Normalizer(config, space, 1)
        gather(own)
        own.observe(np.full((9, 2), 7.0), np.ones(9, dtype=bool))  # of the last iteration
        begin_gathering(own)
        for rows in steps:
            own.observe(rows, np.ones(len(rows), dtype=bool))
        moments.append(gathered_moments(own))
    merge_moments(whole, moments)
    joined = np.concatenate([steps.reshape(-1, 2) for steps in batches])
    statistics = RunningMeanStd(shape=(2,))
    statistics.update(joined)
    np.testing.assert_allclose(whole.observations[None].mean, statistics.mean, rtol=1e-13)
    np.testing.assert_allclose(whole.observations[None].var, statistics.var, rtol=1e-13)
    assert whole.observations[None].count == pytest.approx(1e-4 + len(joined))


@pytest.mark.cases(expensive=["in-turn-learner0"], rest="e2e")
@pytest.mark.parametrize(("backend", "learner"), [("in-turn", {}), ("process", LSTM)])
def test_a_training_with_workers_resumes_exactly_with_any_backend(tmp_path, backend, learner):
    options = {"env": turns} | NORMALISED | learner
    whole = in_turn(**options).learn(STEPS)
    in_turn(**options).learn(STEPS, callback=SaveAfter(36, tmp_path / "half"))
    th.manual_seed(99)
    np.random.seed(99)
    resumed = MATRL.load(tmp_path / "half", env=turns, device="cpu", worker_backend=backend)
    assert resumed.num_timesteps == 24
    resumed.learn(STEPS - 24, reset_num_timesteps=False)
    assert_same_carried(resumed, whole)
    resumed.env.close()


@pytest.mark.e2e
def test_another_number_of_workers_resumes_with_new_episodes_and_says_so(tmp_path):
    in_turn().learn(24).save(tmp_path / "half")
    with pytest.warns(UserWarning, match=r"saved with 2 rollout workers .* with 3"):
        resumed = MATRL.load(tmp_path / "half", env="checkers_v0", device="cpu", rollout_workers=3)
    assert resumed.learn(24, reset_num_timesteps=False).num_timesteps == 48
    assert MATRL.load(tmp_path / "half").arguments["rollout_workers"] == 2  # acts without workers


class Mortal(InTurnCrew):
    """Workers that die when the next one of some numbers of answers is reached."""

    deaths: tuple[int, ...] = ()

    def answer(self, worker):
        if self._calls[worker].__name__ == "<lambda>":  # no launch
            self.answered = getattr(self, "answered", 0) + 1
            if self.answered in self.deaths:
                super().answer(worker)  # the work is lost
                del self._shards[worker]
                raise WorkerDied("it was killed by signal 9")
        return super().answer(worker)


def mortal(monkeypatch, *deaths):
    crew = type("Crew", (Mortal,), {"deaths": deaths})
    monkeypatch.setattr(distributed_algorithm, "make_crew", lambda backend, plans, proceed: crew(plans, proceed))


def test_the_result_is_that_of_workers_that_never_died(monkeypatch):
    options = {"env": turns} | NORMALISED
    whole = in_turn(**options).learn(STEPS)
    mortal(monkeypatch, 1, 4, 5, 8)
    with pytest.warns(UserWarning, match=r"rollout worker \d .* died: .* the result stays the same") as caught:
        model = in_turn(**options).learn(STEPS)
    assert len([one for one in caught if "died" in str(one.message)]) == 1
    assert model.env.backend.pool.restarts == 4
    assert_same_carried(model, whole)


def test_an_env_that_cannot_save_its_state_begins_new_episodes_and_warns_once(monkeypatch):
    mortal(monkeypatch, 3, 7)
    with pytest.warns(UserWarning, match=r"rollout worker 0 .env copies 0 to 1. died: .* begin new episodes") as caught:
        assert in_turn(env=plain).learn(STEPS).num_timesteps == STEPS
    assert len([one for one in caught if "died" in str(one.message)]) == 1


@pytest.mark.e2e
def test_a_worker_that_dies_again_and_again_ends_the_training(monkeypatch, tmp_path):
    mortal(monkeypatch, *range(5, 30))
    model = in_turn(env=turns)
    with pytest.raises(RolloutWorkerError, match=r"worker 0 .env copies 0 to 1. died 3 times in one iteration.*signal 9"):
        model.learn(STEPS)
    assert model.resumable_timesteps == 24
    model.save(tmp_path / "half")
    monkeypatch.undo()
    resumed = MATRL.load(tmp_path / "half", env=turns, device="cpu", worker_backend="in-turn")
    resumed.learn(STEPS - 24, reset_num_timesteps=False)
    assert_same_carried(resumed, in_turn(env=turns).learn(STEPS))


class Kill(BaseCallback):
    """Kill a worker in the middle of the second rollout."""

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps == 24:
            crew = self.model.env.backend.pool.crew
            os.kill(crew.processes[1].pid, signal.SIGKILL)


@pytest.mark.e2e
def test_a_killed_process_leaves_no_trace_in_the_result():
    options = {"env": turns} | LSTM | NORMALISED
    model = build(rollout_workers=2, **options)
    model.learn(STEPS, callback=Kill())
    assert model.env.backend.pool.restarts == 1
    assert_same_carried(model, in_turn(**options).learn(STEPS))
    model.env.close()


@pytest.mark.e2e
def test_a_server_of_processes_that_ends_while_one_is_started_is_replaced(monkeypatch):
    begun, start = [], ForkServerProcess.start

    def interrupted(process):
        begun.append(process.name)
        if len(begun) == 2:
            raise EOFError  # of the pipe to the server
        start(process)

    monkeypatch.setattr(ForkServerProcess, "start", interrupted)
    model = build(rollout_workers=2).learn(STEPS)
    assert begun == ["rollout worker 0", "rollout worker 1", "rollout worker 1"]
    assert_same_carried(model, in_turn().learn(STEPS))
    model.env.close()


@pytest.mark.parametrize("backend", ["in-turn", pytest.param("process", marks=pytest.mark.e2e)])
def test_errors_of_an_env_name_its_copy_in_the_whole_training(backend):
    broken = copy_seeds(3, 4)[3]
    model = build(env=partial(Failing, broken, "raise"), rollout_workers=2, worker_backend=backend, vec_env="dummy")
    with pytest.raises(EnvError, match=r"^env copy 3: .*lost.* in step 3 of episode 1"):
        model.learn(STEPS)


def test_a_stop_in_the_middle_of_a_rollout_keeps_the_state_before_it(tmp_path):
    model = in_turn()
    model.learn(24)
    model.stop_requested = lambda: True
    model.learn(48, reset_num_timesteps=False)
    assert model.num_timesteps == 24
    model.stop_requested = None
    assert_same_carried(model.learn(48, reset_num_timesteps=False), in_turn().learn(STEPS))


@pytest.mark.e2e
def test_another_environment_ends_the_workers_of_the_old_one():
    model = in_turn().learn(24)
    old = model.env.backend.pool.crew
    model.set_env("checkers_v0")
    assert not old.is_running(0)
    assert model.learn(24, reset_num_timesteps=False).num_timesteps == 48


@pytest.mark.e2e
def test_random_players_of_workers_are_independent():
    model = in_turn(frozen={"agent_1": RandomPolicy}).learn(24)
    players = [shard.model.team.frozen["agent_1"] for shard in model.env.backend.pool.crew._shards.values()]
    observation = np.zeros((40, *model.observation_space["agent_1"].shape), dtype=np.float32)
    first, second = (player.predict(observation)[0] for player in players)
    assert (first != second).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rollout_workers": 5}, "rollout_workers=5 share the copies .* n_envs=4 are too few"),
        ({"rollout_workers": 0}, "rollout_workers must be at least 1"),
        ({"worker_backend": "threads"}, "worker_backend 'threads' is unknown"),
        ({"env": partial(plain, closed_in=threading.Lock())}, "cannot be sent to rollout workers"),
        ({"env": make_joint_vec_env("checkers_v0", n_envs=4)}, "pass a factory, an env or an id"),
    ],
)
def test_mistakes_are_errors_of_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        in_turn(**arguments)


def test_the_copies_of_workers_cannot_be_stepped_here():
    model = in_turn().learn(24)
    with pytest.raises(RuntimeError, match="live in rollout workers"):
        model.env.step({agent: np.zeros(4, dtype=int) for agent in model.possible_agents})
