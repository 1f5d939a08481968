"""
The trainings of a suite without what zoo/benchmark.py adds to each: a process, a folder, checkpoints and evaluations.

    OMP_NUM_THREADS=1 python -m benchmarks.suite_runs --suite coordination --seeds 10 \
        --out benchmarks/results/suite_coordination.json

A one-shot game is trained in less time than these take. Settings, seeds and scores are those of the suite; team returns are
those of --episodes episodes after the training. --setting adds methods, such as "matrl, clipped: {algo: matrl, n_epochs: 10,
br_n_epochs: 5, payoff_clip_range: 0.2, br_clip_range: 0.2}". Finished runs are kept beside --out and not repeated. A picture
beside --out shows the exact values over the training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import KVWriter, Logger

from benchmarks.shared import build_model, run_parallel, write_record
from benchmarks.suite_figure import draw
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.benchmark import mapping, one_pair
from sb3_matrl.zoo.benchmarking.budgets import count_gradient_steps
from sb3_matrl.zoo.benchmarking.comparison import few_seeds
from sb3_matrl.zoo.benchmarking.exact_measures import ExactMeasures, exact_measure, read_measures
from sb3_matrl.zoo.benchmarking.plan import PlannedRun
from sb3_matrl.zoo.benchmarking.run_results import RunResult
from sb3_matrl.zoo.benchmarking.suite_file import RETURN, SuiteTask, choose_methods, choose_tasks, read_suite
from sb3_matrl.zoo.benchmarking.suite_plan import PlannedTask, SuiteOptions, plan_suite
from sb3_matrl.zoo.benchmarking.suite_report import task_records
from sb3_matrl.zoo.benchmarking.suite_scores import MEASURED, compare_methods
from sb3_matrl.zoo.benchmarking.worker import MEASUREMENTS
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters

EPISODES = 100
RESAMPLES = 2000


class KeptRows(KVWriter):
    """Keeps what the logger is given, one row per iteration, as ``progress.csv`` has it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append({key: str(value) for key, value in key_values.items()})

    def close(self) -> None:
        """Nothing is open."""


def training_of(task: SuiteTask, run: PlannedRun, episodes: int = EPISODES) -> dict[str, Any]:
    """
    A run in JSON types.

    :param task: task of the run
    :param run: the run
    :param episodes: episodes of the evaluation where the score is a return
    """
    return {
        "env": run.env,
        "algo": run.options.algo,
        "seed": run.seed,
        "episodes": episodes if task.score == RETURN else 0,
        "hyperparameters": run.hyperparameters.as_mapping(),
    }


