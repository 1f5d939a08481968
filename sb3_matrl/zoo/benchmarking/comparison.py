"""Comparison of settings: aggregates over seeds, probabilities of improvement over a reference, and budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from sb3_matrl.envs.making import env_source
from sb3_matrl.evaluation import RandomPolicy, evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.benchmarking.plan import BenchmarkOptions
from sb3_matrl.zoo.benchmarking.run_results import SCORES, RunResult, budget_warnings
from sb3_matrl.zoo.benchmarking.run_statistics import (
    MIN_SEEDS_FOR_INTERVALS,
    Estimate,
    column_estimates,
    probability_of_improvement,
    suite_estimates,
)

ALL_ENVS = "all environments"
RANDOM_EPISODES = 200
# Hyper-parameter of the algorithms that explore: their rate at the end.
EXPLORATION = "exploration_final_eps"
# Fewer seeds get a warning.
ENOUGH_SEEDS = 5


@dataclass(frozen=True)
class PolicySummary:
    """
    Scores of a setting with one kind of policy.

    :param mean: mean over runs
    :param iqm: interquartile mean over runs
    :param improvement: probability that a run is better than one of the reference; ``None`` for the reference itself
    """

    mean: Estimate
    iqm: Estimate
    improvement: Estimate | None


@dataclass(frozen=True)
class Row:
    """
    One line of the table.

    :param env: environment, or ``ALL_ENVS`` for normalised scores of all
    :param setting: name of the setting
    :param n_seeds: number of finished runs
    :param policies: ``sampled`` and ``greedy`` -> team return at the end of the training
    :param env_steps: environment steps of each run; the largest if they differ
    :param gradient_steps: gradient steps of each agent in each run; the largest if they differ
    :param seconds: mean seconds of the runs, evaluations included
    """

    env: str
    setting: str
    n_seeds: int
    policies: dict[str, PolicySummary]
    env_steps: int
    gradient_steps: int
    seconds: float


@dataclass(frozen=True)
class Cell:
    """
    All finished runs of one setting in one environment.

    :param results: results of the runs, at least one, with the same evaluations
    """

    results: list[RunResult]

    @property
    def timesteps(self) -> np.ndarray:
        """Steps of the evaluations, shape (m,)."""
        return self.results[0].timesteps

    @cached_property
    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Kind of policy -> mean and IQM over runs at each evaluation, with ends of intervals as rows, each (3, m)."""
        # Columns are independent of each other: one resampling is enough for all.
        together = np.hstack([np.array([run.curve(policy) for run in self.results]) for policy in SCORES])
        means, iqms = (np.split(estimates, len(SCORES), axis=1) for estimates in column_estimates(together))
        return {policy: (means[i], iqms[i]) for i, policy in enumerate(SCORES)}

    def final_scores(self, policy: str) -> np.ndarray:
        """
        :param policy: ``sampled`` or ``greedy``
        :return: mean team return of each run's last evaluation, shape (runs, 1)
        """
        return np.array([[run.curve(policy)[-1]] for run in self.results])


Cells = dict[tuple[str, str], Cell]


def group(results: Sequence[RunResult]) -> Cells:
    """
    :param results: results of the finished runs
    :return: environment and setting -> their runs, in the given order
    """
    grouped: dict[tuple[str, str], list[RunResult]] = {}
    for result in results:
        grouped.setdefault((result.run.env, result.run.setting), []).append(result)
    return {key: Cell(runs) for key, runs in grouped.items()}


def compare(cells: Cells, reference: str) -> list[Row]:
    """
    One row per environment and setting.

    :param cells: finished runs
    :param reference: name of the setting that the others are compared with
    """
    return [_row(env, setting, cell, cells.get((env, reference)), reference) for (env, setting), cell in cells.items()]


def _row(env: str, setting: str, cell: Cell, reference: Cell | None, reference_name: str) -> Row:
    policies = {}
    for policy, (means, iqms) in cell.curves.items():
        improvement = None
        if reference is not None and setting != reference_name:
            improvement = probability_of_improvement(cell.final_scores(policy), reference.final_scores(policy))
        policies[policy] = PolicySummary(Estimate(*means[:, -1].tolist()), Estimate(*iqms[:, -1].tolist()), improvement)
    return Row(env, setting, len(cell.results), policies, **_budgets(cell.results))


