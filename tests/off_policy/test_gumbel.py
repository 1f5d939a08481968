"""Samples of categorical policies: frequencies, masks, and the straight-through gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from scipy.stats import chisquare

from sb3_matrl.off_policy.gumbel import greedy_one_hot, gumbel_noise, gumbel_softmax, sample_actions, straight_through

LOGITS = th.tensor([[0.3, -1.2, 0.9, 0.0], [2.0, 1.5, -0.5, 0.7]], dtype=th.float64)
MASK = th.tensor([[True, True, False, True], [False, True, True, False]])
WEIGHTS = th.tensor([[1.0, -2.0, 0.5, 3.0], [0.2, 0.4, -1.0, 2.0]], dtype=th.float64)


def noise() -> th.Tensor:
    th.manual_seed(3)
    return gumbel_noise(LOGITS)


def test_samples_follow_the_softmax_of_the_legal_actions() -> None:
    th.manual_seed(0)
    n = 20_000
    counts = th.bincount(sample_actions(LOGITS[0].expand(n, -1), MASK[0].expand(n, -1)), minlength=4).numpy()
    expected = np.exp(LOGITS[0].numpy()) * MASK[0].numpy()
    assert counts[2] == 0
    assert chisquare(counts[[0, 1, 3]], n * expected[[0, 1, 3]] / expected.sum()).pvalue > 1e-3


def test_no_illegal_action_in_many_draws() -> None:
    th.manual_seed(1)
    logits = 5.0 * th.randn(10_000, 6)
    masks = th.rand(10_000, 6) < 0.3
    masks[th.arange(10_000), th.randint(6, (10_000,))] = True  # one action at least
    for actions in (
        sample_actions(logits, masks),
        greedy_one_hot(logits, masks).argmax(dim=1),
        straight_through(logits, gumbel_noise(logits), 1.0, masks).argmax(dim=1),
    ):
        assert masks[th.arange(10_000), actions].all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("mask", [None, MASK])
def test_straight_through_has_the_gradient_of_the_relaxed_sample(temperature: float, mask: th.Tensor | None) -> None:
    draws = noise()
    logits = LOGITS.clone().requires_grad_()
    hard = straight_through(logits, draws, temperature, mask)
    (gradient,) = th.autograd.grad((hard * WEIGHTS).sum(), logits)
    step, numeric = 1e-6, th.zeros_like(LOGITS)
    for index in np.ndindex(*LOGITS.shape):
        up, down = LOGITS.clone(), LOGITS.clone()
        up[index] += step
        down[index] -= step
        soft_up, soft_down = (gumbel_softmax(one, draws, temperature, mask) for one in (up, down))
        numeric[index] = ((soft_up - soft_down) * WEIGHTS).sum() / (2 * step)
    assert gradient.numpy() == pytest.approx(numeric.numpy(), abs=1e-8)


def test_straight_through_is_exactly_one_hot_and_takes_the_sampled_action() -> None:
    th.manual_seed(5)
    logits = th.randn(500, 7)
    draws = gumbel_noise(logits)
    hard = straight_through(logits, draws, 0.7)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert (hard.sum(dim=1) == 1.0).all()
    assert (hard.argmax(dim=1) == (logits + draws).argmax(dim=1)).all()


def test_relaxed_samples_give_illegal_actions_no_weight_and_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    soft = gumbel_softmax(logits, noise(), 1.0, MASK)
    (gradient,) = th.autograd.grad((soft * WEIGHTS).sum(), logits)
    assert (soft[~MASK] == 0.0).all() and (gradient[~MASK] == 0.0).all()
    assert th.allclose(soft.sum(dim=1), th.ones(2, dtype=th.float64))


def test_samples_approach_one_hot_vectors_at_low_temperature() -> None:
    draws = noise()
    soft = gumbel_softmax(LOGITS, draws, 1e-3)
    assert th.allclose(soft, straight_through(LOGITS, draws, 1.0), atol=1e-9)


def test_noise_has_the_moments_of_the_gumbel_distribution_and_is_finite() -> None:
    th.manual_seed(0)
    draws = gumbel_noise(th.empty(200_000))
    assert draws.isfinite().all()
    assert draws.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert draws.var().item() == pytest.approx(np.pi**2 / 6, abs=0.03)
