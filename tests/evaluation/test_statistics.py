import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_matrl.evaluation import mean_confidence_interval, student_t_quantile
from sb3_matrl.evaluation.statistics import score_margins, win_rates


@pytest.mark.parametrize(
    ("level", "degrees", "expected"),
    # From printed tables of Student's distribution.
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.30265),
        (0.90, 4, 2.13185),
        (0.95, 9, 2.26216),
        (0.99, 10, 3.16927),
        (0.95, 19, 2.09302),
        (0.95, 100, 1.98397),
        (0.95, 999, 1.96234),
    ],
)
def test_quantile_agrees_with_printed_tables(level, degrees, expected):
    assert student_t_quantile(level, degrees) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("level", "degrees"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_quantile_refuses_arguments_out_of_range(level, degrees):
    with pytest.raises(ValueError, match="level must lie in"):
        student_t_quantile(level, degrees)


def test_interval_by_hand():
    # mean 2, s = 1, t_(0.95, 2) = 4.30265
    low, high = mean_confidence_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), rel=1e-5)


def test_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    covered = [low < 3.0 < high for low, high in map(mean_confidence_interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_one_value_has_no_interval():
    assert all(map(math.isnan, mean_confidence_interval(np.array([1.0]))))


def test_equal_values_have_an_interval_of_no_width():
    assert mean_confidence_interval(np.full(4, 2.5)) == (2.5, 2.5)


def slow_win_rates(returns):
    """Count wins episode by episode, as the rule is written."""
    wins = [0] * len(returns[0])
    for row in returns:
        for agent, own in enumerate(row):
            wins[agent] += all(own >= other for other in row) and any(own > other for other in row)
    return [count / len(returns) for count in wins]


@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=8))
def test_win_rates_and_margins_are_those_of_a_slow_count(rows):
    returns = np.array(rows, dtype=float)
    np.testing.assert_allclose(win_rates(returns), slow_win_rates(rows))
    leads = [[own - (sum(row) - own) / 2 for own in row] for row in rows]
    np.testing.assert_allclose(score_margins(returns), np.mean(leads, axis=0), atol=1e-12)


def test_a_team_wins_together_and_a_draw_is_nobody_s():
    np.testing.assert_array_equal(win_rates(np.array([[2.0, 2, -2, -2], [0, 0, 0, 0]])), [0.5, 0.5, 0, 0])
    assert win_rates(np.array([[5.0]])).tolist() == [0.0] and score_margins(np.array([[5.0]])).tolist() == [0.0]
