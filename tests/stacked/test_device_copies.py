"""Stacked steps on a device that is not the CPU, see :mod:`tests.host_syncs`."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.stacked.lockstep import Lockstep, StepSettings, _Run
from sb3_matrl.stacked.minibatches import Columns, StackedBatch
from sb3_matrl.stacked.storage import Stack
from tests.host_syncs import META, CopiesToDevice, on_meta

N_ROWS = 40
SETTINGS = {"learning_rate": 1e-3, "betas": (0.9, 0.999), "eps": 1e-5, "clip_range": 0.2, "clip_range_vf": 0.1}
SETTINGS |= {"ent_coef": 0.01, "vf_coef": 0.5, "kl_coef": 0.1, "max_grad_norm": 0.5, "target_kl": None}


@pytest.mark.parametrize("make_actions", [spaces.Discrete, lambda n: spaces.Box(-1, 1, (n,))], ids=["Discrete", "Box"])
def test_minibatches_wait_for_nothing_and_copy_nothing_to_the_device(make_actions):
    policies = []
    for n_actions in (2, 3, 3):
        env = SpacesVecEnv(4, spaces.Box(-1, 1, (4,)), make_actions(n_actions))
        learner = build_learner(PPO, "MlpPolicy", env, {"device": "cpu", "n_steps": 10, "batch_size": 10}, None)
        policies.append(on_meta(learner.policy))
    stack = Stack(policies)
    kernel = Lockstep(stack)

    def zeros(*shape):
        return th.zeros(3, N_ROWS, *shape, device=META)

    batch = StackedBatch(zeros(4), zeros(kernel.head.action_size), Columns(*(zeros() for _ in range(5))), None)
    rng = np.random.default_rng(0)
    # Learners with different numbers of rows, of which one does not normalise its advantages.
    epochs = [[np.split(rng.permutation(N_ROWS)[:n], range(10, n, 10)) for _ in range(2)] for n in (40, 35, 21)]
    settings = [StepSettings(**SETTINGS, normalize_advantage=flag) for flag in (True, True, False)]
    counts = [[], []]
    with th.no_grad(), CopiesToDevice() as copies:
        run = _Run(kernel, [policy.optimizer for policy in policies], batch, epochs, settings)
        for minibatch in run.batches:
            run._step(minibatch)
            counts[minibatch.epoch].append(copies.count)
    first, second = counts
    assert len(first) == len(second) == 4
    assert len(set(first)) == len(set(second)) == 1, "copies are made between epochs only"
    assert 0 < second[0] - first[0] <= 4