def _budgets(results: Sequence[RunResult]) -> dict[str, Any]:
    return {
        "env_steps": max(result.env_steps for result in results),
        "gradient_steps": max(max(result.gradient_steps.values(), default=0) for result in results),
        "seconds": float(np.mean([result.total_seconds for result in results])),
    }


@dataclass(frozen=True)
class Bounds:
    """
    Team returns that become scores of 0 and 1.

    :param low: team return that becomes 0
    :param high: team return that becomes 1
    :param given: whether the user gave them; else they are those of random agents and of the best run
    """

    low: float
    high: float
    given: bool

    def normalise(self, returns: np.ndarray) -> np.ndarray:
        """
        :param returns: team returns
        :return: scores of the same shape
        """
        normalised: np.ndarray = (returns - self.low) / (self.high - self.low)
        return normalised


def score_bounds(cells: Cells, options: BenchmarkOptions, given: Mapping[str, tuple[float, float]]) -> dict[str, Bounds]:
    """
    Bounds of all environments: those given, else the returns of random agents and the best final score of any run.

    :param cells: finished runs
    :param options: options of the benchmark
    :param given: environment -> low and high
    """
    return {
        env: Bounds(*given[env], given=True) if env in given else _observed_bounds(cells, env)
        for env in options.envs
        if any(env == other for other, _ in cells)
    }


def _observed_bounds(cells: Cells, env: str) -> Bounds:
    scores = [cell.final_scores(policy).max() for (other, _), cell in cells.items() if other == env for policy in SCORES]
    low = random_return(next(cell.results[0] for (other, _), cell in cells.items() if other == env))
    high = float(max(scores))
    # If no run is better than chance, keep the scale of returns.
    return Bounds(low, high if high > low else low + 1.0, given=False)


def random_return(result: RunResult) -> float:
    """
    Mean team return of agents that act at random.

    :param result: result of a run in the environment
    """
    run = result.run
    copies = min(RANDOM_EPISODES, run.hyperparameters.n_envs)
    source = env_source(run.env, run.hyperparameters.env_wrapper)
    with closing(make_joint_vec_env(source, n_envs=copies, env_kwargs=run.hyperparameters.env_kwargs)) as env:
        chance = RandomPolicy(env.observation_spaces, env.action_spaces, seed=0)
        return evaluate_policy(chance, env, RANDOM_EPISODES, seed=0).mean


def compare_normalised(cells: Cells, bounds: Mapping[str, Bounds], reference: str) -> list[Row]:
    """
    One row per setting over all environments together, of scores between the environments' bounds.

    Only seeds that are finished in every environment count, and only settings with such seeds have a row.

    :param cells: finished runs
    :param bounds: bounds of all environments
    :param reference: as in :func:`compare`
    """
    settings = list(dict.fromkeys(setting for _, setting in cells))
    common = {setting: _common_runs(cells, list(bounds), setting) for setting in settings}
    rows = []
    for setting, runs in common.items():
        if runs:
            rows.append(_normalised_row(setting, runs, common.get(reference, []), bounds, reference))
    return rows


def _common_runs(cells: Cells, envs: Sequence[str], setting: str) -> list[list[RunResult]]:
    """Runs of the seeds that are finished everywhere: seeds x environments."""
    by_seed = [{run.run.seed: run for run in cells[env, setting].results} if (env, setting) in cells else {} for env in envs]
    seeds = [seed for seed in by_seed[0] if all(seed in runs for runs in by_seed)]
    return [[runs[seed] for runs in by_seed] for seed in seeds]


def _normalised_row(
    setting: str,
    runs: list[list[RunResult]],
    reference: list[list[RunResult]],
    bounds: Mapping[str, Bounds],
    reference_name: str,
) -> Row:
    policies = {}
    for policy in SCORES:
        scores, improvement = _normalised(runs, bounds, policy), None
        if reference and setting != reference_name:
            improvement = probability_of_improvement(scores, _normalised(reference, bounds, policy))
        policies[policy] = PolicySummary(*suite_estimates(scores), improvement)
    return Row(ALL_ENVS, setting, len(runs), policies, **_budgets([run for row in runs for run in row]))


