"""Trainings of suites in one process: those of zoo/benchmark.py, without its files."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import suite_runs
from benchmarks.congestion import draw, row_of, trainings
from benchmarks.tune_suite import read_grid
from sb3_matrl.zoo.benchmarking.exact_measures import measures_file, read_measures
from sb3_matrl.zoo.benchmarking.suite_file import choose_methods, choose_tasks, read_suite
from sb3_matrl.zoo.benchmarking.suite_plan import PlannedTask, SuiteOptions, plan_suite
from sb3_matrl.zoo.benchmarking.worker import MeasuredRun


def planned(task: str, folder: Path, steps: int) -> PlannedTask:
    options = SuiteOptions(str(folder), (3,), n_timesteps=steps, eval_episodes=4, device="cpu")
    (one,) = plan_suite(choose_methods(choose_tasks(read_suite("all"), [task]), ["matrl"]), options)
    return one


def in_this_process(worker: Any, tasks: list[dict[str, Any]], jobs: int, cache: Path) -> list[dict[str, Any]]:
    return [{**task, **worker(task)} for task in tasks]


def test_curve_is_the_mean_with_an_interval() -> None:
    measures = [{"timesteps": [0.0, 500.0], "nash_conv": [1.0, end]} for end in (0.2, 0.4, 0.9)]
    curve = suite_runs._curve(measures, "nash_conv")
    assert curve["timesteps"] == [0.0, 500.0] and curve["nash_conv"] == [1.0, 0.5]
    assert curve["low"][0] == curve["high"][0] == 1.0 and 0.2 <= curve["low"][1] < 0.5 < curve["high"][1] <= 0.9
    assert suite_runs._curve([{}], "nash_conv") == {}


@pytest.mark.expensive
def test_training_is_that_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = planned("chicken", tmp_path, steps=1000)
    run = next(run for run in one.runs if run.setting == "matrl")
    MeasuredRun.begin(replace(run.options, eval_freq=-1), "test").train()
    expected = read_measures(measures_file(run.folder))
    monkeypatch.setattr(suite_runs, "run_parallel", in_this_process)
    (row,) = (row for row in suite_runs.run_task(one, 4, 1, tmp_path)["rows"] if row["method"] == "matrl")
    for name in ("timesteps", "welfare_score"):
        np.testing.assert_array_equal(row["curve"][name], expected[name].round(6))
    assert row["score"] == expected["welfare_score"][1:].mean() and row["others"] == [expected["welfare_score"][-1]]
    assert row["env_steps"] == 1000 and row["gradient_steps"] == 2 * 15


def test_row_is_the_mean_regret() -> None:
    changes = {"learning_rate": 0.03, "clip_range": 10.0}
    tasks = trainings(8, "il-la", changes, range(2))
    assert [task["seed"] for task in tasks] == [0, 1] and {task["algo"] for task in tasks} == {"il-la"}
    settings = tasks[0]["hyperparameters"]
    assert {name: settings[name] for name in changes} == changes
    assert settings["env_kwargs"]["game_kwargs"] == {"n_agents": 8, "n_resources": 8}
    # The first value is that of the policies before the training.
    results = [{"mean_rho": rho, "measures": {"welfare_score": [-9.0, 0.5, last]}} for rho, last in ((0.0, 1.0), (0.5, 0.0))]
    row = row_of(8, "il-la", changes, results)
    assert row["regrets"] == [0.25, 0.75] and row["regret"] == 0.5 and row["mean_rho"] == 0.25
    assert row["ci95"] == [0.25, 0.75] and row["learning_rate"] == 0.03


@pytest.mark.e2e
def test_picture_has_a_panel_for_every_size_and_clip(tmp_path: Path) -> None:
    results = [{"mean_rho": 0.0, "measures": {"welfare_score": [0.0, 0.5]}}]
    cells = [(size, {"learning_rate": 0.01, "clip_range": clip}) for size in (4, 8) for clip in (0.2, 10.0)]
    draw([row_of(size, "matrl", changes, results) for size, changes in cells], tmp_path / "regret.png")
    assert (tmp_path / "regret.png").read_bytes().startswith(b"\x89PNG")


def test_grid_is_a_mapping_of_lists() -> None:
    assert read_grid("learning_rate: [0.001, 1]") == {"learning_rate": [0.001, 1.0]}
    assert read_grid("learning_rate: [1e-3, lin_0.01]") == {"learning_rate": [0.001, "lin_0.01"]}
    for text in ("0.001", "learning_rate: 0.001", "[1, 2]", "learning_rate: [fast]"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected 'name: "):
            read_grid(text)
