"""Masked rollout buffers against SB3's own."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, ReplayBuffer, RolloutBuffer

from sb3_matrl.buffers import install_masked_buffer, masked_buffer_class
from sb3_matrl.learners import SpacesVecEnv, build_learner

GAMMA = 0.9
FIELDS = ("actions", "old_values", "old_log_prob", "advantages", "returns")
BOX, DICT = spaces.Box(-1, 1, (3,), np.float32), spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "k": spaces.Discrete(4)})
BASES = [(RolloutBuffer, BOX), (DictRolloutBuffer, DICT)]


def entries(observations):
    """Observations entry by entry."""
    return observations if isinstance(observations, dict) else {"observations": observations}


def filled(buffer_class, observation_space, n_steps=5, n_envs=3):
    rng = np.random.default_rng(0)
    buffer = buffer_class(n_steps, observation_space, spaces.Discrete(4), device="cpu", n_envs=n_envs, gamma=GAMMA)
    for _ in range(n_steps):
        observation = {"x": rng.normal(size=(n_envs, 2)), "k": rng.integers(4, size=n_envs)}
        buffer.add(
            observation if buffer_class.__name__.endswith("DictRolloutBuffer") else rng.normal(size=(n_envs, 3)),
            rng.integers(4, size=(n_envs, 1)),
            rng.normal(size=n_envs),
            rng.random(n_envs) < 0.3,
            th.tensor(rng.normal(size=n_envs)),
            th.tensor(rng.normal(size=n_envs)),
        )
    buffer.compute_returns_and_advantage(th.tensor(rng.normal(size=n_envs)), np.zeros(n_envs))
    return buffer


def fields_of(samples):
    """Field -> array, Dict observations entry by entry."""
    return {name: getattr(samples, name) for name in FIELDS} | entries(samples.observations)


@pytest.mark.parametrize(("base", "space"), BASES)
@pytest.mark.parametrize("batch_size", [None, 4, 15, 100])
def test_with_everyone_alive_minibatches_are_sb3_s_own_bit_for_bit(base, space, batch_size):
    theirs, ours = filled(base, space), filled(masked_buffer_class(base), space)
    ours.mask = np.ones((5, 3), bool)
    results, states = [], []
    for buffer in (theirs, ours):
        np.random.seed(11)
        results.append([samples for _ in range(2) for samples in buffer.get(batch_size)])
        states.append(np.random.get_state()[1:3])
    for mine, reference in zip(results[1], results[0], strict=True):
        ours_fields, their_fields = fields_of(mine), fields_of(reference)
        assert ours_fields.keys() == their_fields.keys()
        for name, value in their_fields.items():
            assert th.equal(ours_fields[name], value) and ours_fields[name].dtype == value.dtype, name
    np.testing.assert_array_equal(states[0][0], states[1][0])
    assert states[0][1] == states[1][1], "and the random stream has gone equally far"


@pytest.mark.parametrize(("base", "space"), BASES)
@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_minibatches_hold_every_live_row_once_and_no_dead_one(base, space, batch_size):
    theirs, ours = filled(base, space), filled(masked_buffer_class(base), space)
    ours.mask = np.random.default_rng(1).random((5, 3)) < 0.6
    live = [copy * 5 + t for copy in range(3) for t in range(5) if ours.mask[t, copy]]
    next(theirs.get())  # flattens
    key_of = {theirs._get_samples(np.array([row])).returns.item(): row for row in range(15)}
    assert len(key_of) == 15, "returns tell the rows apart"
    rows = []
    for samples in ours.get(batch_size):
        assert 1 <= len(samples.returns) <= (batch_size or len(live))
        found = [key_of[value.item()] for value in samples.returns]
        for name, value in fields_of(theirs._get_samples(np.array(found))).items():
            assert th.equal(fields_of(samples)[name], value), name
        rows += found
    assert sorted(rows) == sorted(live)


def test_minibatches_come_in_another_order_every_time():
    buffer = filled(masked_buffer_class(RolloutBuffer), BOX)
    buffer.mask = np.ones((5, 3), bool)
    buffer.mask[0, 0] = False
    np.random.seed(0)
    first, second = next(buffer.get()).returns, next(buffer.get()).returns
    assert not th.equal(first, second)
    assert th.equal(first.sort().values, second.sort().values)


def test_an_agent_that_never_acted_has_no_minibatch():
    buffer = filled(masked_buffer_class(RolloutBuffer), BOX)
    buffer.mask = np.zeros((5, 3), bool)
    assert list(buffer.get(4)) == []


def test_a_buffer_that_is_not_full_has_no_minibatches():
    buffer = masked_buffer_class(RolloutBuffer)(5, BOX, spaces.Discrete(4), device="cpu")
    buffer.mask = np.zeros((5, 1), bool)
    with pytest.raises(AssertionError, match="not full"):
        next(buffer.get())


def test_only_rollout_buffers_can_be_masked():
    with pytest.raises(TypeError, match="ReplayBuffer is not a subclass of SB3's RolloutBuffer"):
        masked_buffer_class(ReplayBuffer)


def test_buffers_that_store_something_unknown_are_refused():
    class Demanding(RolloutBuffer):
        def add(self, *args, weather, **kwargs):
            super().add(*args, **kwargs)

    with pytest.raises(TypeError, match="Demanding wants weather at every step"):
        masked_buffer_class(Demanding)


def test_a_learner_keeps_its_buffer_s_class_and_settings():
    class Own(RolloutBuffer):
        def __init__(self, *args, flavour="", **kwargs):
            super().__init__(*args, **kwargs)
            self.flavour = flavour

    arguments = {"n_steps": 4, "batch_size": 8, "gamma": 0.5, "gae_lambda": 0.25, "device": "cpu"}
    own = {"rollout_buffer_class": Own, "rollout_buffer_kwargs": {"flavour": "mint"}}
    learner = build_learner(PPO, "MlpPolicy", SpacesVecEnv(2, BOX, spaces.Discrete(2)), arguments, own)
    install_masked_buffer(learner)
    buffer = learner.rollout_buffer
    assert isinstance(buffer, Own) and buffer.flavour == "mint"
    assert learner.rollout_buffer_class is Own, "a saved learner refers to the original"
    assert (buffer.buffer_size, buffer.n_envs, buffer.gamma, buffer.gae_lambda) == (4, 2, 0.5, 0.25)
    assert buffer.mask.shape == (4, 2) and buffer.mask.all()
