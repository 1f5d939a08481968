"""Rollouts on a device that is not the CPU: copied once, with the samples of SB3's own buffers."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.matrl.best_response import _gradient_step
from sb3_matrl.on_policy.batch import agent_batch
from sb3_matrl.on_policy.buffers import install_masked_buffer, masked_buffer_class
from sb3_matrl.on_policy.learners import build_learner
from tests.host_syncs import META, CopiesToDevice, on_meta
from tests.matrl.small_models import best_response_config
from tests.on_policy.test_buffers import BOX, DICT, fields_of, filled

CASES = [(RolloutBuffer, BOX), (DictRolloutBuffer, DICT), (MaskableRolloutBuffer, BOX)]


@pytest.mark.parametrize("everyone", [True, False], ids=["everyone", "masked"])
@pytest.mark.parametrize(("base", "space"), CASES)
def test_samples_from_the_device_are_those_of_the_arrays(base, space, everyone):
    results = []
    for on_device in (False, True):
        buffer = filled(masked_buffer_class(base), space)
        buffer.samples_on_device = on_device
        buffer.mask = np.ones((5, 3), bool) if everyone else np.random.default_rng(1).random((5, 3)) < 0.6
        np.random.seed(11)
        results.append([samples for _ in range(2) for samples in buffer.get(4)])
    for mine, reference in zip(results[1], results[0], strict=True):
        assert type(mine) is type(reference)
        for name, value in fields_of(reference).items():
            assert th.equal(fields_of(mine)[name], value) and fields_of(mine)[name].dtype == value.dtype, name
        if base is MaskableRolloutBuffer:
            assert th.equal(mine.action_masks, reference.action_masks)


def test_an_epoch_copies_advantages_and_returns_and_its_order_only():
    buffer = filled(masked_buffer_class(RolloutBuffer), BOX)
    buffer.mask, buffer.device = np.ones((5, 3), bool), META
    counts = []
    with CopiesToDevice() as copies:
        for _ in range(3):
            counts.append([copies.count for _ in buffer.get(4)])
    assert [len(set(epoch)) for epoch in counts] == [1, 1, 1]
    assert counts[2][0] - counts[1][0] == counts[1][0] - counts[0][0] == 3
    buffer.reset()
    assert not buffer._copies


def image_learner():
    image = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    arguments = {"device": "cpu", "n_steps": 4, "batch_size": 4}
    learner = build_learner(PPO, "CnnPolicy", SpacesVecEnv(2, image, spaces.Discrete(3)), arguments, None)
    install_masked_buffer(learner)
    rng = np.random.default_rng(0)
    for _ in range(4):
        learner.rollout_buffer.add(
            rng.integers(256, size=(2, 1, 36, 36)),
            rng.integers(3, size=(2, 1)),
            rng.normal(size=2),
            np.zeros(2),
            *th.zeros(2, 2),
        )
    learner.rollout_buffer.compute_returns_and_advantage(th.zeros(2), np.zeros(2))
    return learner


def test_a_step_of_the_best_response_waits_for_nothing():
    learner = image_learner()
    policy = on_meta(learner.policy)
    learner.device = learner.rollout_buffer.device = META
    config = best_response_config(ent_coef=0.01, br_kl_coef=0.1)
    with CopiesToDevice() as copies:
        batch = agent_batch(learner)
        whole = copies.count
        rng = np.random.default_rng(0)
        order = list(np.split(rng.permutation(8), 2))
        for rows in order:
            _gradient_step(policy, policy.optimizer, batch, th.ones(8, device=META), config, rows)
    assert whole <= 9, "one copy of every array"
    # The order of the rows, for the batch and for the weights.
    assert copies.count - whole <= 2 * len(order)
