"""Seconds of training in logs of resumed runs, against simulated clocks."""

from __future__ import annotations

import numpy as np
import pytest

from sb3_matrl.zoo.common.training_clock import training_seconds


@pytest.mark.parametrize("seed", range(20))
def test_seconds_go_on_wherever_a_run_is_resumed(seed: int) -> None:
    """Speeds differ between processes, so that the clock of a resumed run may be ahead of that of the run before."""
    rng = np.random.default_rng(seed)
    total, before, rows, truth = 0, 0.0, [], []
    for _ in range(4):
        start, elapsed, seconds_per_row = total, 0.0, rng.uniform(0.4, 40)
        for _ in range(rng.integers(1, 6)):
            total += 2000
            elapsed += seconds_per_row * rng.uniform(0.8, 1.2)
            rows.append((total, int(elapsed), int((total - start) / elapsed)))
            truth.append(before + elapsed)
        before += elapsed
    steps, clock, speed = np.array(rows, dtype=float).T
    # Every process loses less than a second by rounding.
    assert np.abs(training_seconds(steps, clock, speed) - truth).max() < 4.0


def test_a_clock_alone_tells_a_resumed_run_if_it_falls() -> None:
    clock = np.array([3.0, 5.0, 2.0, 2.0, 1.0])
    assert training_seconds(np.arange(5.0), clock).tolist() == [3, 5, 7, 7, 8]
    unknown = np.full(5, np.nan)
    assert training_seconds(np.arange(5.0), clock, unknown).tolist() == [3, 5, 7, 7, 8]
    assert training_seconds(*np.zeros((3, 0))).tolist() == []
    steps, clock, speed = np.array([1000.0, 2000.0, 3000.0]), np.array([10.0, 12.0, 24.0]), np.array([99.0, 160.0, 41.0])
    assert training_seconds(steps, clock, speed).tolist() == [10, 12, 36]
