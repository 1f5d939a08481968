"""Small models of the value-based algorithms for tests."""

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.off_policy.iql import IQL
from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.vdn import VDN
from tests.matrl.test_exact_resume import flat, played
from tests.off_policy import trio
from tests.vec_env.toys import Saving

ALGORITHMS = [IQL, VDN, QMIX]
SMALL = {
    "n_envs": 3,
    "seed": 0,
    "device": "cpu",
    "buffer_size": 240,
    "learning_starts": 60,
    "batch_size": 16,
    "train_freq": 4,
    "gradient_steps": 2,
    "target_update_interval": 30,
    "exploration_fraction": 0.5,
    "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [8]},
}


def build(algorithm=QMIX, env="checkers_v0", policy="MlpPolicy", **settings):
    return algorithm(policy, env, **{**SMALL, **settings})


def equal(one, other):
    return th.equal(one, other) if isinstance(one, th.Tensor) else one == other


def assert_same(model, other):
    ours, theirs = flat(model.get_parameters()), flat(other.get_parameters())
    assert len(ours) == len(theirs) and all(map(equal, ours, theirs))
    names = ("num_timesteps", "n_calls", "_n_updates", "_episode_num", "exploration_rate", "_block", "skipped_updates")
    assert [getattr(model, name) for name in names] == [getattr(other, name) for name in names]
    assert [played(info) for info in model.ep_info_buffer] == [played(info) for info in other.ep_info_buffer]
    arrays = zip(model.replay_buffer.stored_arrays(), other.replay_buffer.stored_arrays(), strict=True)
    assert all(np.array_equal(one, two) for one, two in arrays)


class Save(BaseCallback):
    """Save model and buffer once, at a moment of the training after a number of steps; after a step, stop as well."""

    def __init__(self, steps, moment, path):
        super().__init__()
        self.steps, self.moment, self.path = steps, moment, path
        self.saved_at = None

    def _save(self, moment):
        if moment == self.moment and self.num_timesteps >= self.steps and self.saved_at is None:
            self.saved_at = self.num_timesteps
            self.model.save(self.path / "model")
            self.model.save_replay_buffer(self.path / "buffer")
            return True
        return False

    def _on_step(self):
        return not self._save("step")

    def _on_rollout_start(self):
        self.num_timesteps = self.model.num_timesteps
        self._save("start")

    def _on_rollout_end(self):
        self._save("end")


class SavingTrio(trio.Trio, Saving):
    """Deaths and masks."""
