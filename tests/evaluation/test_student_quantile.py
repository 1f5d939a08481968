"""Quantiles of Student's distribution against SciPy, which the package itself does not need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_matrl.evaluation import student_t_quantile

stats = pytest.importorskip("scipy.stats")


@given(st.floats(0.01, 0.9999), st.integers(1, 400))
def test_quantiles_are_those_of_scipy(level: float, degrees: int) -> None:
    assert student_t_quantile(level, degrees) == pytest.approx(float(stats.t.ppf((1 + level) / 2, degrees)), rel=1e-7)
