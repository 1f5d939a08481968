"""The table that compares the best hyper-parameters of a study with the default ones."""

from __future__ import annotations

from sb3_matrl.zoo.sweeping.best_vs_default import Comparison, comparison_table


def test_intervals_need_two_seeds() -> None:
    one = comparison_table(Comparison((0,), 10, (2.0,), (1.0,)), "eval/mean_reward")
    two = comparison_table(Comparison((0, 1), 10, (2.0, 3.0), (1.0, 1.0)), "eval/mean_reward")
    assert one.splitlines()[2].split() == ["best", "2.00", "-", "2.00"] and "nan" not in one
    assert two.splitlines()[3].split() == ["default", "1.00", "[1.00,", "1.00]", "1.00", "1.00"]
