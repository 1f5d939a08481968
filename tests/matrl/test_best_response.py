"""The best response against SB3's PPO, hand-written gradients and its own promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.matrl.best_response import (
    BestResponse,
    BestResponseStats,
    approximate_kl,
    best_respond,
    clip_weights,
    surrogate_loss,
    value_loss,
)
from sb3_matrl.on_policy.batch import agent_batch, take_rows
from sb3_matrl.on_policy.buffers import install_masked_buffer
from sb3_matrl.on_policy.learners import build_learner
from tests.matrl.small_models import best_response_config

N_STEPS, N_ENVS = 8, 3
ROWS = N_STEPS * N_ENVS
CONFIG = best_response_config(br_learning_rate=1e-2, batch_size=ROWS)
PLAIN = replace(CONFIG, normalize_advantage=False, vf_coef=0.0, max_grad_norm=1e9)
ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(2),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}


def make_learner(action_space, config=CONFIG, seed=0, **policy_kwargs):
    """A PPO whose buffer holds a random rollout, and whose policy has moved since."""
    th.manual_seed(seed)
    arguments = {
        "n_steps": N_STEPS,
        "device": "cpu",
        "use_sde": policy_kwargs.pop("use_sde", False),
        "policy_kwargs": {"net_arch": [8]} | policy_kwargs,
    }
    names = ("batch_size", "clip_range", "clip_range_vf", "normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm")
    arguments |= {name: getattr(config, name) for name in (*names, "target_kl")}
    arguments |= {"learning_rate": config.br_learning_rate, "n_epochs": config.br_n_epochs}
    learner = build_learner(PPO, "MlpPolicy", SpacesVecEnv(N_ENVS, spaces.Box(-2, 2, (4,)), action_space), arguments, None)
    install_masked_buffer(learner)
    learner.set_logger(Logger(None, []))
    rng = np.random.default_rng(seed)
    for _ in range(N_STEPS):
        observation = rng.normal(size=(N_ENVS, 4)).astype(np.float32)
        with th.no_grad():
            actions, values, log_probs = learner.policy(th.tensor(observation))
        stored = actions.numpy().reshape(N_ENVS, -1)
        starts = rng.random(N_ENVS) < 0.2
        learner.rollout_buffer.add(observation, stored, rng.normal(size=N_ENVS), starts, values, log_probs)
    learner.rollout_buffer.compute_returns_and_advantage(th.zeros(N_ENVS), np.zeros(N_ENVS))
    with th.no_grad():  # so that ratios differ from 1, and some are clipped
        for parameter in learner.policy.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
    return learner


def respond(learner, config, weights=None, seed=0, batch=None, optimizer=None):
    batch = agent_batch(learner) if batch is None else batch
    weights = th.ones(len(batch.mask)) if weights is None else weights
    optimizer = learner.policy.optimizer if optimizer is None else optimizer
    return best_respond(BestResponse(learner.policy, optimizer, batch, weights, config), np.random.default_rng(seed))


def parameters_of(learner):
    return {name: value.detach().clone() for name, value in learner.policy.named_parameters()}


def assert_equal_parameters(learner, other):
    theirs = parameters_of(other)
    for name, value in parameters_of(learner).items():
        assert th.equal(value, theirs[name]), name


# ---------------------------------------------------------------- against SB3

VARIANTS = {
    "default": {},
    "entropy": {"ent_coef": 0.1},
    "value clip": {"clip_range_vf": 0.05},
    "raw advantages": {"normalize_advantage": False},
    "minibatches": {"batch_size": 7, "br_n_epochs": 3},
    "single rows": {"batch_size": 23},
    "early stop": {"batch_size": 6, "br_n_epochs": 12, "target_kl": 0.2, "br_learning_rate": 0.1},
}


@pytest.mark.parametrize("actions", ACTION_SPACES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_with_weights_of_one_it_is_ppo_bit_for_bit(actions, variant, monkeypatch):
    config = replace(CONFIG, **VARIANTS[variant])
    ours, theirs = (make_learner(ACTION_SPACES[actions], config) for _ in range(2))
    assert_equal_parameters(ours, theirs)
    before = parameters_of(ours)
    for group in ours.policy.optimizer.param_groups:
        group["lr"] = 123.0  # the config's learning rate counts
    stats = respond(ours, config, seed=5)

    # SB3 shuffles with NumPy's global generator: give it the same orders.
    shuffler = np.random.default_rng(5)
    in_one_piece = config.batch_size >= ROWS
    monkeypatch.setattr(
        np.random, "permutation", lambda n: np.arange(n) if in_one_piece else shuffler.permutation(np.arange(n))
    )
    theirs.train()

    assert_equal_parameters(ours, theirs)
    moved = parameters_of(ours)
    assert any(not th.equal(moved[name], value) for name, value in before.items())
    logged = theirs.logger.name_to_value
    if variant != "early stop":
        assert stats.n_updates == config.br_n_epochs * -(-ROWS // config.batch_size)
        assert stats.policy_loss == pytest.approx(logged["train/policy_gradient_loss"], rel=1e-5, abs=1e-7)
        assert stats.value_loss == pytest.approx(logged["train/value_loss"], rel=1e-5)
        assert stats.entropy == pytest.approx(-logged["train/entropy_loss"], rel=1e-5)
        assert stats.clip_fraction == pytest.approx(logged["train/clip_fraction"], rel=1e-5)
    else:
        assert 0 < stats.n_updates < 48
    if config.br_n_epochs == 1:
        assert stats.approx_kl == pytest.approx(logged["train/approx_kl"], rel=1e-5)


def test_without_a_closed_form_the_entropy_is_estimated_as_in_ppo(monkeypatch):
    config = replace(CONFIG, ent_coef=0.1)
    ours, theirs = (make_learner(ACTION_SPACES["box"], config, use_sde=True, squash_output=True) for _ in range(2))
    stats = respond(ours, config)
    monkeypatch.setattr(np.random, "permutation", np.arange)
    theirs.train()
    assert_equal_parameters(ours, theirs)
    assert stats.entropy == pytest.approx(-theirs.logger.name_to_value["train/entropy_loss"], rel=1e-5)


# ---------------------------------------------------------------- losses

columns = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        hnp.arrays(np.float64, size, elements=st.floats(0.3, 2.0)),
        hnp.arrays(np.float64, size, elements=st.floats(-3.0, 3.0)),
        hnp.arrays(np.float64, size, elements=st.floats(0.0, 3.0)),
    )
)


@given(columns, st.floats(0.05, 0.5))
@settings(deadline=None)
def test_surrogate_loss_and_its_gradient_equal_the_loop(arrays, clip_range):
    q, advantages, w = arrays
    ratio = th.tensor(q, requires_grad=True)
    loss = surrogate_loss(ratio, th.tensor(advantages), th.tensor(w), clip_range)
    loss.backward()
    expected, gradient = 0.0, np.zeros(len(q))
    for b in range(len(q)):
        bound = min(max(q[b], 1 - clip_range), 1 + clip_range)
        expected -= w[b] * min(q[b] * advantages[b], bound * advantages[b]) / len(q)
        # The clip stops a sample that has moved far enough in the direction that its advantage favours.
        stopped = q[b] > 1 + clip_range if advantages[b] > 0 else q[b] < 1 - clip_range
        gradient[b] = 0.0 if stopped else -w[b] * advantages[b] / len(q)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    at_the_edge = np.isclose(np.abs(q - 1), clip_range)  # no unique derivative there
    np.testing.assert_allclose(ratio.grad.numpy()[~at_the_edge], gradient[~at_the_edge], rtol=1e-9, atol=1e-15)


def test_clip_weights_truncates_to_the_interval_around_one():
    weights = th.tensor([0.0, 0.5, 0.95, 1.0, 1.3, 9.0])
    assert clip_weights(weights, None) is weights
    th.testing.assert_close(clip_weights(weights, 0.2), th.tensor([0.8, 0.8, 0.95, 1.0, 1.2, 1.2]))
    th.testing.assert_close(clip_weights(weights, 3.0), th.tensor([0.0, 0.5, 0.95, 1.0, 1.3, 4.0]))
    assert clip_weights(th.tensor([-0.5]), 3.0).item() == 0.0, "the interval ends at 0"


def test_value_loss_equals_the_mean_square_with_ppo_s_clip():
    values, old, returns = th.tensor([1.0, 2.0, -1.0]), th.tensor([0.5, 2.1, 0.0]), th.tensor([0.0, 2.0, 3.0])
    assert value_loss(values, old, returns, None).item() == pytest.approx((1.0 + 0.0 + 16.0) / 3)
    # Moves of +0.5, -0.1 and -1 from the old values become +0.2, -0.1 and -0.2.
    assert value_loss(values, old, returns, 0.2).item() == pytest.approx((0.7**2 + 0.0 + 3.2**2) / 3, rel=1e-6)


def test_kl_estimate_is_unbiased():
    # With a uniform old policy, the plain mean over all actions is the expectation under it.
    new = th.tensor([0.1, 0.2, 0.7], dtype=th.float64)
    exact = sum(1 / 3 * np.log(1 / 3 / p) for p in new.tolist())
    assert approximate_kl((new * 3).log()).item() == pytest.approx(exact, rel=1e-12)


@given(hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(-5.0, 5.0)))
def test_kl_estimate_is_never_negative(log_ratio):
    assert approximate_kl(th.tensor(log_ratio)).item() >= -1e-15


# ---------------------------------------------------------------- steps


def test_weights_scale_every_sample_s_gradient():
    learner = make_learner(ACTION_SPACES["discrete"])
    batch = agent_batch(learner)
    weights = th.tensor(np.random.default_rng(3).uniform(0.0, 2.0, ROWS), dtype=th.float32)
    optimizer = th.optim.SGD(learner.policy.parameters(), lr=1.0)
    before = parameters_of(learner)
    expected = {name: th.zeros_like(value) for name, value in before.items()}
    for b in range(ROWS):
        _, log_prob, _ = learner.policy.evaluate_actions(batch.observations[b : b + 1], batch.actions[b : b + 1])
        q, advantage = (log_prob - batch.old_log_prob[b]).exp().item(), batch.advantages[b].item()
        if (q > 1.2) if advantage > 0 else (q < 0.8):
            continue
        named = dict(learner.policy.named_parameters())
        gradients = th.autograd.grad(log_prob.sum(), list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                expected[name] += weights[b] * advantage * q * gradient / ROWS
    respond(learner, replace(PLAIN, br_learning_rate=0.3), weights, optimizer=optimizer)
    for name, value in parameters_of(learner).items():
        th.testing.assert_close(value - before[name], 0.3 * expected[name], rtol=1e-3, atol=1e-6)
    assert any(change.abs().max() > 1e-4 for change in expected.values())


def test_a_sample_of_weight_zero_does_not_move_the_policy():
    ours, other = (make_learner(ACTION_SPACES["discrete"]) for _ in range(2))
    weights = th.ones(ROWS)
    weights[::2] = 0.0
    changed = agent_batch(other)
    changed.advantages[::2] = 77.0
    respond(ours, PLAIN, weights)
    respond(other, PLAIN, weights, batch=changed)
    assert_equal_parameters(ours, other)


def test_gradients_are_clipped_to_the_norm():
    learner = make_learner(ACTION_SPACES["discrete"])
    before = parameters_of(learner)
    optimizer = th.optim.SGD(learner.policy.parameters(), lr=1.0)
    respond(learner, replace(CONFIG, br_learning_rate=1.0, max_grad_norm=0.01), optimizer=optimizer)
    change = th.cat([(value - before[name]).flatten() for name, value in parameters_of(learner).items()])
    assert change.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_the_kl_coefficient_pulls_towards_the_old_policy():
    learner = make_learner(ACTION_SPACES["box"])
    old = make_learner(ACTION_SPACES["box"])  # the same rollout
    batch = agent_batch(learner)
    batch.advantages.zero_()

    def divergence():
        with th.no_grad():
            _, log_prob, _ = learner.policy.evaluate_actions(batch.observations, batch.actions)
        return approximate_kl(log_prob - batch.old_log_prob).item()

    before, start = divergence(), parameters_of(learner)
    respond(learner, replace(PLAIN, br_n_epochs=5), batch=batch)
    assert divergence() == before and all(th.equal(v, start[k]) for k, v in parameters_of(learner).items())
    respond(learner, replace(PLAIN, br_n_epochs=30, br_kl_coef=1.0), batch=batch)
    assert divergence() < before / 3
    assert th.equal(agent_batch(old).old_log_prob, batch.old_log_prob)


def test_the_kl_coefficient_s_gradient_is_that_of_the_estimate():
    learner = make_learner(ACTION_SPACES["discrete"])
    batch = agent_batch(learner)
    batch.advantages.zero_()
    _, log_prob, _ = learner.policy.evaluate_actions(batch.observations, batch.actions)
    named = dict(learner.policy.named_parameters())
    # d/dtheta mean(q - 1 - log q) = mean((q - 1) grad log pi)
    gap = ((log_prob - batch.old_log_prob).exp() - 1).detach()
    gradients = th.autograd.grad((gap * log_prob).mean(), list(named.values()), allow_unused=True)
    before = parameters_of(learner)
    optimizer = th.optim.SGD(named.values(), lr=1.0)
    respond(learner, replace(PLAIN, br_learning_rate=0.5, br_kl_coef=0.7), batch=batch, optimizer=optimizer)
    for (name, value), gradient in zip(parameters_of(learner).items(), gradients, strict=True):
        expected = th.zeros_like(value) if gradient is None else -0.5 * 0.7 * gradient
        th.testing.assert_close(value - before[name], expected, rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------- rows


def with_mask(batch, mask):
    return replace(batch, mask=th.tensor(mask))


@pytest.fixture
def mask():
    mask = np.random.default_rng(2).random(ROWS) < 0.6
    assert 0 < mask.sum() < ROWS
    return mask


@pytest.mark.parametrize("batch_size", [5, 100])
def test_masked_rows_may_hold_anything(mask, batch_size):
    config = replace(CONFIG, batch_size=batch_size, br_n_epochs=2, ent_coef=0.1, br_kl_coef=0.1)
    ours, other = (make_learner(ACTION_SPACES["discrete"]) for _ in range(2))
    clean = with_mask(agent_batch(ours), mask)
    garbage = with_mask(agent_batch(other), mask)
    for name in ("observations", "old_log_prob", "old_values", "advantages", "returns"):
        getattr(garbage, name)[~garbage.mask] = float("nan")
    garbage.actions[~garbage.mask] = 2
    weights = th.ones(ROWS)
    spoilt = weights.clone()
    spoilt[~garbage.mask] = float("inf")
    assert respond(ours, config, weights, batch=clean) == respond(other, config, spoilt, batch=garbage)
    assert_equal_parameters(ours, other)


def test_masked_rows_count_as_if_they_had_never_been(mask):
    config = replace(CONFIG, batch_size=5, br_n_epochs=2)
    ours, other = (make_learner(ACTION_SPACES["box"]) for _ in range(2))
    weights = th.linspace(0.5, 1.5, ROWS)
    mine = respond(ours, config, weights, batch=with_mask(agent_batch(ours), mask))
    alone = take_rows(agent_batch(other), np.flatnonzero(mask))
    assert mine == respond(other, config, weights[th.tensor(mask)], batch=alone)
    assert_equal_parameters(ours, other)


@pytest.mark.parametrize("batch_size", [1, 5, 14, 100])
@pytest.mark.parametrize("everyone", [True, False])
def test_every_epoch_visits_every_live_row_once(mask, batch_size, everyone, monkeypatch):
    learner = make_learner(ACTION_SPACES["discrete"])
    batch = agent_batch(learner) if everyone else with_mask(agent_batch(learner), mask)
    live = np.flatnonzero(batch.mask)
    row_of = {tuple(observation): row for row, observation in enumerate(batch.observations.tolist())}
    visits, evaluate = [], learner.policy.evaluate_actions

    def recording(observations, actions):
        visits.append([row_of[tuple(observation)] for observation in observations.tolist()])
        return evaluate(observations, actions)

    monkeypatch.setattr(learner.policy, "evaluate_actions", recording)
    stats = respond(learner, replace(CONFIG, batch_size=batch_size, br_n_epochs=2), batch=batch)
    steps = -(-len(live) // batch_size)
    assert stats.n_updates == len(visits) == 2 * steps
    assert all(1 <= len(rows) <= batch_size for rows in visits)
    epochs = [[row for rows in visits[start : start + steps] for row in rows] for start in (0, steps)]
    assert [sorted(epoch) for epoch in epochs] == [live.tolist()] * 2
    assert steps == 1 or epochs[0] != epochs[1], "in another order every time"


def test_without_live_rows_nothing_happens():
    learner = make_learner(ACTION_SPACES["discrete"])
    before = parameters_of(learner)
    stats = respond(learner, CONFIG, batch=with_mask(agent_batch(learner), np.zeros(ROWS, bool)))
    assert stats == BestResponseStats(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    assert all(th.equal(value, before[name]) for name, value in parameters_of(learner).items())


def test_without_epochs_nothing_happens():
    learner = make_learner(ACTION_SPACES["discrete"])
    before = parameters_of(learner)
    assert respond(learner, replace(CONFIG, br_n_epochs=0)).n_updates == 0
    assert all(th.equal(value, before[name]) for name, value in parameters_of(learner).items())


def test_target_kl_stops_before_the_step_that_exceeds_it():
    learner = make_learner(ACTION_SPACES["box"])
    batch, before = agent_batch(learner), parameters_of(learner)
    with th.no_grad():
        _, log_prob, _ = learner.policy.evaluate_actions(batch.observations, batch.actions)
    at_start = approximate_kl(log_prob - batch.old_log_prob).item()
    stats = respond(learner, replace(CONFIG, br_n_epochs=9, target_kl=0.999 * at_start / 1.5))
    assert stats.n_updates == 0
    assert all(th.equal(value, before[name]) for name, value in parameters_of(learner).items())
    stats = respond(learner, replace(CONFIG, br_n_epochs=1, target_kl=1.001 * at_start / 1.5))
    assert stats.n_updates == 1


def test_the_generator_decides_the_order():
    results = []
    for seed in (1, 1, 2):
        learner = make_learner(ACTION_SPACES["discrete"])
        respond(learner, replace(CONFIG, batch_size=5), seed=seed)
        results.append(th.cat([value.flatten() for value in parameters_of(learner).values()]))
    assert th.equal(results[0], results[1])
    assert not th.equal(results[0], results[2])
