import random
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rliable import metrics
from scipy.stats import trim_mean

from sb3_matrl.zoo.benchmarking import run_statistics as statistics
from sb3_matrl.zoo.benchmarking.run_statistics import (
    Estimate,
    column_estimates,
    interquartile_mean,
    probability_of_improvement,
    require_rliable,
    suite_estimates,
)

SCORES = np.random.default_rng(0).normal(size=(7, 3)) * [1.0, 10.0, 0.1]


@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.floats(-100, 100)))
def test_interquartile_mean_is_the_trimmed_mean(scores):
    np.testing.assert_allclose(interquartile_mean(scores), trim_mean(scores, 0.25, axis=0), atol=1e-9)


def slow_intervals(scores, aggregate, seed=1, n_resamples=1000):
    """Percentiles of the aggregate over resampled runs, one column at a time."""
    generator = random.Random(seed)
    values = [aggregate([generator.choice(list(scores)) for _ in scores]) for _ in range(n_resamples)]
    return np.percentile(values, [2.5, 97.5])


@pytest.mark.e2e
def test_columns_have_means_iqms_and_bootstrap_intervals():
    means, iqms = column_estimates(SCORES)
    np.testing.assert_allclose(means[0], SCORES.mean(axis=0))
    np.testing.assert_allclose(iqms[0], trim_mean(SCORES, 0.25, axis=0))
    for column, spread in enumerate(SCORES.std(axis=0)):
        np.testing.assert_allclose(means[1:, column], slow_intervals(SCORES[:, column], np.mean), atol=0.15 * spread)
        slow = slow_intervals(SCORES[:, column], lambda sample: trim_mean(sample, 0.25))
        np.testing.assert_allclose(iqms[1:, column], slow, atol=0.25 * spread)


def test_suite_takes_all_runs_of_all_tasks_together():
    mean, iqm = suite_estimates(SCORES)
    assert mean.value == pytest.approx(SCORES.mean())
    assert iqm.value == pytest.approx(trim_mean(SCORES, 0.25, axis=None)) == pytest.approx(metrics.aggregate_iqm(SCORES))
    # Stratified: the mean's variance is the sum of those within tasks, not that between tasks.
    deviation = np.sqrt((SCORES.var(axis=0) / len(SCORES)).sum()) / 3
    assert (mean.high - mean.low) / 2 == pytest.approx(1.96 * deviation, rel=0.15)


def slow_probability(scores, reference):
    total = 0.0
    for task in range(scores.shape[1]):
        wins = 0.0
        for ours in scores[:, task]:
            for theirs in reference[:, task]:
                wins += 1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
        total += wins / (len(scores) * len(reference))
    return total / scores.shape[1]


def test_probability_of_improvement_is_the_share_of_won_pairs():
    generator = np.random.default_rng(2)
    scores, reference = generator.integers(0, 4, (5, 2)).astype(float), generator.integers(0, 3, (6, 2)).astype(float)
    estimate = probability_of_improvement(scores, reference)
    assert estimate.value == pytest.approx(slow_probability(scores, reference))
    assert estimate.value == pytest.approx(metrics.probability_of_improvement(scores, reference))
    draws = [
        slow_probability(
            np.array([generator.choice(column, len(scores)) for column in scores.T]).T,
            np.array([generator.choice(column, len(reference)) for column in reference.T]).T,
        )
        for _ in range(2000)
    ]
    np.testing.assert_allclose([estimate.low, estimate.high], np.percentile(draws, [2.5, 97.5]), atol=0.05)


@pytest.mark.parametrize(("shift", "expected"), [(100.0, (1.0, 1.0, 1.0)), (-100.0, (0.0, 0.0, 0.0))])
def test_probability_is_certain_when_all_runs_are_better_or_worse(shift, expected):
    estimate = probability_of_improvement(SCORES + shift, SCORES)
    assert (estimate.value, estimate.low, estimate.high) == expected


def test_same_seed_same_intervals_and_no_trace_in_the_global_stream():
    before = np.random.get_state()[1].copy()
    first, second, other = (column_estimates(SCORES, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_one_run_has_no_interval():
    means, iqms = column_estimates(SCORES[:1])
    np.testing.assert_array_equal(means[0], SCORES[0])
    assert np.isnan(means[1:]).all() and np.isnan(iqms[1:]).all()
    lone = probability_of_improvement(SCORES[:1], SCORES)
    assert np.isnan(lone.low) and str(Estimate(1.234, lone.low, lone.high)) == "1.23"
    assert str(Estimate(1.234, -0.5, 2.0)) == "1.23 [-0.50, 2.00]"


def test_missing_rliable_is_told(monkeypatch):
    require_rliable()
    monkeypatch.setitem(sys.modules, "rliable", None)
    monkeypatch.setattr(statistics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"sb3-matrl\[benchmark\]"):
        require_rliable()
