import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl.metagame import MetaGame, tangent_basis
from sb3_matrl.metagame.sample_payoffs import leave_one_out
from tests.metagame.reference import (
    random_profile,
    random_samples,
    slow_expected,
    slow_nash_conv,
    slow_payoffs,
    slow_strategy_payoffs,
)

SIZES = [(n, 2) for n in range(1, 7)] + [(n, 3) for n in range(1, 5)] + [(n, 4) for n in range(1, 4)]
CASES = [(n, k, clip, masked) for n, k in SIZES for clip in (None, 0.2, 1.5) for masked in (False, True)]


def make(n, k, clip, masked, n_samples=12):
    rng = np.random.default_rng([n, masked, int(10 * (clip or 0))])
    ratios, advantages = random_samples(rng, n, n_samples, spread=0.8, k=k)
    mask = rng.random(advantages.shape) < 0.7 if masked else None
    return ratios, advantages, clip, mask, random_profile(rng, n, k)


@pytest.mark.parametrize(("n", "k", "clip", "masked"), CASES)
def test_samples_agree_with_the_slow_loop(n, k, clip, masked):
    ratios, advantages, clip, mask, profile = make(n, k, clip, masked)
    game = MetaGame(ratios, advantages, clip, mask)
    table = slow_payoffs(ratios, advantages, clip, mask)
    assert (game.n_agents, game.n_strategies) == (n, k)
    np.testing.assert_allclose(game.payoffs(), table, atol=1e-13, rtol=1e-11)
    expected = slow_strategy_payoffs(table, profile)
    np.testing.assert_allclose(game.strategy_payoffs(profile), expected, atol=1e-13, rtol=1e-11)
    np.testing.assert_allclose(game.expected_payoffs(profile), slow_expected(table, profile), atol=1e-13, rtol=1e-11)
    assert game.nash_conv(profile) == pytest.approx(slow_nash_conv(table, profile), abs=1e-12)
    assert game.scale == pytest.approx(np.abs(table).max())


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_table_agrees_with_the_slow_loop(n, k):
    rng = np.random.default_rng(n)
    table, profile = rng.standard_normal((n, *(k,) * n)), random_profile(rng, n, k)
    game = MetaGame.from_payoffs(table)
    np.testing.assert_array_equal(game.payoffs(), table)
    np.testing.assert_allclose(game.strategy_payoffs(profile), slow_strategy_payoffs(table, profile), atol=1e-13)
    np.testing.assert_allclose(game.expected_payoffs(profile), slow_expected(table, profile), atol=1e-13)
    assert game.nash_conv(profile) == pytest.approx(slow_nash_conv(table, profile), abs=1e-12)


@pytest.mark.parametrize(("n", "k", "clip", "masked"), [case for case in CASES if case[1] > 2])
def test_derivatives_in_tangent_coordinates_are_finite_differences(n, k, clip, masked):
    ratios, advantages, clip, mask, sigma = make(n, k, clip, masked)
    sigma = 0.5 * sigma + 0.5 / k
    game, basis, step = MetaGame(ratios, advantages, clip, mask), tangent_basis(k), 1e-2
    slopes, hessian = np.zeros((n, k - 1)), np.zeros((n * (k - 1), n, k - 1))
    for j, a in np.ndindex(n, k - 1):
        # Payoffs are linear in the coordinates of one agent, so central differences are exact.
        move = np.zeros((n, k))
        move[j] = step * basis[:, a]
        ends = sigma + move, sigma - move
        difference = [(game.expected_payoffs(end), game.gradient(end)) for end in ends]
        slopes[j, a] = (difference[0][0] - difference[1][0])[j] / (2 * step)
        hessian[:, j, a] = (difference[0][1] - difference[1][1]) / (2 * step)
    np.testing.assert_allclose(game.gradient(sigma), slopes.ravel(), atol=1e-11)
    np.testing.assert_allclose(game.hessian(sigma), hessian.reshape(n * (k - 1), -1), atol=1e-11)
    dense = MetaGame.from_payoffs(game.payoffs())
    np.testing.assert_allclose(dense.gradient(sigma), game.gradient(sigma), atol=1e-12)
    np.testing.assert_allclose(dense.hessian(sigma), game.hessian(sigma), atol=1e-12)


