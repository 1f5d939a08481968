"""Plan of a suite: for every task a benchmark in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sb3_matrl.zoo.benchmarking.plan import BenchmarkOptions, PlannedRun, plan_runs
from sb3_matrl.zoo.benchmarking.suite_file import SuiteTask

# Evaluations of a run; what is computed exactly is measured in every iteration.
EVALUATIONS = 5


@dataclass(frozen=True)
class SuiteOptions:
    """
    Options of a suite beside its tasks; the schema of ``options`` in ``suite.json``.

    :param out: folder of the suite; a task has the folder of its name in it
    :param seeds: seeds of the runs, the same for all methods
    :param n_timesteps: steps of every run; ``None`` for those of the tasks
    :param eval_episodes: episodes per evaluation, sampled and greedy each
    :param vec_env: option of ``train.py``, as the next two
    :param device: device of the networks
    :param num_threads: threads of each run
    """

    out: str
    seeds: tuple[int, ...]
    n_timesteps: int | None = None
    eval_episodes: int = 20
    vec_env: str = "auto"
    device: str = "auto"
    num_threads: int = 1


@dataclass(frozen=True)
class PlannedTask:
    """
    One task with all its runs.

    :param task: the task
    :param options: its benchmark; ``env_kwargs`` are those of the first seed
    :param runs: all runs, seed by seed
    """

    task: SuiteTask
    options: BenchmarkOptions
    runs: list[PlannedRun]


def plan_suite(tasks: Sequence[SuiteTask], options: SuiteOptions) -> list[PlannedTask]:
    """
    Plan all runs of a suite.

    :param tasks: the tasks, whose packages are installed
    :param options: options of all tasks
    :raises ValueError: on a mistake in a task or a user's mistake; nothing is written
    """
    return [_plan_task(task, options) for task in tasks]


def task_benchmark(task: SuiteTask, options: SuiteOptions, conf_file: str | None) -> BenchmarkOptions:
    """
    The benchmark of a task; ``env_kwargs`` are those of the first seed.

    :param task: the task
    :param options: options of all tasks
    :param conf_file: file of hyper-parameters that were tuned for the task and include its own; ``None`` for the file of the
        algorithm, changed as the task says
    """
    steps = options.n_timesteps or task.n_timesteps
    return BenchmarkOptions(
        out=str(Path(options.out) / task.name),
        settings=task.methods,
        envs=(task.env,),
        seeds=options.seeds,
        n_timesteps=steps,
        hyperparams=dict(task.hyperparams) if conf_file is None else {},
        env_kwargs={task.env: task.options_of_seed(options.seeds[0])},
        conf_file=conf_file,
        eval_freq=max(steps // EVALUATIONS, 1),
        eval_episodes=options.eval_episodes,
        vec_env=options.vec_env,
        device=options.device,
        num_threads=options.num_threads,
    )


def runs_of_task(task: SuiteTask, benchmark: BenchmarkOptions) -> list[PlannedRun]:
    """
    Runs of a task, seed by seed, with the options of the environment that each seed has.

    :param task: the task
    :param benchmark: its benchmark
    """
    return [
        replace(run, task=task.name)
        for seed in benchmark.seeds
        for run in plan_runs(replace(benchmark, seeds=(seed,), env_kwargs={task.env: task.options_of_seed(seed)}))
    ]


def _plan_task(task: SuiteTask, options: SuiteOptions) -> PlannedTask:
    whole = task_benchmark(task, options, task.conf_file)
    try:
        runs = runs_of_task(task, whole)
    except ValueError as error:
        raise ValueError(f"task {task.name}: {error}") from None
    return PlannedTask(task, whole, runs)


def runs_in_order(planned: Sequence[PlannedTask]) -> list[PlannedRun]:
    """
    All runs in the order of their start: seed by seed, so that every task has results early.

    :param planned: tasks with their runs
    """
    runs = [run for task in planned for run in task.runs]
    return sorted(runs, key=lambda run: planned[0].options.seeds.index(run.seed)) if runs else []
