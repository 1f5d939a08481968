"""Who beats whom among mixed strategies; the recorded table of docs/crossplay.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.snapshot_cycles import exact_payoffs, predicted_pairs, table
from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.evaluation.cyclicity import cyclic_share

RPS = np.asarray(matrix_game_v0.named_payoffs("rps"), dtype=np.float64)


def test_payoffs_are_averages_over_both_roles() -> None:
    generator = np.random.default_rng(0)
    players = generator.dirichlet(np.ones(3), size=(4, 2))
    found = exact_payoffs(players, RPS)
    for i, j in np.ndindex(4, 4):
        as_first = sum(players[i, 0, a] * players[j, 1, b] * RPS[0, a, b] for a in range(3) for b in range(3))
        as_second = sum(players[j, 0, a] * players[i, 1, b] * RPS[1, a, b] for a in range(3) for b in range(3))
        assert found[i, j] == pytest.approx((as_first + as_second) / 2)


def test_pure_strategies_are_a_circle_that_no_rating_predicts() -> None:
    payoffs = exact_payoffs([[row, row] for row in np.eye(3)], RPS)
    assert cyclic_share(payoffs) == 1.0 and predicted_pairs(np.array([2.0, 1.0, 0.0]), payoffs) in (1 / 3, 2 / 3)


def test_page_has_the_table_of_the_record() -> None:
    record = json.loads(Path("benchmarks/results/rps_cycles.json").read_text(encoding="utf-8"))
    assert table(record["runs"]) in Path("docs/crossplay.md").read_text(encoding="utf-8")
