"""Rounds played by workers: stored as without workers, equal wherever the workers run, recovered, resumed."""

from __future__ import annotations

import os
import signal
from functools import cache

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

from sb3_matrl.files.trees import tensors_for_arrays
from sb3_matrl.off_policy.comix import COMIX
from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.maddpg import MADDPG
from sb3_matrl.off_policy.played_rounds import RoundReader, RoundRecord
from sb3_matrl.off_policy.qdpp import QDPP
from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.transitions import Moment
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.vec_env.joint import copy_seeds
from tests.distributed.test_rollout_workers import OwnStream, mortal
from tests.matrl.test_exact_resume import flat
from tests.off_policy import trio
from tests.off_policy.continuous_trio import ContinuousTrio, MixedTrio
from tests.off_policy.small_models import Save, SavingTrio, assert_same
from tests.off_policy.small_models import build as build_small
from tests.vec_env.toys import ToyEnv
from tests.worlds.two_step_game import TwoStepGame

N_STEPS = 72  # six rounds, the first two of which are the warm-up
SETTINGS = {"n_envs": 3, "learning_starts": 30, "train_freq": 4, "gradient_steps": 2, "batch_size": 8}
OU = {
    agent: OrnsteinUhlenbeckActionNoise(np.zeros(size), np.full(size, 0.3)) for agent, size in {"a": 2, "b": 1, "c": 2}.items()
}
CASES = {
    "QMIX": (QMIX, {"norm_reward": True}),
    "masked": (QMIX, {"env": SavingTrio, "policy": trio.POLICIES, "state": "observations", "exploration_fraction": 1.0}),
    "IQL, one copy, episodes": (IQL, {"env": TwoStepGame, "n_envs": 1, "train_freq": (3, "episode"), "gradient_steps": -1}),
    "QDPP": (QDPP, {}),
    "MADDPG": (MADDPG, {"env": ContinuousTrio, "policy": trio.POLICIES, "action_noise": OU}),
    "mixed": (MADDPG, {"env": MixedTrio, "policy": trio.POLICIES}),
    "COMIX": (COMIX, {"env": ContinuousTrio, "policy": trio.POLICIES}),
}


def build(case="QMIX", **changes):
    algorithm, settings = CASES[case]
    settings = {**SETTINGS, **settings, **changes}
    if algorithm in (MADDPG, COMIX):
        return algorithm(**{"seed": 0, "device": "cpu", "buffer_size": 240, "policy_kwargs": {"net_arch": [8]}, **settings})
    return build_small(algorithm, **settings)


def in_turn(case="QMIX", **changes):
    return build(case, **{"worker_backend": "in-turn", "rollout_workers": 2, **changes})


@cache
def whole(case="QMIX"):
    """A whole training with two workers in turn, which is only read."""
    return in_turn(case).learn(N_STEPS)


@pytest.mark.cases(quick=["masked"], e2e=["MADDPG"], rest="expensive")
@pytest.mark.parametrize("case", CASES)
def test_one_worker_plays_what_a_training_without_workers_plays(case):
    """The replay buffer's content included."""
    model = in_turn(case, rollout_workers=1).learn(N_STEPS)
    assert_same(model, build(case).learn(N_STEPS, callback=OwnStream()))


class Kill(BaseCallback):
    """Kill a worker before the last but one round."""

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.model.num_timesteps == 48:
            os.kill(self.model.env.backend.pool.crew.processes[1].pid, signal.SIGKILL)


@pytest.mark.cases(e2e=["MADDPG"], rest="expensive")
@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][1].get("n_envs") != 1])
def test_workers_in_processes_play_what_they_play_in_turn_also_if_one_is_killed(case):
    model = build(case, rollout_workers=2).learn(N_STEPS, callback=Kill())
    assert model.env.backend.pool.restarts == 1
    assert_same(model, whole(case))
    model.env.close()


@pytest.mark.expensive
def test_a_worker_that_dies_leaves_no_trace(monkeypatch):
    mortal(monkeypatch, 1, 4, 9)
    model = in_turn("masked").learn(N_STEPS)
    assert model.env.backend.pool.restarts == 3
    assert_same(model, whole("masked"))


