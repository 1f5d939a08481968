import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl.metagame import MetaGame
from sb3_matrl.metagame.sample_payoffs import leave_one_out
from tests.metagame.reference import (
    random_samples,
    slow_expected,
    slow_nash_conv,
    slow_payoffs,
    slow_strategy_payoffs,
)

CASES = [(n, clip, masked) for n in range(1, 7) for clip in (None, 0.2, 1.5) for masked in (False, True)]


def make(n, clip, masked, n_samples=12):
    rng = np.random.default_rng([n, masked, int(10 * (clip or 0))])
    ratios, advantages = random_samples(rng, n, n_samples, spread=0.8)
    mask = rng.random(ratios.shape) < 0.7 if masked else None
    return ratios, advantages, clip, mask, rng.uniform(size=n)


@pytest.mark.parametrize(("n", "clip", "masked"), CASES)
def test_samples_agree_with_the_slow_loop(n, clip, masked):
    ratios, advantages, clip, mask, rho = make(n, clip, masked)
    game = MetaGame(ratios, advantages, clip, mask)
    table = slow_payoffs(ratios, advantages, clip, mask)
    np.testing.assert_allclose(game.payoffs(), table, atol=1e-13, rtol=1e-11)
    np.testing.assert_allclose(game.strategy_payoffs(rho), slow_strategy_payoffs(table, rho), atol=1e-13, rtol=1e-11)
    np.testing.assert_allclose(game.expected_payoffs(rho), slow_expected(table, rho), atol=1e-13, rtol=1e-11)
    assert game.nash_conv(rho) == pytest.approx(slow_nash_conv(table, rho), abs=1e-13)
    assert game.scale == pytest.approx(np.abs(table).max())


@pytest.mark.parametrize("n", range(1, 7))
def test_table_agrees_with_the_slow_loop(n):
    rng = np.random.default_rng(n)
    table, rho = rng.standard_normal((n, *(2,) * n)), rng.uniform(size=n)
    game = MetaGame.from_payoffs(table)
    np.testing.assert_array_equal(game.payoffs(), table)
    np.testing.assert_allclose(game.strategy_payoffs(rho), slow_strategy_payoffs(table, rho), atol=1e-13)
    np.testing.assert_allclose(game.expected_payoffs(rho), slow_expected(table, rho), atol=1e-13)
    assert game.nash_conv(rho) == pytest.approx(slow_nash_conv(table, rho), abs=1e-13)


@pytest.mark.parametrize(("n", "clip", "masked"), CASES)
def test_hessian_is_the_finite_difference_of_the_gradient(n, clip, masked):
    ratios, advantages, clip, mask, rho = make(n, clip, masked)
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


def test_hessian_of_unclipped_zero_ratios_needs_no_division():
    ratios, advantages = random_samples(np.random.default_rng(0), 4)
    ratios[::3] = 0.0
    game = MetaGame(ratios, advantages)
    rho = np.zeros(4)
    np.testing.assert_allclose(game.hessian(rho), MetaGame.from_payoffs(game.payoffs()).hessian(rho), atol=1e-12)


def test_leave_one_out_handles_zeros():
    factors = np.array([[0.0], [2.0], [3.0]])
    np.testing.assert_array_equal(leave_one_out(factors), [[6.0], [0.0], [0.0]])


def test_masked_entries_may_hold_anything():
    ratios, advantages, _, mask, rho = make(3, None, True)
    expected = MetaGame(ratios, advantages, 0.2, mask).strategy_payoffs(rho)
    ratios[~mask], advantages[~mask] = -np.inf, np.nan
    np.testing.assert_array_equal(MetaGame(ratios, advantages, 0.2, mask).strategy_payoffs(rho), expected)


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


def test_the_scale_of_many_agents_is_a_lower_estimate_over_probes():
    ratios, advantages = random_samples(np.random.default_rng(0), 13)
    game = MetaGame(ratios, advantages)
    probes = [np.ones(13), np.zeros(13), *(1.0 - np.eye(13)), *np.eye(13)]
    payoffs = [np.abs(game.expected_payoffs(probe)).max() for probe in probes]
    assert 0.0 < game.scale <= max(payoffs) * (1 + 1e-12)
    assert game.scale >= np.abs(game.expected_payoffs(np.zeros(13))).max()


profiles = st.integers(1, 6).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.floats(0.0, 1.0), min_size=n, max_size=n), st.integers(0, 10_000))
)


@given(profiles)
@settings(max_examples=50, deadline=None)
def test_identical_policies_give_zero_payoffs(case):
    n, rho, seed = case
    _, advantages = random_samples(np.random.default_rng(seed), n)
    game = MetaGame(np.ones_like(advantages), advantages)
    assert not game.payoffs().any()
    assert not game.strategy_payoffs(rho).any()
    assert game.nash_conv(rho) == 0.0


@given(profiles)
@settings(max_examples=50, deadline=None)
def test_all_current_is_exactly_zero(case):
    n, _, seed = case
    rng = np.random.default_rng(seed)
    ratios, advantages = random_samples(rng, n)
    game = MetaGame(ratios, advantages, 0.2, rng.random(ratios.shape) < 0.8)
    assert not game.expected_payoffs(np.ones(n)).any()
    assert not game.payoffs()[(slice(None), *(0,) * n)].any()


@given(profiles, st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_payoffs_are_linear_in_each_weight_and_nash_conv_is_not_negative(case, weight):
    n, rho, seed = case
    rng = np.random.default_rng(seed)
    game = MetaGame(*random_samples(rng, n), 0.2)
    j = int(rng.integers(n))
    ends = []
    for end in (0.0, 1.0):
        rho[j] = end
        ends.append(game.expected_payoffs(rho))
    rho[j] = weight
    np.testing.assert_allclose(game.expected_payoffs(rho), (1 - weight) * ends[0] + weight * ends[1], atol=1e-13)
    assert game.nash_conv(rho) >= 0.0


@given(profiles)
@settings(max_examples=30, deadline=None)
def test_permuting_agents_permutes_results(case):
    n, rho, seed = case
    rng = np.random.default_rng(seed)
    ratios, advantages = random_samples(rng, n)
    order = rng.permutation(n)
    game, permuted = MetaGame(ratios, advantages), MetaGame(ratios[:, order], advantages[:, order])
    rho = np.array(rho)
    np.testing.assert_allclose(permuted.strategy_payoffs(rho[order]), game.strategy_payoffs(rho)[order], atol=1e-13)
    np.testing.assert_allclose(permuted.hessian(rho[order]), game.hessian(rho)[np.ix_(order, order)], atol=1e-13)


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


def test_tables_of_many_agents_are_rejected():
    with pytest.raises(ValueError, match="up to 12 agents"):
        MetaGame(np.ones((4, 13)), np.ones((4, 13))).payoffs()


def test_from_payoffs_copies():
    table = np.ones((1, 2))
    game = MetaGame.from_payoffs(table)
    table[:] = 5.0
    game.payoffs()[:] = 7.0
    assert game.scale == 1.0
