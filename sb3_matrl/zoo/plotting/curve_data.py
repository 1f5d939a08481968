"""Learning curves: those of single runs, and their aggregates over seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from sb3_matrl.evaluation import mean_confidence_interval
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.benchmarking.run_statistics import MIN_SEEDS_FOR_INTERVALS, column_estimates
from sb3_matrl.zoo.common.training_clock import SECONDS, SPEED, STEPS, training_seconds
from sb3_matrl.zoo.reporting.run_loading import Progress, Run

POLICIES = ("sampled", "greedy")
STATISTICS = ("mean", "iqm")
# Largest file of curves that is read, in bytes.
MAX_BYTES = 2**28
# What a file has of every run.
_OF_A_RUN = ("env", "setting", "seed", "timesteps", "returns")


@dataclass(frozen=True)
class RunCurve:
    """
    Evaluations of one run.

    :param env: environment
    :param method: algorithm, or setting of a benchmark
    :param seed: seed of the run
    :param steps: steps of the m evaluations, shape (m,)
    :param returns: kind of policy -> mean team return of each evaluation, shape (m,)
    """

    env: str
    method: str
    seed: int
    steps: np.ndarray
    returns: Mapping[str, np.ndarray]

    def as_json(self) -> dict[str, Any]:
        """The curve as :func:`read_curves` reads it, and as benchmarks record it."""
        returns = {policy: values.tolist() for policy, values in self.returns.items()}
        return {
            "env": self.env,
            "setting": self.method,
            "seed": self.seed,
            "timesteps": self.steps.tolist(),
            "returns": returns,
        }


@dataclass(frozen=True)
class MethodCurve:
    """
    Aggregate over the runs of one method in one environment.

    :param env: environment
    :param method: algorithm, or setting of a benchmark
    :param steps: steps at which all runs were evaluated, shape (m,)
    :param values: mean or interquartile mean over the runs, shape (m,)
    :param low: lower ends of the 95 % intervals, shape (m,); NaN with fewer than three runs
    :param high: upper ends
    :param n_runs: number of runs
    """

    env: str
    method: str
    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_runs: int


def curve_of_run(run: Run) -> RunCurve:
    """
    Evaluations of a run folder.

    :param run: the run
    :raises ValueError: if it has no readable evaluations
    """
    evaluations = run.evaluations
    if evaluations is None:
        raise ValueError(f"{run.folder.path} has no evaluations: {'; '.join(run.problems)}")
    returns = {
        policy: np.array([result.mean for result in results])
        for policy, results in zip(POLICIES, (evaluations.sampled, evaluations.greedy), strict=True)
    }
    method, seed = str(run.arguments.get("algo", "unknown algorithm")), run.arguments.get("seed")
    return RunCurve(run.folder.env_id, method, seed if isinstance(seed, int) else -1, evaluations.steps, returns)


def read_curves(path: Path) -> list[RunCurve]:
    """
    Read the curves in ``record.json`` of a benchmark, or in a file that ``plot all --data`` wrote.

    :param path: path of the file
    :raises ValueError: if it holds no such curves
    :raises OSError: if it cannot be read
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
        curves = [_read_curve(run) for run in _runs_of(data)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a benchmark, and no file of plot all --data: {error!s:.200}") from None
    if not curves:
        raise ValueError(f"{path} holds no runs")
    return curves


def _runs_of(data: bytes) -> list[Any]:
    try:
        content = json.loads(data)
    except ValueError:
        raise ValueError("it is not JSON") from None
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list):
        raise ValueError("it has no list 'runs'")
    return runs


def _read_curve(run: Any) -> RunCurve:
    missing = [name for name in _OF_A_RUN if not isinstance(run, dict) or name not in run]
    if missing:
        raise ValueError(f"a run has no {', '.join(map(repr, missing))}")
    if not isinstance(run["returns"], dict) or not set(POLICIES) <= run["returns"].keys():
        raise ValueError(f"the returns of a run are not those of {' and '.join(POLICIES)} actions")
    steps = np.array(run["timesteps"], dtype=np.float64)
    returns = {policy: np.array(run["returns"][policy], dtype=np.float64) for policy in POLICIES}
    shapes = {array.shape for array in (steps, *returns.values())}
    if len(shapes) != 1 or steps.ndim != 1 or not len(steps) or not np.isfinite(steps).all() or (np.diff(steps) <= 0).any():
        raise ValueError("timesteps must rise, with one return at each")
    return RunCurve(str(run["env"]), str(run["setting"]), int(run["seed"]), steps, returns)


def selected(curves: Iterable[RunCurve], envs: Sequence[str] | None, methods: Sequence[str] | None) -> list[RunCurve]:
    """
    Curves of some environments and methods, in the order in which these are named.

    :param curves: the curves
    :param envs: environments; ``None`` for all
    :param methods: methods; ``None`` for all
    :raises ValueError: on a name that no curve has
    """
    chosen = list(curves)
    for kind, attribute, names in (("env", "env", envs), ("setting", "method", methods)):
        if names is None:
            continue
        known = list(dict.fromkeys(getattr(curve, attribute) for curve in chosen))
        for name in names:
            if name not in known:
                raise ValueError(unknown(kind, name, known))
        chosen = [curve for name in dict.fromkeys(names) for curve in chosen if getattr(curve, attribute) == name]
    return chosen


def aggregated(curves: Sequence[RunCurve], policy: str, statistic: str) -> list[MethodCurve]:
    """
    One curve per environment and method.

    :param curves: curves of runs
    :param policy: ``sampled`` or ``greedy``
    :param statistic: ``mean`` with Student's intervals, or ``iqm`` with bootstrap intervals as benchmarks have them
    :raises ValueError: if runs of a method were evaluated at no common step
    """
    groups: dict[tuple[str, str], list[RunCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.env, curve.method), []).append(curve)
    return [_aggregate(env, method, runs, policy, statistic) for (env, method), runs in groups.items()]


