"""A suite as the command line asks for it: its runs, and its report."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from sb3_matrl.zoo.benchmarking.plan import PlannedRun
from sb3_matrl.zoo.benchmarking.suite_file import choose_methods, choose_tasks, read_suite
from sb3_matrl.zoo.benchmarking.suite_plan import SuiteOptions, plan_suite, runs_in_order
from sb3_matrl.zoo.benchmarking.suite_report import write_suite_report


def prepare_suite(given: argparse.Namespace, seeds: tuple[int, ...]) -> tuple[list[PlannedRun], Callable[[], None]]:
    """
    Plan a suite.

    :param given: flags of ``benchmark.py``
    :param seeds: seeds of the runs
    :return: all runs, and a function that writes and prints the report of the finished ones
    :raises ValueError: on a user's mistake; nothing is written
    """
    wanted = choose_methods(choose_tasks(read_suite(given.suite), given.tasks), given.methods)
    tasks, skipped = ([task for task in wanted if task.is_available is there] for there in (True, False))
    if not tasks:
        needed = ", ".join(sorted({str(task.needs) for task in skipped}))
        raise ValueError(f"--suite {given.suite}: no task is left to be run; missing packages: {needed or 'none'}")
    options = SuiteOptions(
        seeds=seeds,
        **{name: getattr(given, name) for name in ("out", "n_timesteps", "eval_episodes", "vec_env", "device", "num_threads")},
    )
    planned = plan_suite(tasks, options)
    return runs_in_order(planned), lambda: write_suite_report(given.suite, planned, options, skipped)