TWO = [case for case in CASES if case[1] == 2]


@pytest.mark.parametrize(("n", "k", "clip", "masked"), TWO)
def test_hessian_is_the_finite_difference_of_the_gradient(n, k, clip, masked):
    ratios, advantages, clip, mask, rho = make(n, k, clip, masked)
    game = MetaGame(ratios, advantages, clip, mask)
    expected = np.zeros((n, n))
    for j in range(n):
        # The gradient is linear in each weight, so the difference of the ends is exact.
        upper, lower = rho.copy(), rho.copy()
        upper[j], lower[j] = 1.0, 0.0
        difference = game.strategy_payoffs(upper) - game.strategy_payoffs(lower)
        expected[:, j] = difference[:, 0] - difference[:, 1]
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(game.hessian(rho), expected, atol=1e-12, rtol=1e-10)
    dense = MetaGame.from_payoffs(game.payoffs())
    np.testing.assert_allclose(dense.hessian(rho), expected, atol=1e-12, rtol=1e-10)
    np.testing.assert_allclose(dense.gradient(rho), game.gradient(rho), atol=1e-12)


@pytest.mark.parametrize("clip", [0.2, None])
def test_derivatives_of_more_samples_than_a_block_agree_with_the_table(clip):
    rng = np.random.default_rng(5)
    ratios, advantages = random_samples(rng, 5, 2300, spread=0.5)
    game, rho = MetaGame(ratios, advantages, clip), rng.uniform(size=5)
    dense = MetaGame.from_payoffs(game.payoffs())
    np.testing.assert_allclose(game.gradient(rho), dense.gradient(rho), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(game.hessian(rho), dense.hessian(rho), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("clip", [0.2, None])
def test_single_precision_of_many_agents_agrees_with_double_precision(clip):
    rng = np.random.default_rng(5)
    samples, rho = MetaGame(*random_samples(rng, 13, 2300, spread=0.5), clip).normalised, rng.uniform(size=13)
    gradient, hessian = samples.linearised(rho)
    expected = samples.gradient(rho[None])[0], samples.hessian(rho)
    np.testing.assert_allclose(gradient, expected[0], atol=1e-5 * np.abs(expected[0]).max())
    np.testing.assert_allclose(hessian, expected[1], atol=1e-5 * np.abs(expected[1]).max())


@pytest.mark.parametrize("k", [2, 3])
def test_derivatives_of_unclipped_zero_ratios_need_no_division(k):
    ratios, advantages = random_samples(np.random.default_rng(0), 4, k=k)
    ratios[::3] = 0.0
    game = MetaGame(ratios, advantages)
    profile, dense = game.pure_profile(1), MetaGame.from_payoffs(game.payoffs())
    np.testing.assert_allclose(game.gradient(profile), dense.gradient(profile), atol=1e-12)
    np.testing.assert_allclose(game.hessian(profile), dense.hessian(profile), atol=1e-12)


def test_sixteen_agents_with_three_strategies_agree_with_a_loop_over_samples():
    rng = np.random.default_rng(3)
    ratios, advantages = random_samples(rng, 16, 40, spread=0.2, k=3)
    game, sigma = MetaGame(ratios, advantages, 0.3), random_profile(rng, 16, 3)
    clipped = np.clip(ratios, 0.7, 1.3)
    expected = np.zeros((16, 3))
    for i, strategy in np.ndindex(16, 3):
        for b in range(40):
            product = 1.0
            for j in range(16):
                weights = np.eye(3)[strategy] if j == i else sigma[j]
                product *= weights[0] + weights[1] * clipped[b, j, 0] + weights[2] * clipped[b, j, 1]
            expected[i, strategy] += (advantages[b, i] - advantages[:, i].mean()) * product / 40
    np.testing.assert_allclose(game.strategy_payoffs(sigma), expected, atol=1e-12)
    np.testing.assert_allclose(game.expected_payoffs(sigma), (sigma * expected).sum(axis=1), atol=1e-12)
    deviations = expected.max(axis=1) - (sigma * expected).sum(axis=1)
    assert game.nash_conv(sigma) == pytest.approx(deviations.sum(), abs=1e-12)


def test_two_strategies_give_the_same_bits_in_all_forms():
    rng = np.random.default_rng(11)
    ratios, advantages = random_samples(rng, 4)
    rho = rng.uniform(size=4)
    game, other = MetaGame(ratios, advantages, 0.2), MetaGame(ratios[:, :, None], advantages, 0.2)
    sigma = np.stack([rho, 1.0 - rho], axis=1)
    np.testing.assert_array_equal(game.payoffs(), other.payoffs())
    for name in ("strategy_payoffs", "expected_payoffs", "nash_conv", "gradient", "hessian"):
        np.testing.assert_array_equal(getattr(game, name)(rho), getattr(other, name)(sigma))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_duplicated_strategy_changes_nothing(n):
    rng = np.random.default_rng(n)
    ratios, advantages = random_samples(rng, n)
    game, doubled = MetaGame(ratios, advantages, 0.2), MetaGame(np.stack([ratios, ratios], axis=2), advantages, 0.2)
    sigma = random_profile(rng, n, 3)
    rho = sigma[:, 0]
    np.testing.assert_allclose(doubled.strategy_payoffs(sigma), game.strategy_payoffs(rho)[:, [0, 1, 1]], atol=1e-14)
    np.testing.assert_allclose(doubled.expected_payoffs(sigma), game.expected_payoffs(rho), atol=1e-14)
    assert doubled.nash_conv(sigma) == pytest.approx(game.nash_conv(rho), abs=1e-14)
    assert doubled.scale == pytest.approx(game.scale)


def test_permuting_strategies_permutes_payoffs():
    rng = np.random.default_rng(2)
    ratios, advantages = random_samples(rng, 3, k=4)
    sigma, order = random_profile(rng, 3, 4), [0, 3, 1, 2]
    permuted = MetaGame(ratios[:, :, [2, 0, 1]], advantages)
    expected = MetaGame(ratios, advantages).strategy_payoffs(sigma)[:, order]
    np.testing.assert_allclose(permuted.strategy_payoffs(sigma[:, order]), expected, atol=1e-13)


def test_pure_profiles_are_distributions():
    game = MetaGame.from_payoffs(np.zeros((2, 3, 3)))
    np.testing.assert_array_equal(game.pure_profile(1), [[0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(game.pure_profile([2, 0]), [[0, 0, 1], [1, 0, 0]])
    for bad in (3, -1, [0, 1, 2], 0.5):
        with pytest.raises(ValueError, match="strategies must be one of 0 to 2, or 2 of them"):
            game.pure_profile(bad)


def test_leave_one_out_handles_zeros():
    factors = np.array([[0.0], [2.0], [3.0]])
    np.testing.assert_array_equal(leave_one_out(factors), [[6.0], [0.0], [0.0]])


@pytest.mark.parametrize("k", [2, 3])
def test_masked_entries_may_hold_anything(k):
    ratios, advantages, _, mask, profile = make(3, k, None, True)
    expected = MetaGame(ratios, advantages, 0.2, mask).strategy_payoffs(profile)
    ratios[~mask], advantages[~mask] = -np.inf, np.nan
    np.testing.assert_array_equal(MetaGame(ratios, advantages, 0.2, mask).strategy_payoffs(profile), expected)


def test_agent_that_was_never_live_has_zero_payoffs():
    ratios, advantages = random_samples(np.random.default_rng(1), 3)
    mask = np.ones(ratios.shape, dtype=bool)
    mask[:, 1] = False
    game = MetaGame(ratios, advantages, None, mask)
    assert not game.payoffs()[1].any()
    np.testing.assert_allclose(game.payoffs()[[0, 2]][:, :, 0], game.payoffs()[[0, 2]][:, :, 1], atol=1e-15)


def test_constant_advantages_make_a_zero_game():
    ratios, _ = random_samples(np.random.default_rng(1), 3)
    assert MetaGame(ratios, np.full(ratios.shape, 0.1)).scale == 0.0


def test_the_scale_of_many_strategies_is_a_lower_estimate_over_probes():
    ratios, advantages = random_samples(np.random.default_rng(0), 9, k=3)
    game = MetaGame(ratios, advantages)
    alike = [game.pure_profile(strategy) for strategy in range(3)]
    assert game.scale == max(np.abs(game.strategy_payoffs(profile)).max() for profile in alike)
    joint = np.ones((1, 30))
    for rows in ratios.transpose(1, 2, 0):
        joint = (joint[:, None] * np.concatenate([np.ones((1, 30)), rows])).reshape(-1, 30)
    table = joint @ (advantages - advantages.mean(axis=0)) / 30
    assert 0.0 < game.scale <= np.abs(table).max() * (1 + 1e-12)


def test_the_scale_of_many_agents_is_a_lower_estimate_over_probes():
    ratios, advantages = random_samples(np.random.default_rng(0), 13)
    game = MetaGame(ratios, advantages)
    probes = [np.ones(13), np.zeros(13), *(1.0 - np.eye(13)), *np.eye(13)]
    payoffs = [np.abs(game.expected_payoffs(probe)).max() for probe in probes]
    assert 0.0 < game.scale <= max(payoffs) * (1 + 1e-12)
    assert game.scale >= np.abs(game.expected_payoffs(np.zeros(13))).max()


sizes = st.sampled_from(SIZES)
seeds = st.integers(0, 10_000)


@given(sizes, seeds)
@settings(max_examples=50, deadline=None)
def test_identical_policies_give_zero_payoffs(size, seed):
    n, k = size
    rng = np.random.default_rng(seed)
    ratios, advantages = random_samples(rng, n, k=k)
    game, profile = MetaGame(np.ones_like(ratios), advantages), random_profile(rng, n, k)
    assert not game.payoffs().any()
    assert not game.strategy_payoffs(profile).any()
    assert game.nash_conv(profile) == 0.0


@given(sizes, seeds)
@settings(max_examples=50, deadline=None)
def test_all_current_is_exactly_zero(size, seed):
    n, k = size
    rng = np.random.default_rng(seed)
    ratios, advantages = random_samples(rng, n, k=k)
    game = MetaGame(ratios, advantages, 0.2, rng.random(advantages.shape) < 0.8)
    assert not game.expected_payoffs(game.pure_profile(0)).any()
    assert not game.strategy_payoffs(game.pure_profile(0))[:, 0].any()
    assert not game.payoffs()[(slice(None), *(0,) * n)].any()


@given(sizes, seeds, st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_payoffs_are_linear_in_each_agent_and_nash_conv_is_not_negative(size, seed, weight):
    n, k = size
    rng = np.random.default_rng(seed)
    game = MetaGame(*random_samples(rng, n, k=k), 0.2)
    j = int(rng.integers(n))
    one, other = (random_profile(rng, n, k) for _ in range(2))
    # Two profiles that differ in agent j only, and the point between them.
    other = np.where((np.arange(n) == j).reshape((n,) + (1,) * (one.ndim - 1)), other, one)
    ends = [game.expected_payoffs(end) for end in (other, one)]
    between = np.clip((1 - weight) * other + weight * one, 0.0, 1.0)
    np.testing.assert_allclose(game.expected_payoffs(between), (1 - weight) * ends[0] + weight * ends[1], atol=1e-13)
    assert game.nash_conv(between) >= 0.0


@given(sizes, seeds)
@settings(max_examples=30, deadline=None)
def test_permuting_agents_permutes_results(size, seed):
    n, k = size
    rng = np.random.default_rng(seed)
    ratios, advantages = random_samples(rng, n, k=k)
    order = rng.permutation(n)
    game, permuted = MetaGame(ratios, advantages), MetaGame(ratios[:, order], advantages[:, order])
    profile = random_profile(rng, n, k)
    expected = game.strategy_payoffs(profile)[order]
    np.testing.assert_allclose(permuted.strategy_payoffs(profile[order]), expected, atol=1e-13)
    rows = np.arange(n * (k - 1)).reshape(n, k - 1)[order].ravel()
    np.testing.assert_allclose(permuted.hessian(profile[order]), game.hessian(profile)[np.ix_(rows, rows)], atol=1e-13)


ONES = np.ones((4, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(4), np.ones(4)), r"ratios must have shape \(samples, agents\)"),
        ((np.ones((0, 2)), np.ones((0, 2))), "at least one of each"),
        ((ONES, np.ones((4, 3))), "advantages \\(4, 3\\)"),
        ((ONES * np.nan, ONES), r"ratios must be finite, but entry \(0, 0\) is nan"),
        ((ONES, ONES * np.inf), "advantages must be finite"),
        ((-ONES, ONES), "ratios must be >= 0"),
        ((ONES, ONES, 0.0), "clip_range must be a positive number"),
        ((ONES, ONES, float("nan")), "clip_range must be a positive number"),
        ((ONES, ONES, None, np.ones((4, 3), dtype=bool)), "mask has shape"),
        ((ONES, ONES, None, ONES * 0.5), "mask must hold booleans"),
        ((ONES * 1e200, ONES), "pass a clip_range"),
        ((np.ones((4, 2, 0)), ONES), "at least one of each"),
        ((np.ones((4, 2, 2, 1)), ONES), r"or \(samples, agents, strategies - 1\)"),
        ((np.ones((4, 3, 2)), ONES), r"ratios have shape \(4, 3\)"),
        ((np.full((4, 2, 2), np.nan), ONES), r"entry \(0, 0, 0\) is nan"),
    ],
)
def test_bad_samples_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        MetaGame(*arguments)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (1.0, "must have shape"),
        (np.ones((2, 2)), "must have shape"),
        (np.ones((2, 2, 3)), "must have shape"),
        (np.full((1, 2), np.nan), "payoffs must be finite"),
        (np.ones((13, *(2,) * 13)), "up to 12 agents"),
        (np.ones((2, 1, 1)), "must have shape"),
        (np.ones((8, *(3,) * 8)), "3\\^8 profiles; tables are built up to 7 agents"),
    ],
)
def test_bad_tables_are_rejected(table, message):
    with pytest.raises(ValueError, match=message):
        MetaGame.from_payoffs(table)


@pytest.mark.parametrize(
    ("rho", "message"), [([0.5], "must have shape"), ([0.5, 1.1], r"\[0, 1\]"), ([0.5, np.nan], r"\[0, 1\]")]
)
def test_bad_profiles_are_rejected(rho, message):
    with pytest.raises(ValueError, match=message):
        MetaGame(ONES, ONES).nash_conv(rho)


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        ([0.5, 0.5], r"sigma must have shape \(2, 3\)"),
        ([[0.5, 0.5], [1.0, 0.0]], r"sigma must have shape \(2, 3\)"),
        ([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0]], "must be a distribution"),
        ([[1.5, -0.5, 0.0], [1.0, 0.0, 0.0]], "must be a distribution"),
        ([[np.nan, 0.5, 0.5], [1.0, 0.0, 0.0]], "must be a distribution"),
    ],
)
def test_bad_distributions_are_rejected(sigma, message):
    with pytest.raises(ValueError, match=message):
        MetaGame(np.ones((4, 2, 2)), ONES).nash_conv(sigma)


def test_tables_of_many_agents_are_rejected():
    with pytest.raises(ValueError, match="up to 12 agents"):
        MetaGame(np.ones((4, 13)), np.ones((4, 13))).payoffs()


def test_from_payoffs_copies():
    table = np.ones((1, 2))
    game = MetaGame.from_payoffs(table)
    table[:] = 5.0
    game.payoffs()[:] = 7.0
    assert game.scale == 1.0
