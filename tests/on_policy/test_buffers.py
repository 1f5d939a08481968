"""Masked rollout buffers against SB3's own."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, ReplayBuffer, RolloutBuffer

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.on_policy.buffers import install_masked_buffer, masked_buffer_class
from sb3_matrl.on_policy.learners import build_learner

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


# ---------------------------------------------------------------- a masking learner


@pytest.mark.parametrize(("n_live", "batch_size", "sizes"), [(9, 4, [4, 5]), (8, 4, [4, 4]), (9, 8, [9]), (1, 4, [1])])
def test_a_minibatch_of_one_row_joins_the_one_before_for_learners_that_divide_by_a_deviation(n_live, batch_size, sizes):
    buffer = masked_buffer_class(MaskableRolloutBuffer)(5, BOX, spaces.Discrete(4), device="cpu", n_envs=3)
    legal = np.random.default_rng(0).random((5, 3, 4)) < 0.5
    for t in range(5):
        row = np.full(3, t, dtype=np.float64)
        buffer.add(np.zeros((3, 3)), row, row + np.array([0, 10, 20]), row, th.zeros(3), th.zeros(3), action_masks=legal[t])
    buffer.mask = np.arange(15).reshape(5, 3) < n_live
    buffer.returns = buffer.rewards.copy()  # tells the rows apart
    assert buffer.can_train == (n_live > 1)
    parts = list(buffer.get(batch_size))
    assert [len(part.returns) for part in parts] == sizes
    rows = [(int(value) % 10, int(value) // 10) for part in parts for value in part.returns]
    assert sorted(rows) == sorted(zip(*np.nonzero(buffer.mask), strict=True))
    np.testing.assert_array_equal(th.cat([part.action_masks for part in parts]), [legal[row] for row in rows])


# ---------------------------------------------------------------- advantages where agents take turns


def slow_advantages(rewards, values, acted, ends, last_value, gamma, lam):
    """
    Advantages of one column: its own decisions, episode by episode, with the rewards up to the next one added up.

    :return: row -> advantage, of the rows in which the agent acted
    """
    advantages = {}
    first = 0
    for last in [*np.flatnonzero(ends), len(rewards) - 1]:
        decisions = [row for row in range(first, last + 1) if acted[row]]
        following = 0.0 if ends[last] else last_value
        errors = []
        for k, row in enumerate(decisions):
            until = decisions[k + 1] if k + 1 < len(decisions) else last + 1
            value_after = values[until] if k + 1 < len(decisions) else following
            errors.append(sum(rewards[row:until]) + gamma * value_after - values[row])
        for k, row in enumerate(decisions):
            advantages[row] = sum((gamma * lam) ** later * error for later, error in enumerate(errors[k:]))
        first = last + 1
    return advantages


def buffer_with(rewards, values, acted, ends, gamma, lam, base=RolloutBuffer):
    """A full buffer of arrays (n_steps, n_envs)."""
    n_steps, n_envs = rewards.shape
    settings_of_gae = {"gamma": gamma, "gae_lambda": lam, "n_envs": n_envs, "device": "cpu"}
    buffer = (masked_buffer_class(base) if acted is not None else base)(n_steps, BOX, spaces.Discrete(4), **settings_of_gae)
    starts = np.concatenate([np.ones((1, n_envs), bool), ends[:-1]])
    for t in range(n_steps):
        empty = np.zeros((n_envs, 3)), np.zeros((n_envs, 1))
        buffer.add(*empty, rewards[t], starts[t], th.tensor(values[t]), th.zeros(n_envs))
    if acted is not None:
        buffer.mask = acted
    return buffer


@given(st.integers(1, 9), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_advantages_follow_the_agent_s_own_decisions(n_steps, n_envs, gamma, lam, seed):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, n_steps, n_envs)).astype(np.float32)
    acted, ends = rng.random((n_steps, n_envs)) < rng.random(), rng.random((n_steps, n_envs)) < 0.3
    alive = rng.random((n_steps, n_envs)) < 0.8  # the dead earn nothing, and every row of theirs ends an episode
    rewards[~alive], acted[~alive], ends[~alive] = 0.0, False, True
    last_values = rng.normal(size=n_envs).astype(np.float32)
    buffer = buffer_with(rewards, values, acted, ends, gamma, lam)
    buffer.compute_returns_and_advantage(th.tensor(last_values), ends[-1])
    expected = np.zeros((n_steps, n_envs))
    for copy in range(n_envs):
        columns = (array[:, copy] for array in (rewards, values, acted, ends))
        for row, advantage in slow_advantages(*columns, last_values[copy], gamma, lam).items():
            expected[row, copy] = advantage
    np.testing.assert_allclose(buffer.advantages, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(buffer.returns[acted], (expected + values)[acted], rtol=1e-4, atol=1e-5)


def test_where_everybody_acts_advantages_are_sb3_s_bit_for_bit():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 9, 4)).astype(np.float32)
    ends, last_values = rng.random((9, 4)) < 0.3, th.tensor(rng.normal(size=4))
    results = []
    for acted in (None, np.ones((9, 4), bool)):
        buffer = buffer_with(rewards, values, acted, ends, 0.9, 0.8)
        buffer.compute_returns_and_advantage(last_values, ends[-1])
        results.append(buffer)
    np.testing.assert_array_equal(results[0].advantages, results[1].advantages)
    np.testing.assert_array_equal(results[0].returns, results[1].returns)


def test_a_reward_before_the_first_decision_of_an_episode_is_dropped():
    # Row 0 ends an episode; in rows 1 and 2 the agent waits, in row 3 it decides, and is paid in rows 3 and 4.
    rewards = np.array([[1.0], [100.0], [100.0], [2.0], [3.0]])
    acted, ends = np.array([[1], [0], [0], [1], [0]], bool), np.array([[1], [0], [0], [0], [1]], bool)
    buffer = buffer_with(rewards, np.zeros((5, 1)), acted, ends, 0.5, 1.0)
    buffer.compute_returns_and_advantage(th.tensor([77.0]), ends[-1])
    np.testing.assert_array_equal(buffer.returns.flatten(), [1.0, 0.0, 0.0, 5.0, 0.0])