def _normalised(runs: list[list[RunResult]], bounds: Mapping[str, Bounds], policy: str) -> np.ndarray:
    """Final scores, shape (seeds, environments)."""
    return np.array([[bounds[run.run.env].normalise(run.curve(policy)[-1]) for run in row] for row in runs])


def warnings(cells: Cells, options: BenchmarkOptions) -> list[str]:
    """
    Warnings about the comparison: missing runs, and budgets that differ or are not as asked.

    :param cells: finished runs
    :param options: options of the benchmark
    :return: one line for each warning
    """
    lines = _missing_runs(cells, options)
    for env in options.envs:
        there = {setting: cell for (other, setting), cell in cells.items() if other == env}
        lines += _differing_budgets(env, there) + _differing_worlds(env, there)
        lines += [line for cell in there.values() for line in budget_warnings(cell.results)]
    return [f"warning: {line}" for line in lines]


def few_seeds(n_seeds: int) -> list[str]:
    """
    Warning about a comparison by few runs.

    :param n_seeds: number of seeds
    :return: no line, or one
    """
    if n_seeds >= ENOUGH_SEEDS:
        return []
    intervals = "" if n_seeds >= MIN_SEEDS_FOR_INTERVALS else f"; intervals need {MIN_SEEDS_FOR_INTERVALS}"
    count = "1 seed says" if n_seeds == 1 else f"{n_seeds} seeds say"
    return [f"warning: {count} little about a method: compare at least {ENOUGH_SEEDS}, better 10{intervals}"]


def _missing_runs(cells: Cells, options: BenchmarkOptions) -> list[str]:
    lines = []
    for env, setting in product(options.envs, options.settings):
        cell = cells.get((env, setting.name))
        n_seeds = 0 if cell is None else len(cell.results)
        if n_seeds < len(options.seeds):
            lines.append(f"{env}, {setting.name}: only {n_seeds} of {len(options.seeds)} seeds are finished")
    return lines


def _differing_worlds(env: str, cells: Mapping[str, Cell]) -> list[str]:
    """Warnings about options and wrappers of one environment; ``cells`` maps settings to their runs there."""
    used = {setting: cell.results[0].run.hyperparameters for setting, cell in cells.items()}
    lines = []
    for kind in ("env_kwargs", "env_wrapper"):
        values = {setting: hyperparameters.get(kind) or {} for setting, hyperparameters in used.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            lines.append(f"{env}: {kind} differ: " + ", ".join(f"{setting} {value}" for setting, value in values.items()))
    return lines


def equal_returns(cells: Cells) -> list[str]:
    """
    Warnings about team returns that never differ, as in games with a constant sum.

    :param cells: finished runs
    :return: one line for each environment in which all episodes of all runs have the same return
    """
    returns: dict[str, list[np.ndarray]] = {}
    for (env, _), cell in cells.items():
        returns.setdefault(env, []).extend(run.metrics[score].ravel() for run in cell.results for score in SCORES.values())
    advice = "agents whose returns have a constant sum are compared by crossplay"
    return [
        f"warning: {env}: the team return is always {values[0][0]:.2f} and says nothing: {advice}"
        for env, values in returns.items()
        if np.allclose(np.concatenate(values), values[0][0])
    ]


def exploration_notes(cells: Cells) -> list[str]:
    """
    Explanations of sampled actions that are no draws from a learned distribution.

    :param cells: finished runs
    :return: one line for all settings whose agents explore by chance
    """
    rates = {setting: cell.results[0].run.hyperparameters.get(EXPLORATION) for (_, setting), cell in cells.items()}
    shown = ", ".join(f"{setting} {rate:g}" for setting, rate in rates.items() if rate is not None)
    meaning = "sampled actions of these settings explore at the rate of the training then, which at the end is"
    return [f"{meaning}: {shown}"] if shown else []


def _differing_budgets(env: str, cells: Mapping[str, Cell]) -> list[str]:
    """Warnings about the budgets in one environment; ``cells`` maps settings to their runs there."""
    lines = []
    for kind, name in (("environment steps", "env_steps"), ("gradient steps per agent", "gradient_steps")):
        budgets = {setting: _budgets(cell.results)[name] for setting, cell in cells.items()}
        if len(set(budgets.values())) > 1:
            lines.append(f"{env}: {kind} differ: " + ", ".join(f"{setting} {n:,}" for setting, n in budgets.items()))
    return lines
