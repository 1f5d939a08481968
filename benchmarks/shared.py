"""Shared parts of the benchmark scripts: settings of the zoo, parallel tasks with progress, intervals, the JSON record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from sb3_matrl import MATRL
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.zoo.common import records
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters, find_conf_file, load_hyperparameters

# Settings of Checkers and Switch for measurements of speed and safety.
GRID_SETTINGS = Path(__file__).with_name("grid_settings.yml")
GRID_WORLDS = ("checkers_v0", "switch_v0")


def run_parallel(
    worker: Callable[[dict[str, Any]], dict[str, Any]], tasks: Sequence[dict[str, Any]], jobs: int, cache: Path
) -> list[dict[str, Any]]:
    """
    Run a worker on every task in ``jobs`` processes, one torch thread each, with a progress bar.

    For tasks that ``zoo/benchmark.py`` cannot express. Finished tasks are kept in ``cache``, one JSON line each, and not
    repeated when an interrupted script is started again.

    :param worker: function from a task to its result
    :param tasks: tasks in JSON types, all different
    :param jobs: number of processes
    :param cache: file of finished tasks
    :return: task and result merged, in the order of the tasks
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    cache.parent.mkdir(parents=True, exist_ok=True)
    lines = cache.read_text(encoding="utf-8").splitlines() if cache.exists() else []
    finished = {_key(line["task"]): line["result"] for line in map(json.loads, lines)}
    left = [task for task in tasks if _key(task) not in finished]
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=th.set_num_threads, initargs=(1,)) as pool,
        cache.open("a", encoding="utf-8") as file,
    ):
        futures = {pool.submit(worker, task): task for task in left}
        bar = tqdm(as_completed(futures), total=len(tasks), initial=len(tasks) - len(left), unit="run")
        for future in bar:
            task, result = futures[future], future.result()
            finished[_key(task)] = result
            file.write(json.dumps({"task": task, "result": result}) + "\n")
            file.flush()
    return [{**task, **finished[_key(task)]} for task in tasks]


def zoo_settings(algorithm: str, env: str, conf_file: str | None = None, **changes: Any) -> Hyperparameters:
    """
    Hyper-parameters of the zoo's files; those of on-policy algorithms in Checkers and Switch are :data:`GRID_SETTINGS`.

    :param algorithm: name of the algorithm
    :param env: id of the environment
    :param conf_file: path or name of the file; ``None`` for the above
    :param changes: hyper-parameters to change
    """
    if conf_file is None and env in GRID_WORLDS and algorithm_spec(algorithm).conf_file == "matrl":
        conf_file = str(GRID_SETTINGS)
    return load_hyperparameters(find_conf_file(algorithm, conf_file), algorithm, env, changes)


def build_model(settings: Hyperparameters, env: str, seed: int) -> MATRL:
    """
    A model as ``zoo/train.py`` builds it, on the CPU.

    :param settings: hyper-parameters, policies included
    :param env: id of the environment
    :param seed: seed of everything random
    """
    fixed = algorithm_spec(settings.algorithm).fixed
    return MATRL(env=env, seed=seed, device="cpu", **settings.model_arguments(), **fixed)


def _key(task: dict[str, Any]) -> str:
    return json.dumps(task, sort_keys=True)


def interval(values: Sequence[float], seed: int = 0, n_resamples: int = 10_000) -> tuple[float, float, float]:
    """
    Mean and 95 % bootstrap percentile interval over runs.

    :param values: one value per run
    :param seed: seed of the resampling
    :param n_resamples: number of resamples
    :return: mean, lower and upper end
    """
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).choice(array, size=(n_resamples, len(array)))
    low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record as JSON, with machine and command, and print its path."""
    records.write_record(path, record)
    print(f"wrote {path}")
