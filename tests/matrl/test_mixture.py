"""Mixtures of policies against arithmetic on plain probabilities."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.distributions import Bernoulli, Categorical, Normal

from sb3_matrl.matrl.mixture import (
    blend_logits,
    effective_sample_size,
    interpolate_parameters,
    kl,
    leave_one_out_products,
    mixture_log_prob,
    mixture_ratios,
    opponent_weights,
    total_variation,
)

DOUBLE = {"dtype": th.float64}
weights = st.floats(0.0, 1.0)
log_densities = hnp.arrays(np.float64, st.integers(1, 6), elements=st.floats(-30.0, 5.0))
factor_tables = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.one_of(st.just(0.0), st.floats(1e-3, 5.0)),
)


def categorical(rng, *shape):
    return Categorical(logits=th.tensor(rng.normal(size=shape)))


def gaussian(rng, *shape):
    return Normal(th.tensor(rng.normal(size=shape)), th.tensor(rng.uniform(0.3, 2.0, shape)))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ---------------------------------------------------------------- densities


@given(log_densities, st.data())
def test_mixture_density_is_the_weighted_sum_of_the_densities(current, data):
    predicted = data.draw(hnp.arrays(np.float64, current.shape, elements=st.floats(-30.0, 5.0)))
    rho = data.draw(weights)
    mixed = mixture_log_prob(th.tensor(current), th.tensor(predicted), rho).numpy()
    for log_mixed, a, b in zip(mixed, current, predicted, strict=True):
        assert math.exp(log_mixed) == pytest.approx(rho * math.exp(a) + (1 - rho) * math.exp(b), rel=1e-9)


def test_mixture_density_at_the_ends_is_exactly_one_of_the_two(rng):
    current, predicted = th.tensor(rng.normal(size=5) - 200), th.tensor(rng.normal(size=5) + 50)
    assert th.equal(mixture_log_prob(current, predicted, 1.0), current)
    assert th.equal(mixture_log_prob(current, predicted, 0.0), predicted)


def test_mixture_density_survives_densities_too_small_for_their_exponential():
    # exp(-2000) is 0 in every floating-point format.
    mixed = mixture_log_prob(th.tensor([-2000.0]), th.tensor([-3000.0]), 0.25)
    assert mixed.item() == pytest.approx(-2000.0 + math.log(0.25), rel=1e-6)


def test_an_action_that_neither_policy_takes_stays_impossible():
    never = th.tensor([-math.inf])
    assert mixture_log_prob(never, never, 0.5).item() == -math.inf


def test_every_sample_may_have_its_own_weight(rng):
    current, predicted, rho = (th.tensor(rng.uniform(0.1, 0.9, 6)) for _ in range(3))
    mixed = mixture_log_prob(current.log(), predicted.log(), rho).exp()
    np.testing.assert_allclose(mixed, rho * current + (1 - rho) * predicted, rtol=1e-12)


@given(log_densities, st.data())
def test_mixture_ratio_is_mixed_over_current_density(current, data):
    predicted = data.draw(hnp.arrays(np.float64, current.shape, elements=st.floats(-30.0, 5.0)))
    rho = data.draw(weights)
    ratios = mixture_ratios(th.tensor(np.exp(predicted - current))[:, None], th.tensor([rho], **DOUBLE))
    expected = [(rho * math.exp(a) + (1 - rho) * math.exp(b)) / math.exp(a) for a, b in zip(current, predicted, strict=True)]
    np.testing.assert_allclose(ratios[:, 0], expected, rtol=1e-9)


def test_mixture_ratio_at_the_ends_is_exactly_one_or_the_ratio(rng):
    ratios = th.tensor(rng.lognormal(size=(8, 2)))
    mixed = mixture_ratios(ratios, th.tensor([1.0, 0.0], **DOUBLE))
    assert th.equal(mixed[:, 0], th.ones(8, **DOUBLE))
    assert th.equal(mixed[:, 1], ratios[:, 1])


def sigma_of(rho):
    return th.stack([rho, 1.0 - rho], dim=1)


def test_two_strategies_give_the_same_bits_by_rho_and_by_sigma(rng):
    ratios, rho = th.tensor(rng.lognormal(size=(8, 3))), th.tensor(rng.random(3))
    for function in (mixture_ratios, opponent_weights):
        expected = rho + (1.0 - rho) * ratios if function is mixture_ratios else function(ratios, rho)
        assert th.equal(function(ratios, rho), expected)
        assert th.equal(function(ratios, sigma_of(rho)), expected)
        assert th.equal(function(ratios[:, :, None], sigma_of(rho)), expected)


@given(st.integers(2, 5), st.integers(0, 9999))
@settings(deadline=None)
def test_mixture_ratio_of_many_strategies_is_mixed_over_current_density(k, seed):
    rng = np.random.default_rng(seed)
    densities, sigma = rng.lognormal(size=(6, 3, k)), rng.dirichlet(np.ones(k), size=3)
    ratios = th.tensor(densities[:, :, 1:] / densities[:, :, :1])
    expected = (densities * sigma).sum(axis=2) / densities[:, :, 0]
    np.testing.assert_allclose(mixture_ratios(ratios, th.tensor(sigma)), expected, rtol=1e-12)
    log_probs = [th.tensor(np.log(densities[:, :, j])) for j in range(k)]
    mixed = mixture_log_prob(log_probs, th.tensor(sigma.T))
    np.testing.assert_allclose(mixed, np.log((densities * sigma).sum(axis=2)), rtol=1e-12, atol=1e-12)


def test_mixture_of_many_strategies_at_a_vertex_is_exactly_one_of_them(rng):
    ratios = th.tensor(rng.lognormal(size=(8, 3, 2)))
    mixed = mixture_ratios(ratios, th.eye(3, **DOUBLE))
    assert th.equal(mixed[:, 0], th.ones(8, **DOUBLE))
    assert th.equal(mixed[:, 1], ratios[:, 1, 0])
    assert th.equal(mixed[:, 2], ratios[:, 2, 1])
    log_probs = [th.tensor(rng.normal(size=5)) * 100 for _ in range(3)]
    for chosen, weights in enumerate(np.eye(3)):
        assert th.equal(mixture_log_prob(log_probs, weights), log_probs[chosen])


# ---------------------------------------------------------------- products


@given(factor_tables)
def test_leave_one_out_products_equal_the_loop_zeros_included(factors):
    products = leave_one_out_products(th.tensor(factors)).numpy()
    for b, row in enumerate(factors):
        for i in range(len(row)):
            expected = math.prod(row[j] for j in range(len(row)) if j != i)
            assert products[b, i] == pytest.approx(expected, rel=1e-12, abs=0.0)


def test_one_agent_alone_has_an_empty_product():
    assert th.equal(leave_one_out_products(th.tensor([[0.0], [7.0]])), th.ones(2, 1))


def slow_opponent_weights(ratios, rho, mask):
    """One sample, one agent, one opponent at a time."""
    result = np.ones_like(ratios)
    for b, i in np.ndindex(*ratios.shape):
        for j in range(ratios.shape[1]):
            if j != i and mask[b, j]:
                result[b, i] *= rho[j] + (1 - rho[j]) * ratios[b, j]
    return result


@given(factor_tables, st.data())
@settings(deadline=None)
def test_opponent_weights_equal_the_loop(ratios, data):
    n = ratios.shape[1]
    rho = data.draw(hnp.arrays(np.float64, n, elements=weights))
    mask = data.draw(hnp.arrays(bool, ratios.shape))
    expected = slow_opponent_weights(ratios, rho, mask)
    actual = opponent_weights(th.tensor(ratios), th.tensor(rho), th.tensor(mask))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-300)


@given(st.integers(1, 4), st.integers(3, 4), st.integers(0, 9999))
@settings(deadline=None, max_examples=30)
def test_opponent_weights_of_many_strategies_equal_the_loop(n, k, seed):
    rng = np.random.default_rng(seed)
    ratios, mask = rng.lognormal(size=(5, n, k - 1)), rng.random((5, n)) < 0.7
    sigma = rng.dirichlet(np.ones(k), size=n)
    actual = opponent_weights(th.tensor(ratios), th.tensor(sigma), th.tensor(mask))
    for b, i in np.ndindex(5, n):
        others = [j for j in range(n) if j != i and mask[b, j]]
        expected = math.prod(sigma[j, 0] + sum(sigma[j, s + 1] * ratios[b, j, s] for s in range(k - 1)) for j in others)
        assert actual[b, i].item() == pytest.approx(expected, rel=1e-12)


def test_without_a_mask_every_opponent_counts(rng):
    ratios, rho = rng.lognormal(size=(9, 4)), rng.random(4)
    expected = slow_opponent_weights(ratios, rho, np.ones((9, 4), bool))
    np.testing.assert_allclose(opponent_weights(th.tensor(ratios), th.tensor(rho)), expected, rtol=1e-12)


def test_a_masked_ratio_may_be_anything(rng):
    ratios, rho = th.tensor(rng.lognormal(size=(4, 3))), th.tensor(rng.random(3))
    mask = th.tensor(rng.random((4, 3)) < 0.5)
    garbage = th.where(mask, ratios, math.nan)
    assert th.equal(opponent_weights(garbage, rho, mask), opponent_weights(ratios, rho, mask))


def test_weights_are_exactly_one_against_current_opponents(rng):
    ratios = th.tensor(rng.lognormal(size=(5, 3)))
    assert th.equal(opponent_weights(ratios, th.ones(3, **DOUBLE)), th.ones(5, 3, **DOUBLE))


def test_weights_turn_means_under_behaviour_into_means_under_the_target(rng):
    # Two agents with three actions: the weighted sum over all joint actions, against the sum under pibar itself.
    behaviour, predicted = categorical(rng, 3).probs, categorical(rng, 3).probs
    rho, own, payoff = 0.3, categorical(rng, 3).probs, th.tensor(rng.normal(size=(3, 3)))
    joint = (own[:, None] * behaviour[None, :]).flatten()
    ratios = th.stack([th.ones(9, **DOUBLE), (predicted / behaviour).repeat(3)], dim=1)
    weight = opponent_weights(ratios, th.tensor([0.9, rho], **DOUBLE))[:, 0]
    under_target = (own[:, None] * (rho * behaviour + (1 - rho) * predicted)[None, :] * payoff).sum()
    assert (joint * weight * payoff.flatten()).sum().item() == pytest.approx(under_target.item(), rel=1e-12)


# ---------------------------------------------------------------- one distribution per state


@given(weights, st.integers(0, 99))
@settings(deadline=None)
def test_blended_categorical_mixes_the_probabilities(rho, seed):
    rng = np.random.default_rng(seed)
    current, predicted = categorical(rng, 4, 5), categorical(rng, 4, 5)
    blended = blend_logits(current, predicted, rho)
    np.testing.assert_allclose(blended.probs, rho * current.probs + (1 - rho) * predicted.probs, rtol=1e-9)


def test_blended_bernoulli_mixes_the_probabilities(rng):
    current, predicted = (Bernoulli(logits=th.tensor(rng.normal(size=(4, 3)) * 3)) for _ in range(2))
    blended = blend_logits(current, predicted, 0.35)
    np.testing.assert_allclose(blended.probs, 0.35 * current.probs + 0.65 * predicted.probs, rtol=1e-12)


def test_blended_components_of_a_list_mix_one_by_one(rng):
    current, predicted = ([categorical(rng, 4, 2), categorical(rng, 4, 6)] for _ in range(2))
    blended = blend_logits(current, predicted, 0.8)
    assert len(blended) == 2
    for mixed, a, b in zip(blended, current, predicted, strict=True):
        np.testing.assert_allclose(mixed.probs, 0.8 * a.probs + 0.2 * b.probs, rtol=1e-12)


def test_blended_gaussian_has_the_mixture_s_mean_and_variance(rng):
    current, predicted, rho = gaussian(rng, 3, 2), gaussian(rng, 3, 2), 0.3
    # Quadrature on a fine grid, which is exact to rounding for smooth functions that vanish at its ends.
    grid = th.linspace(-30, 30, 20_001, **DOUBLE)[:, None, None]
    step = (grid[1] - grid[0]).item()
    density = rho * current.log_prob(grid).exp() + (1 - rho) * predicted.log_prob(grid).exp()
    mean = (grid * density).sum(dim=0) * step
    variance = ((grid - mean) ** 2 * density).sum(dim=0) * step
    blended = blend_logits(current, predicted, rho)
    np.testing.assert_allclose(blended.mean, mean, atol=1e-10)
    np.testing.assert_allclose(blended.variance, variance, rtol=1e-10)


def test_blended_distributions_of_three_policies_mix_probabilities(rng):
    weights = np.array([0.2, 0.5, 0.3])
    categoricals = [categorical(rng, 4, 5) for _ in range(3)]
    expected = sum(weight * one.probs for weight, one in zip(weights, categoricals, strict=True))
    np.testing.assert_allclose(blend_logits(categoricals, weights).probs, expected, rtol=1e-9)
    bernoullis = [Bernoulli(logits=one.logits) for one in categoricals]
    expected = sum(weight * one.probs for weight, one in zip(weights, bernoullis, strict=True))
    np.testing.assert_allclose(blend_logits(bernoullis, weights).probs, expected, rtol=1e-12)
    lists = [[one, Categorical(logits=one.logits[:, :2])] for one in categoricals]
    for component in range(2):
        expected = sum(weight * one[component].probs for weight, one in zip(weights, lists, strict=True))
        np.testing.assert_allclose(blend_logits(lists, weights)[component].probs, expected, rtol=1e-9)


def test_blended_gaussian_of_three_policies_has_the_mixture_s_mean_and_variance(rng):
    policies, weights = [gaussian(rng, 3, 2) for _ in range(3)], [0.2, 0.5, 0.3]
    parts = list(zip(policies, weights, strict=True))
    mean = sum(weight * one.mean for one, weight in parts)
    second_moment = sum(weight * (one.variance + one.mean**2) for one, weight in parts)
    blended = blend_logits(policies, weights)
    np.testing.assert_allclose(blended.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(blended.variance, second_moment - mean**2, rtol=1e-10)


def test_two_policies_blend_to_the_same_bits_in_both_forms(rng):
    rho = 0.3
    single = [Categorical(logits=th.tensor(rng.normal(size=(50, 3)), dtype=th.float32)) for _ in range(2)]
    for one, other, attribute in [
        (*single, "logits"),
        (categorical(rng, 2, 3), categorical(rng, 2, 3), "logits"),
        (Bernoulli(logits=th.tensor([0.5, 0.3])), Bernoulli(logits=th.tensor([1.0, 0.9])), "probs"),
        (gaussian(rng, 2, 3), gaussian(rng, 2, 3), "stddev"),
    ]:
        by_rho, by_weights = blend_logits(one, other, rho), blend_logits([one, other], [rho, 1.0 - rho])
        assert th.equal(getattr(by_rho, attribute), getattr(by_weights, attribute))


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_blending_at_the_ends_gives_one_of_the_two(rho, rng):
    pairs = [
        (categorical(rng, 2, 3), categorical(rng, 2, 3), "logits"),
        (Bernoulli(probs=th.tensor([0.0, 0.3])), Bernoulli(probs=th.tensor([1.0, 0.9])), "probs"),
        (gaussian(rng, 2, 3), gaussian(rng, 2, 3), "mean"),
        (gaussian(rng, 2, 3), gaussian(rng, 2, 3), "stddev"),
    ]
    for current, predicted, attribute in pairs:
        expected = getattr(current if rho == 1.0 else predicted, attribute)
        th.testing.assert_close(getattr(blend_logits(current, predicted, rho), attribute), expected, rtol=1e-14, atol=0)


def test_distributions_of_different_kinds_do_not_blend(rng):
    with pytest.raises(TypeError, match="cannot blend Categorical with Normal"):
        blend_logits(categorical(rng, 2, 3), gaussian(rng, 2, 3), 0.5)
    with pytest.raises(TypeError, match="cannot blend list with Categorical"):
        blend_logits([categorical(rng, 2, 3)], categorical(rng, 2, 3), 0.5)
    with pytest.raises(TypeError, match="cannot blend Laplace with Laplace"):
        blend_logits(th.distributions.Laplace(0.0, 1.0), th.distributions.Laplace(0.0, 1.0), 0.5)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        blend_logits([categorical(rng, 2, 3)] * 2, [categorical(rng, 2, 3)], 0.5)
    with pytest.raises(TypeError, match="cannot blend Categorical with Normal"):
        blend_logits([categorical(rng, 2, 3), categorical(rng, 2, 3), gaussian(rng, 2, 3)], [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="zip"):
        blend_logits([categorical(rng, 2, 3), categorical(rng, 2, 3)], [0.2, 0.3, 0.5])


# ---------------------------------------------------------------- divergences


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def test_kl_of_categoricals_equals_the_sum(rng):
    p, q = categorical(rng, 4, 5), categorical(rng, 4, 5)
    expected = [slow_kl(a, b) for a, b in zip(p.probs.tolist(), q.probs.tolist(), strict=True)]
    np.testing.assert_allclose(kl(p, q), expected, rtol=1e-10)


def test_kl_of_bernoulli_vectors_is_summed_over_the_components(rng):
    a, b = rng.uniform(0.1, 0.9, (3, 4)), rng.uniform(0.1, 0.9, (3, 4))
    expected = [sum(slow_kl([x, 1 - x], [y, 1 - y]) for x, y in zip(r, s, strict=True)) for r, s in zip(a, b, strict=True)]
    np.testing.assert_allclose(kl(Bernoulli(th.tensor(a)), Bernoulli(th.tensor(b))), expected, rtol=1e-10)


def test_kl_of_gaussians_equals_the_closed_form_summed_over_the_components(rng):
    p, q = gaussian(rng, 3, 4), gaussian(rng, 3, 4)
    expected = np.zeros(3)
    for state, k in np.ndindex(3, 4):
        s, t, gap = p.stddev[state, k].item(), q.stddev[state, k].item(), (p.mean - q.mean)[state, k].item()
        expected[state] += math.log(t / s) + (s**2 + gap**2) / (2 * t**2) - 0.5
    np.testing.assert_allclose(kl(p, q), expected, rtol=1e-10)


def test_kl_of_a_list_is_the_kl_of_the_joint_distribution(rng):
    p, q = ([categorical(rng, 1, 2), categorical(rng, 1, 3)] for _ in range(2))
    joint_p, joint_q = (np.outer(*(component.probs[0].numpy() for component in d)).flatten() for d in (p, q))
    np.testing.assert_allclose(kl(p, q), [slow_kl(joint_p, joint_q)], rtol=1e-10)


def test_total_variation_of_categoricals_is_the_largest_gap_over_all_events(rng):
    p, q = categorical(rng, 3, 4), categorical(rng, 3, 4)
    gaps = (p.probs - q.probs).numpy()
    for state, distance in enumerate(total_variation(p, q).tolist()):
        events = [sum(gaps[state, k] for k in range(4) if event >> k & 1) for event in range(16)]
        assert distance == pytest.approx(max(events), rel=1e-12)


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(0.2, 3), st.floats(0.2, 3))
@settings(deadline=None, max_examples=40)
def test_total_variation_of_gaussians_is_bounded_from_above(mean, other_mean, deviation, other_deviation):
    p = Normal(th.tensor([[mean]], **DOUBLE), th.tensor([[deviation]], **DOUBLE))
    q = Normal(th.tensor([[other_mean]], **DOUBLE), th.tensor([[other_deviation]], **DOUBLE))
    grid = th.linspace(-25, 25, 20_001, **DOUBLE)[:, None]
    gap = (p.log_prob(grid).exp() - q.log_prob(grid).exp()).abs()
    exact = 0.5 * th.trapezoid(gap[:, 0], grid[:, 0]).item()
    bound = total_variation(p, q)
    assert bound.shape == (1,)
    assert exact - 1e-5 <= bound.item() <= 1.0


def test_total_variation_of_equal_policies_is_zero_and_of_disjoint_ones_is_one(rng):
    policy = gaussian(rng, 2, 3)
    assert th.equal(total_variation(policy, policy), th.zeros(2, **DOUBLE))
    far = Normal(policy.mean + 100, policy.stddev)
    assert th.equal(total_variation(policy, far), th.ones(2, **DOUBLE))
    first, last = (Categorical(probs=th.tensor([row])) for row in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
    assert total_variation(first, last).item() == 1.0


# ---------------------------------------------------------------- parameters and weights


def test_interpolated_parameters_equal_the_weighted_sum(rng):
    current, predicted = ({"a": th.tensor(rng.normal(size=3)), "b": th.tensor(rng.normal(size=(2, 2)))} for _ in range(2))
    mixed = interpolate_parameters(current, predicted, 0.2)
    assert list(mixed) == ["a", "b"]
    for name in mixed:
        np.testing.assert_allclose(mixed[name], 0.2 * current[name].numpy() + 0.8 * predicted[name].numpy(), rtol=1e-14)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_interpolation_at_the_ends_copies_even_what_arithmetic_would_spoil(rho):
    # 0 * inf is nan: only a copy is exact.
    current, predicted = {"w": th.tensor([1.0 / 3.0, math.inf])}, {"w": th.tensor([-math.inf, 0.1])}
    chosen = current if rho == 1.0 else predicted
    mixed = interpolate_parameters(current, predicted, rho)
    assert th.equal(mixed["w"], chosen["w"])
    mixed["w"].zero_()
    assert chosen["w"].abs().max() > 0, "the copy is independent"


def test_interpolated_parameters_of_three_policies_equal_the_weighted_sum(rng):
    policies, weights = [{"a": th.tensor(rng.normal(size=3))} for _ in range(3)], np.array([0.2, 0.5, 0.3])
    expected = sum(weight * policy["a"].numpy() for weight, policy in zip(weights, policies, strict=True))
    np.testing.assert_allclose(interpolate_parameters(policies, weights)["a"], expected, rtol=1e-14)


def test_policies_without_weight_do_not_touch_the_parameters():
    policies = [{"w": th.tensor([1.0 / 3.0, 2.0])}, {"w": th.tensor([math.inf, math.nan])}, {"w": th.tensor([1.0, 0.5])}]
    for chosen in (0, 2):
        mixed = interpolate_parameters(policies, np.eye(3)[chosen])
        assert th.equal(mixed["w"], policies[chosen]["w"])
        assert mixed["w"] is not policies[chosen]["w"]
    np.testing.assert_allclose(interpolate_parameters(policies, [0.5, 0.0, 0.5])["w"], [2 / 3, 1.25], rtol=1e-6)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(1e-3, 1e3)))
def test_effective_sample_size_lies_between_one_sample_and_all(w):
    share = effective_sample_size(w)
    assert 1 / len(w) - 1e-12 <= share <= 1 + 1e-12
    assert share == pytest.approx(sum(w) ** 2 / (len(w) * sum(x * x for x in w)), rel=1e-12)


def test_effective_sample_size_of_known_weights():
    assert effective_sample_size(np.full(7, 3.0)) == pytest.approx(1.0)
    assert effective_sample_size(np.array([5.0, 0.0, 0.0, 0.0])) == 0.25
    assert effective_sample_size(np.zeros(0)) == 1.0
