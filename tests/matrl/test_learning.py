"""What MATRL is for: it settles where independent learners cycle, and it learns the grid worlds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.grid_worlds import train as train_grid_world
from benchmarks.zero_sum import train as train_zero_sum


@pytest.mark.expensive
@pytest.mark.parametrize("ent_coef", [0.0, 0.05])
def test_matrl_separates_from_independent_learners_in_rock_paper_scissors(ent_coef: float) -> None:
    task = {"game": "rps", "ent_coef": ent_coef, "seed": 11, "iterations": 150}
    independent = train_zero_sum({**task, "setting": "ippo"})["nash_conv"]
    matrl = train_zero_sum({**task, "setting": "matrl"})["nash_conv"]
    assert matrl < 0.5 < independent


@pytest.mark.expensive
def test_matrl_learns_checkers() -> None:
    task = {"preset": "one_hot", "env": "checkers_v0", "setting": "matrl", "seed": 11, "timesteps": 100_000}
    result = train_grid_world(task)
    assert np.mean(result["returns_curve"][:5]) < 5.0
    assert result["sampled"] > 14.0