def _aggregate(env: str, method: str, runs: Sequence[RunCurve], policy: str, statistic: str) -> MethodCurve:
    steps = reduce(np.intersect1d, [run.steps for run in runs])
    if not len(steps):
        problem = "were evaluated at different steps, and have no curve in common: name runs that belong together"
        raise ValueError(f"the runs of {method} in {env} {problem}")
    table = np.stack([run.returns[policy][np.isin(run.steps, steps)] for run in runs])
    if statistic == "iqm":
        _, (values, low, high) = column_estimates(table)
    else:
        enough = len(runs) >= MIN_SEEDS_FOR_INTERVALS
        intervals = [mean_confidence_interval(column) if enough else (np.nan, np.nan) for column in table.T]
        values, (low, high) = table.mean(axis=0), np.array(intervals).T
    return MethodCurve(env, method, steps, values, low, high, len(runs))


def mixed_runs(runs: Sequence[Run]) -> list[str]:
    """
    Warnings about runs that are aggregated though they are not alike.

    :param runs: runs of several methods and environments
    :return: one line for hyper-parameters that differ, and one for a seed that occurs twice, per method and environment
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((str(run.arguments.get("algo")), run.folder.env_id), []).append(run)
    lines = []
    for (method, env), members in groups.items():
        names = sorted({name for run in members for name in run.config})
        differing = [name for name in names if any(run.config.get(name) != members[0].config.get(name) for run in members)]
        seeds = [run.arguments.get("seed") for run in members]
        if differing:
            lines.append(f"runs of {method} in {env} differ in {', '.join(differing)}: their mean is of different methods")
        if len(set(map(str, seeds))) < len(seeds):
            lines.append(f"runs of {method} in {env} have a seed in common: they are not independent")
    return lines


def constant_sums(runs: Iterable[Run]) -> list[str]:
    """
    Warnings about team returns that say nothing.

    :param runs: runs of several environments
    :return: one line for every environment in which the agents' returns have a constant sum
    """
    has_constant_sum = (run for run in runs if run.evaluations is not None and run.evaluations.structure == "constant-sum")
    return [
        f"the agents' returns in {env} have a constant sum: the team return says nothing, see the report of a run"
        for env in dict.fromkeys(run.folder.env_id for run in has_constant_sum)
    ]


def repeated_seeds(curves: Iterable[RunCurve]) -> list[str]:
    """
    Warnings about recorded curves that are aggregated though they have the same seed.

    :param curves: curves of runs
    :return: one line for every method and environment with a seed that occurs twice
    """
    counts = Counter((curve.method, curve.env, curve.seed) for curve in curves)
    twice = dict.fromkeys((method, env) for (method, env, seed), number in counts.items() if number > 1 and seed >= 0)
    return [f"runs of {method} in {env} have a seed in common: they are not independent" for method, env in twice]


def elapsed_seconds(progress: Progress) -> np.ndarray:
    """
    Seconds of training at every row of the log.

    :param progress: content of ``progress.csv``; the clock of a resumed run begins at 0 again
    :return: shape (rows,), NaN in rows without a time
    """
    missing = np.full(len(next(iter(progress.numbers.values()))), np.nan)
    steps, clock, speed = (progress.numbers.get(key, missing) for key in (STEPS, SECONDS, SPEED))
    there = np.flatnonzero(np.isfinite(clock))
    seconds = clock.copy()
    seconds[there] = training_seconds(steps[there], clock[there], speed[there])
    return seconds


def smoothed(x: np.ndarray, y: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Mean of the last ``window`` values at each point that has as many.

    :param x: shape (k,)
    :param y: shape (k,)
    :param window: number of values
    :return: points and means, shape (k - window + 1,); empty if there are fewer points than that
    """
    if len(y) < window:
        return x[:0], y[:0]
    return x[window - 1 :], np.lib.stride_tricks.sliding_window_view(y, window).mean(axis=-1)


def up_to(curves: Iterable[RunCurve], last: int | None) -> list[RunCurve]:
    """
    The beginnings of curves.

    :param curves: curves of runs
    :param last: last step; ``None`` for whole curves
    :raises ValueError: if a run was evaluated only later
    """
    if last is None:
        return list(curves)
    cut = []
    for curve in curves:
        there = curve.steps <= last
        if not there.any():
            raise ValueError(f"--max-timesteps {last}: the first evaluation of {curve.method} in {curve.env} is later")
        returns = {policy: values[there] for policy, values in curve.returns.items()}
        cut.append(replace(curve, steps=curve.steps[there], returns=returns))
    return cut


def final_table(curves: Sequence[MethodCurve]) -> str:
    """
    Last values of aggregated curves.

    :param curves: the curves
    :return: lines of text: environment, method, steps, value, 95 % interval, number of seeds
    """
    widths = [max(len(text) for text in column) for column in zip(*((one.env, one.method) for one in curves), strict=True)]
    width_env, width_method = max(widths[0], 11), max(widths[1], 6)
    lines = [
        f"{'environment':<{width_env}}  {'method':<{width_method}}  {'steps':>10}  {'return':>9}  {'95 % interval':<20}  seeds"
    ]
    for one in curves:
        value, low, high = round(float(one.values[-1]), 2) + 0.0, one.low[-1], one.high[-1]
        interval = f"[{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""
        lines.append(
            f"{one.env:<{width_env}}  {one.method:<{width_method}}  {one.steps[-1]:>10,.0f}  {value:>9.2f}  "
            f"{interval:<20}  {one.n_runs:>5}"
        )
    return "\n".join(lines)
