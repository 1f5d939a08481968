"""What the runs of a benchmark brought, read from their folders."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_matrl.zoo.benchmarking.plan import PlannedRun
from sb3_matrl.zoo.common.hyperparameters import ALGORITHMS, Hyperparameters
from sb3_matrl.zoo.common.run_folder import RunFolder

PROGRESS_FILE = "progress.csv"
STEPS_KEY = "time/total_timesteps"
SECONDS_KEY = "time/time_elapsed"
# Metric -> array in evaluations.npz.
METRICS = {
    "return": "results",
    "return_greedy": "results_greedy",
    "episode_length": "ep_lengths",
    "episode_length_greedy": "ep_lengths_greedy",
}
# Kind of policy -> metric that judges it.
SCORES = {"sampled": "return", "greedy": "return_greedy"}
# More than the longest line of progress.csv.
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RunResult:
    """
    One finished run.

    :param run: what was planned
    :param timesteps: of its m evaluations, shape (m,)
    :param seconds: since the start of the training at each of them, whole seconds, shape (m,)
    :param metrics: metric -> value of each of k episodes in each evaluation, shape (m, k)
    :param absolute_metrics: metric -> value of each of 10 k episodes of the best model, shape (10 k,)
    :param gradient_steps: agent -> number of gradient steps, best responses included
    :param total_seconds: of the whole training, evaluations included, and what was lost when it was stopped
    :param machine: where it ran
    """

    run: PlannedRun
    timesteps: np.ndarray
    seconds: np.ndarray
    metrics: dict[str, np.ndarray]
    absolute_metrics: dict[str, np.ndarray]
    gradient_steps: dict[str, int]
    total_seconds: float
    machine: dict[str, Any]

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
    :raises OSError: when a file of it cannot be read
    """
    with np.load(run.folder.path / "evaluations.npz", allow_pickle=False) as evaluations:
        timesteps = evaluations["timesteps"]
        metrics = {metric: evaluations[name] for metric, name in METRICS.items()}
    record = json.loads(run.result.read_text(encoding="utf-8"))
    rows = progress_rows(run.folder.path / PROGRESS_FILE)
    return RunResult(
        run=run,
        timesteps=timesteps,
        seconds=_seconds_at(rows, timesteps),
        metrics=metrics,
        absolute_metrics={metric: np.array(values) for metric, values in record["absolute_metrics"].items()},
        gradient_steps=count_gradient_steps(rows, run.hyperparameters),
        total_seconds=record["seconds"],
        machine=record["machine"],
    )


def progress_rows(path: Path) -> list[dict[str, str]]:
    """
    :param path: of a ``progress.csv``
    :raises OSError: when it cannot be read
    """
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _seconds_at(rows: Iterable[Mapping[str, str]], timesteps: np.ndarray) -> np.ndarray:
    """Seconds at the last iteration up to each number of steps; 0 before the first one."""
    logged = logged_seconds(rows)
    return np.array([max((seconds for steps, seconds in logged if steps <= limit), default=0.0) for limit in timesteps])


def logged_seconds(rows: Iterable[Mapping[str, str]]) -> list[tuple[float, float]]:
    """
    :param rows: of ``progress.csv``; where a run that was stopped went on, its clock began at 0 again
    :return: steps and seconds of training at every row that has a time
    """
    logged: list[tuple[float, float]] = []
    earlier = latest = 0.0
    for row in rows:
        if row.get(SECONDS_KEY):
            seconds = float(row[SECONDS_KEY])
            if seconds < latest:
                earlier += latest
            latest = seconds
            logged.append((float(row[STEPS_KEY]), earlier + seconds))
    return logged


def trained_steps(folder: RunFolder) -> int:
    """
    How far a run is that may still go on.

    :return: environment steps at the last line of its ``progress.csv``; 0 when there is none
    """
    try:
        with (folder.path / PROGRESS_FILE).open("rb") as file:
            header = file.readline().decode()
            file.seek(max(file.seek(0, 2) - TAIL_BYTES, len(header)))
            # What follows the last line break is a line that is being written.
            lines = file.read().decode(errors="replace").rpartition("\n")[0].splitlines()[-1:]
    except OSError:
        return 0
    for row in csv.DictReader([header, *lines]):
        return int(float(row.get(STEPS_KEY) or 0))
    return 0


def count_gradient_steps(rows: Iterable[Mapping[str, str]], hyperparameters: Hyperparameters) -> dict[str, int]:
    """
    Gradient steps of every agent: those of its learner, from the epochs that it logged, and those of its best responses.

    An upper bound where ``target_kl`` ends an epoch early or agents leave episodes early, for minibatches are not logged.

    :param rows: of ``progress.csv``
    :param hyperparameters: of the run
    """
    epochs: dict[str, int] = {}
    best_responses: dict[str, int] = {}
    for row in rows:
        for key, value in row.items():
            agent, _, rest = (key or "").partition("/")
            if value and rest == "train/n_updates":
                epochs[agent] = int(float(value))
            elif value and rest == "br/n_updates":
                best_responses[agent] = best_responses.get(agent, 0) + int(float(value))
    return {
        agent: count * minibatches(hyperparameters, agent) + best_responses.get(agent, 0) for agent, count in epochs.items()
    }


def minibatches(hyperparameters: Hyperparameters, agent: str) -> int:
    """
    Gradient steps in one epoch of an agent's learner.

    :param hyperparameters: of the run
    :param agent: its name
    """
    learner, batch_size = of_agent(hyperparameters.learner_class, agent), of_agent(hyperparameters.batch_size, agent)
    # The other learners take the whole rollout at once.
    return math.ceil(hyperparameters.n_envs * hyperparameters.n_steps / batch_size) if learner == "PPO" else 1


def of_agent(value: Any, agent: str) -> Any:
    """A hyper-parameter's value for one agent, if it is given per agent."""
    return value[agent] if isinstance(value, Mapping) else value


def budget_warnings(results: Iterable[RunResult]) -> list[str]:
    """
    Where runs did not get what was asked for: environment steps, and for PPO gradient steps.

    :return: one line for each run that differs
    """
    return [f"{result.run.name}: {', '.join(parts)}" for result in results if (parts := _wrong_budgets(result))]


def _wrong_budgets(result: RunResult) -> list[str]:
    asked = result.run.hyperparameters
    rollout = asked.n_envs * asked.n_steps
    iterations = math.ceil(asked.n_timesteps / rollout)
    parts = []
    if result.env_steps != iterations * rollout:
        parts.append(f"{result.env_steps} environment steps instead of {iterations * rollout}")
    best_response = ALGORITHMS[result.run.options.algo]["best_response"]
    for agent, steps in result.gradient_steps.items():
        if of_agent(asked.learner_class, agent) != "PPO":
            continue
        epochs = of_agent(asked.n_epochs, agent) + (of_agent(asked.br_n_epochs, agent) if best_response else 0)
        planned = iterations * epochs * minibatches(asked, agent)
        if steps != planned:
            parts.append(f"{steps} gradient steps of {agent} instead of {planned}")
    return parts