def train(training: Mapping[str, Any]) -> dict[str, Any]:
    """
    Train once.

    :param training: what :func:`training_of` returns
    :return: environment and gradient steps, seconds, mean rho, exact measures and returns
    """
    hyperparameters = Hyperparameters.from_mapping(training["algo"], training["hyperparameters"], "plan")
    model, kept = build_model(hyperparameters, training["env"], training["seed"]), KeptRows()
    model.set_logger(Logger(None, [kept]))
    measure = None if training["episodes"] else exact_measure(training["env"], hyperparameters)
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        file, every = Path(folder) / "measures.csv", max(hyperparameters.n_timesteps // MEASUREMENTS, 1)
        callbacks = [] if measure is None else [ExactMeasures(measure, file, every)]
        model.learn(hyperparameters.n_timesteps, CallbackList([*callbacks]))
        measures = {name: values.tolist() for name, values in read_measures(file).items()}
    seconds = time.perf_counter() - start
    return {
        "env_steps": model.num_timesteps,
        "gradient_steps": count_gradient_steps(kept.rows, hyperparameters),
        "seconds": round(seconds, 2),
        "mean_rho": float(np.mean([float(row["metagame/rho_mean"]) for row in kept.rows])),
        "measures": measures,
        "returns": _returns(model, training, hyperparameters) if training["episodes"] else {},
    }


def _returns(model: Any, training: Mapping[str, Any], hyperparameters: Hyperparameters) -> dict[str, list[float]]:
    """Returns of sampled and of greedy actions."""
    episodes, seed = training["episodes"], int(np.random.SeedSequence([training["seed"], 0]).generate_state(1)[0])
    copies = min(episodes, hyperparameters.n_envs)
    with closing(make_joint_vec_env(training["env"], n_envs=copies, env_kwargs=hyperparameters.env_kwargs)) as env:
        played = {
            name: evaluate_policy(model, env, episodes, deterministic=greedy, seed=seed).returns
            for name, greedy in (("return", False), ("return_greedy", True))
        }
    return {name: np.asarray(values).tolist() for name, values in played.items()}


def result_of(run: PlannedRun, found: Mapping[str, Any]) -> RunResult:
    """
    A finished run as the suite's statistics take it.

    :param run: the run
    :param found: what :func:`train` returned
    """
    return RunResult(
        run=run,
        timesteps=np.array([found["env_steps"]]),
        seconds=np.array([found["seconds"]]),
        metrics={name: np.array([values]) for name, values in found["returns"].items()},
        absolute_metrics={},
        gradient_steps=found["gradient_steps"],
        total_seconds=found["seconds"],
        machine={},
        measures={name: np.array(values) for name, values in found["measures"].items()},
    )


def run_task(one: PlannedTask, episodes: int, jobs: int, cache: Path) -> dict[str, Any]:
    """
    Train all runs of a task that are not finished.

    :param one: the task with its runs
    :param episodes: episodes of an evaluation
    :param jobs: parallel processes
    :param cache: file of finished runs
    :return: what the record keeps of the task
    """
    found = run_parallel(train, [training_of(one.task, run, episodes) for run in one.runs], jobs, cache)
    rows = compare_methods(one.task, [result_of(run, values) for run, values in zip(one.runs, found, strict=True)])
    (record,) = task_records({one.task.name: one.task}, {one.task.name: rows})
    for row in record["rows"]:
        own = [values for run, values in zip(one.runs, found, strict=True) if run.setting == row["method"]]
        row["mean_rho"] = float(np.mean([values["mean_rho"] for values in own]))
        row["curve"] = _curve([values["measures"] for values in own], MEASURED.get(one.task.score, ""))
        row["hyperparameters"] = next(run for run in one.runs if run.setting == row["method"]).hyperparameters.as_mapping()
    return record


def _curve(measures: Sequence[Mapping[str, list[float]]], name: str, seed: int = 0) -> dict[str, list[float]]:
    """Mean over the seeds of an exact measure, with the ends of its 95 % bootstrap interval, at every step measured."""
    if not all(name in one for one in measures):
        return {}
    values = np.array([one[name] for one in measures])
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5], axis=0)
    columns = {"timesteps": np.array(measures[0]["timesteps"]), name: values.mean(axis=0), "low": low, "high": high}
    return {key: column.round(6).tolist() for key, column in columns.items()}


def records_of_tasks(planned: Sequence[PlannedTask], args: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Records of the tasks that are finished, after each of them."""
    records: list[dict[str, Any]] = []
    for one in planned:
        print(f"{one.task.name}: {len(one.runs)} runs")
        records.append(run_task(one, args.episodes, args.jobs, args.out.with_suffix(".runs.jsonl")))
        yield records


def chosen_tasks(args: argparse.Namespace) -> list[SuiteTask]:
    """Tasks with the methods that the command line asks for."""
    extra = mapping(args.setting, "--setting")
    tasks = [replace(task, settings={**task.settings, **extra}) for task in choose_tasks(read_suite(args.suite), args.tasks)]
    methods = None if args.methods is None else [*args.methods, *extra]
    return [task for task in choose_methods(tasks, methods) if task.is_available]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--tasks", nargs="+", help="default: all of the suite")
    parser.add_argument("--methods", nargs="+", help="default: all of the suite; the reference always takes part")
    parser.add_argument("--setting", nargs="+", type=one_pair, default=[], help="further methods, see zoo/benchmark.py")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="those that settings were tuned with begin at 100")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="episodes of an evaluation, sampled and greedy each")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    seeds = tuple(range(args.first_seed, args.first_seed + args.seeds))
    options = SuiteOptions(str(args.out.with_suffix("")), seeds, eval_episodes=args.episodes, device="cpu")
    given = {name: value for name, value in asdict(options).items() if name in ("seeds", "eval_episodes", "device")}
    for records in records_of_tasks(plan_suite(chosen_tasks(args), options), args):
        write_record(args.out, {"suite": args.suite, "options": given, "tasks": records, "notes": few_seeds(args.seeds)})
        draw(records, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
