"""
Scores of a suite's runs, and comparisons of methods by them.

- ``welfare`` (one-shot games): mean welfare score of the policies over the training, exact: 0 is uniform play, 1 the best
  joint action
- ``nash_conv`` (zero-sum games): mean NashConv of the policies over the last quarter of the training, exact; less is better
- ``return``: mean team return of the last evaluation, sampled actions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_matrl.zoo.benchmarking.exact_measures import NASH_CONV as MEASURED_NASH_CONV
from sb3_matrl.zoo.benchmarking.exact_measures import WELFARE_SCORE
from sb3_matrl.zoo.benchmarking.run_results import RunResult
from sb3_matrl.zoo.benchmarking.run_statistics import Estimate, column_estimates, probability_of_improvement
from sb3_matrl.zoo.benchmarking.suite_file import NASH_CONV, RETURN, WELFARE, SuiteTask

# Name of the score, and of a second number beside it.
COLUMNS = {
    WELFARE: ("welfare over training", "welfare at the end"),
    NASH_CONV: ("NashConv", "NashConv at the end"),
    RETURN: ("team return", "team return, greedy"),
}
# Score -> name of the exact values that it is made of.
MEASURED = {WELFARE: WELFARE_SCORE, NASH_CONV: MEASURED_NASH_CONV}
# A method is better than the reference if its probability of improvement is larger and the interval is above one half.
CLEARLY_BETTER = 0.75
BETTER, WORSE, EVEN = "better", "worse", "even"


@dataclass(frozen=True)
class MethodRow:
    """
    One method on one task.

    :param task: name of the task
    :param method: name of the method
    :param scores: score of every run, shape (runs,)
    :param others: the second number of every run, shape (runs,)
    :param score: interquartile mean of the scores
    :param other: interquartile mean of the second numbers
    :param improvement: probability that a run has a better score than one of the reference; ``None`` for the reference
    :param env_steps: environment steps of each run; the largest if they differ
    :param gradient_steps: gradient steps of each agent in each run; the largest if they differ
    :param seconds: mean seconds of the runs
    """

    task: str
    method: str
    scores: np.ndarray
    others: np.ndarray
    score: Estimate
    other: Estimate
    improvement: Estimate | None
    env_steps: int
    gradient_steps: int
    seconds: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` than the reference, or ``even`` where the runs do not tell."""
        if self.improvement is None:
            return ""
        if self.improvement.value > CLEARLY_BETTER and self.improvement.low > 0.5:
            return BETTER
        return WORSE if self.improvement.high < 0.5 else EVEN


def run_scores(task: SuiteTask, result: RunResult) -> tuple[float, float]:
    """
    :param task: the task
    :param result: result of one of its runs
    :return: score, and the number beside it
    :raises ValueError: if the run has no measures of that kind
    """
    if task.score == RETURN:
        return float(result.curve("sampled")[-1]), float(result.curve("greedy")[-1])
    measured = MEASURED[task.score]
    if measured not in result.measures:
        raise ValueError(f"task {task.name}: {result.run.name} has no exact {measured}; choose another score for the task")
    return score_of_values(task.score, result.measures[measured])


def score_of_values(score: str, values: np.ndarray) -> tuple[float, float]:
    """
    :param score: ``welfare`` or ``nash_conv``
    :param values: values of the m + 1 policies of m iterations, the first before the training, shape (m + 1,)
    :return: score, and the last value
    """
    learned = values[1:] if len(values) > 1 else values
    late = learned if score == WELFARE else learned[-max(1, len(learned) // 4) :]
    return float(late.mean()), float(learned[-1])


def compare_methods(task: SuiteTask, results: Sequence[RunResult]) -> list[MethodRow]:
    """
    One row per method that has finished runs.

    :param task: the task
    :param results: results of its finished runs
    """
    by_method: dict[str, list[RunResult]] = {}
    for result in results:
        by_method.setdefault(result.run.setting, []).append(result)
    numbers = {method: np.array([run_scores(task, one) for one in runs]) for method, runs in by_method.items()}
    sign = -1.0 if task.score == NASH_CONV else 1.0
    reference = sign * numbers[task.reference][:, :1] if task.reference in numbers else None
    return [_row(task, method, by_method[method], values, sign, reference) for method, values in numbers.items()]


def _row(
    task: SuiteTask, method: str, runs: Sequence[RunResult], values: np.ndarray, sign: float, reference: np.ndarray | None
) -> MethodRow:
    _, iqms = column_estimates(values)
    improvement = None
    if reference is not None and method != task.reference:
        improvement = probability_of_improvement(sign * values[:, :1], reference)
    return MethodRow(
        task=task.name,
        method=method,
        scores=values[:, 0],
        others=values[:, 1],
        score=Estimate(*iqms[:, 0].tolist()),
        other=Estimate(*iqms[:, 1].tolist()),
        improvement=improvement,
        env_steps=max(run.env_steps for run in runs),
        gradient_steps=max(max(run.gradient_steps.values(), default=0) for run in runs),
        seconds=float(np.mean([run.total_seconds for run in runs])),
    )


def count_verdicts(rows: Sequence[MethodRow]) -> Mapping[str, dict[str, int]]:
    """
    :param rows: rows of all tasks
    :return: method -> number of tasks by verdict, without the reference
    """
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.verdict:
            counts.setdefault(row.method, {BETTER: 0, EVEN: 0, WORSE: 0})[row.verdict] += 1
    return counts
