"""Results of a benchmark's runs, read from their folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sb3_matrl.zoo.benchmarking.budgets import count_gradient_steps, wrong_budgets
from sb3_matrl.zoo.benchmarking.exact_measures import measures_file, read_measures
from sb3_matrl.zoo.benchmarking.plan import PlannedRun
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.training_clock import SECONDS, SPEED, STEPS, training_seconds

# Metric -> array in evaluations.npz.
METRICS = {
    "return": "results",
    "return_greedy": "results_greedy",
    "episode_length": "ep_lengths",
    "episode_length_greedy": "ep_lengths_greedy",
}
# Kind of policy -> metric of its score.
SCORES = {"sampled": "return", "greedy": "return_greedy"}
# More than the longest line of progress.csv.
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RunResult:
    """
    One finished run.

    :param run: the planned run
    :param timesteps: steps of the m evaluations, shape (m,)
    :param seconds: whole seconds of training before each evaluation, shape (m,)
    :param metrics: metric -> value of each of k episodes in each evaluation, shape (m, k)
    :param absolute_metrics: metric -> value of each of 10 k episodes of the best model, shape (10 k,)
    :param gradient_steps: agent -> number of gradient steps, best responses included
    :param total_seconds: seconds of the whole training, including evaluations and what was repeated after it was stopped
    :param machine: machine and versions
    :param measures: exact values of the policies in training, see
        :func:`~sb3_matrl.zoo.benchmarking.exact_measures.read_measures`; empty where they cannot be computed
    """

    run: PlannedRun
    timesteps: np.ndarray
    seconds: np.ndarray
    metrics: dict[str, np.ndarray]
    absolute_metrics: dict[str, np.ndarray]
    gradient_steps: dict[str, int]
    total_seconds: float
    machine: dict[str, Any]
    measures: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def env_steps(self) -> int:
        return int(self.timesteps[-1])

    def curve(self, policy: str) -> np.ndarray:
        """
        :param policy: ``sampled`` or ``greedy``
        :return: mean team return of each evaluation, shape (m,)
        """
        mean: np.ndarray = self.metrics[SCORES[policy]].mean(axis=1)
        return mean


def read_result(run: PlannedRun) -> RunResult:
    """
    :param run: a finished run
    :raises OSError: if one of its files cannot be read
    """
    with np.load(run.folder.evaluations, allow_pickle=False) as evaluations:
        timesteps = evaluations["timesteps"]
        metrics = {metric: evaluations[name] for metric, name in METRICS.items()}
    record = json.loads(run.result.read_text(encoding="utf-8"))
    rows = progress_rows(run.folder.progress)
    return RunResult(
        run=run,
        timesteps=timesteps,
        seconds=_seconds_at(rows, timesteps),
        metrics=metrics,
        absolute_metrics={metric: np.array(values) for metric, values in record["absolute_metrics"].items()},
        gradient_steps=count_gradient_steps(rows, run.hyperparameters),
        total_seconds=record["seconds"],
        machine=record["machine"],
        measures=read_measures(measures_file(run.folder)),
    )


def progress_rows(path: Path) -> list[dict[str, str]]:
    """
    :param path: path of a ``progress.csv``
    :raises OSError: if it cannot be read
    """
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _seconds_at(rows: Iterable[Mapping[str, str]], timesteps: np.ndarray) -> np.ndarray:
    """Seconds at the last iteration up to each number of steps; 0 before the first one."""
    logged = logged_seconds(rows)
    return np.array([max((seconds for steps, seconds in logged if steps <= limit), default=0.0) for limit in timesteps])


def logged_seconds(rows: Iterable[Mapping[str, str]]) -> list[tuple[float, float]]:
    """
    :param rows: rows of ``progress.csv``; the clock of a resumed run begins at 0 again
    :return: steps and seconds of training at every row that has a time
    """
    timed = [row for row in rows if row.get(SECONDS)]
    steps, clock, speed = (np.array([float(row.get(key) or "nan") for row in timed]) for key in (STEPS, SECONDS, SPEED))
    return list(zip(steps.tolist(), training_seconds(steps, clock, speed).tolist(), strict=True))


def trained_steps(folder: RunFolder) -> int:
    """
    Steps of a run that may still be training.

    :param folder: run folder
    :return: environment steps in the last complete line of ``progress.csv``; 0 if there is none
    """
    try:
        with folder.progress.open("rb") as file:
            header = file.readline().decode()
            file.seek(max(file.seek(0, 2) - TAIL_BYTES, len(header)))
            # Text after the last line break is a line that is being written.
            lines = file.read().decode(errors="replace").rpartition("\n")[0].splitlines()[-1:]
    except OSError:
        return 0
    for row in csv.DictReader([header, *lines]):
        return int(float(row.get(STEPS) or 0))
    return 0


def budget_warnings(results: Iterable[RunResult]) -> list[str]:
    """
    Runs that did not get the steps that were asked for.

    :param results: results of runs
    :return: one line for each such run
    """
    lines = []
    for result in results:
        run = result.run
        parts = wrong_budgets(run.options.algo, run.hyperparameters, result.env_steps, result.gradient_steps)
        if parts:
            lines.append(f"{run.name}: {', '.join(parts)}")
    return lines
