"""What MATRL is for: it settles where independent learners cycle, and it learns the grid worlds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.zero_sum import train as train_zero_sum
from sb3_matrl.zoo.benchmark import benchmark_options, parse_words
from sb3_matrl.zoo.benchmarking.plan import plan_runs
from sb3_matrl.zoo.training.training_run import TrainingRun


@pytest.mark.expensive
@pytest.mark.parametrize("ent_coef", [0.0, 0.05])
def test_matrl_separates_from_independent_learners_in_rock_paper_scissors(ent_coef: float) -> None:
    task = {"game": "rps", "ent_coef": ent_coef, "seed": 11, "iterations": 150}
    independent = train_zero_sum({**task, "setting": "ippo"})["nash_conv"]
    matrl = train_zero_sum({**task, "setting": "matrl"})["nash_conv"]
    assert matrl < 0.5 < independent


@pytest.mark.expensive
def test_matrl_learns_checkers(tmp_path: Path) -> None:
    study = ["--settings", "benchmarks/studies/grid_worlds_one_hot.yml", "--algos", "matrl", "--seed-list", "11"]
    budget = ["-n", "100000", "--eval-freq", "4000", "--eval-episodes", "20", "--out", str(tmp_path)]
    run, _ = plan_runs(benchmark_options(parse_words([*study, *budget])))
    evaluation = TrainingRun.begin(run.options, "").train()
    assert evaluation.sampled[0].mean < 5.0
    assert evaluation.sampled[-1].mean > 14.0