@pytest.mark.cases(e2e=["masked-step"], rest="expensive")
@pytest.mark.parametrize("moment", ["step", "start", "end"])
@pytest.mark.parametrize("case", ["masked", "QMIX", "MADDPG"])
def test_a_training_resumes_exactly_also_in_the_middle_of_a_round(tmp_path, case, moment):
    saved = Save(53, moment, tmp_path)
    in_turn(case).learn(N_STEPS, callback=saved)
    th.manual_seed(99)
    np.random.seed(99)
    env = CASES[case][1].get("env", "checkers_v0")
    resumed = CASES[case][0].load(tmp_path / "model", env=env, device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    assert resumed.num_timesteps == saved.saved_at
    resumed.learn(N_STEPS - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole(case))


@pytest.mark.expensive
def test_a_callback_that_ends_the_training_in_a_round_leaves_the_rest_for_the_next_call():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps != 51

    model = in_turn("masked")
    model.learn(N_STEPS, callback=Stop())
    assert model.num_timesteps == 51 and model.replay_buffer.added == 16
    assert_same(model.learn(N_STEPS - 51, reset_num_timesteps=False), whole("masked"))


@pytest.mark.e2e
def test_a_stop_in_the_middle_of_a_round_keeps_the_state_before_it():
    other = in_turn("masked").learn(48).learn(48, reset_num_timesteps=False)
    model = in_turn("masked").learn(48)
    model.stop_requested = lambda: True
    model.learn(48, reset_num_timesteps=False)
    assert model.num_timesteps == 48 and model.replay_buffer.added == 16
    model.stop_requested = None
    assert_same(model.learn(48, reset_num_timesteps=False), other)


@pytest.mark.e2e
def test_noise_is_reset_in_a_training_that_is_stopped_in_its_first_round_and_resumed_from_its_file(tmp_path):
    other = in_turn("MADDPG").learn(48).learn(24, reset_num_timesteps=False)
    model = in_turn("MADDPG").learn(48)
    model.stop_requested = lambda: True
    model.learn(24, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    resumed = MADDPG.load(tmp_path / "model", env=ContinuousTrio, device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    assert_same(resumed.learn(24, reset_num_timesteps=False), other)


class Numbered(ToyEnv):
    """Observations are the number of the copy, by its seed, the step and the episode; agents end one after the other."""

    def __init__(self):
        box = spaces.Box(-1, 100, (3,), np.float32)
        super().__init__(
            {"a": box, "b": box},
            {agent: spaces.Discrete(4) for agent in "ab"},
            {"a": (2, "terminated"), "b": (5, "truncated")},
        )
        self.episode = -1

    def reset(self, seed=None, options=None):
        self.copy = copy_seeds(0, 5).index(seed) if seed is not None else self.copy
        self.episode += 1
        return super().reset(seed, options)

    def _observe(self, agents):
        return {agent: np.array([self.copy, self.time, self.episode], np.float32) for agent in agents}


def test_the_steps_of_all_copies_are_stored_step_by_step_with_the_copies_in_order():
    settings = {"env": Numbered, "state": "observations", "n_envs": 5, "train_freq": 7, "learning_starts": 99}
    model = in_turn(rollout_workers=3, **settings).learn(70)
    joint = make_joint_vec_env(Numbered, n_envs=5, seed=0)
    stored = model.make_replay_buffer(model.buffer_size)
    reader, played = model.reader, model.replay_buffer.actions
    now = joint.reset()
    moment = Moment(observations=now, masks={}, alive=joint.alive)
    for n in range(14):
        actions = {agent: played[agent][n] for agent in joint.agents}
        joint.step(actions)
        transition = reader.transition(moment, actions, joint.last_step, slice(None))
        stored.add(transition)
        moment = transition.after
    arrays = list(zip(model.replay_buffer.stored_arrays(), stored.stored_arrays(), strict=True))
    assert all(np.array_equal(one, two) for one, two in arrays)
    assert model.replay_buffer.moments.blocks.arrays[0][0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_workers_count_the_steps_of_the_whole_training():
    model = whole("masked")
    for shard in model.env.backend.pool.crew._shards.values():
        assert (shard.model.num_timesteps, shard.model.exploration_rate) == (N_STEPS, model.exploration_rate)
    assert model.exploration_rate == pytest.approx(0.05)  # only at the very end


def played_steps(n_steps=7):
    model, record = build("masked").learn(12), RoundRecord()
    steps = [model.play_step() for _ in range(n_steps)]
    for step in steps:
        record.add(step)
    return steps, record.whole()


def test_the_rest_of_a_round_is_read_as_it_was_played():
    steps, whole_round = played_steps()
    reader = RoundReader(whole_round)
    reader.read(), reader.read()
    rest = RoundReader.from_tree(reader.rest())
    assert len(rest) == 5
    for step, again in zip(steps[2:], rest.transitions(), strict=True):
        ours, theirs = (flat(tensors_for_arrays(one.as_tree())) for one in (step.transition, again))
        assert all(
            th.equal(one, two) if isinstance(one, th.Tensor) else one is two for one, two in zip(ours, theirs, strict=True)
        )


@pytest.mark.parametrize(
    "change", [lambda tree: tree.pop("finals"), lambda tree: tree["moments"].pop("alive"), lambda tree: tree.update(infos={})]
)
def test_damaged_steps_of_a_round_are_an_error(change):
    tree = RoundReader(played_steps()[1]).rest()
    change(tree)
    with pytest.raises(ValueError, match="not the steps of a round"):
        RoundReader.from_tree(tree)


@pytest.mark.ray
@pytest.mark.expensive
def test_actors_of_ray_play_what_workers_play_in_turn():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        model = build("masked", rollout_workers=2, worker_backend="ray").learn(N_STEPS)
        assert_same(model, whole("masked"))
        model.env.close()
    finally:
        ray.shutdown()
