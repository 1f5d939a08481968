"""What the experiment scripts share: parallel runs with progress, intervals, and the JSON record."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

# The two switches of Sec. 4.
ALGORITHMS: dict[str, dict[str, bool]] = {
    "matrl": {"metagame": True, "best_response": True},
    "matrl-no-br": {"metagame": True, "best_response": False},
    "il-la": {"metagame": False, "best_response": True},
    "ippo": {"metagame": False, "best_response": False},
}


def run_parallel(
    worker: Callable[[dict[str, Any]], dict[str, Any]], tasks: Sequence[dict[str, Any]], jobs: int, cache: Path
) -> list[dict[str, Any]]:
    """
    Run a worker on every task in ``jobs`` processes, one torch thread each, with a progress bar.

    Finished runs are kept in ``cache``, one JSON line each: a run that was interrupted goes on where it stopped.

    :param worker: takes a task, returns its result
    :param tasks: JSON-serialisable, all different
    :param jobs: number of processes
    :param cache: file of finished runs
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


def _key(task: dict[str, Any]) -> str:
    return json.dumps(task, sort_keys=True)


def interval(values: Sequence[float], seed: int = 0, n_resamples: int = 10_000) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap percentile interval over runs."""
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).choice(array, size=(n_resamples, len(array)))
    low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def machine() -> dict[str, Any]:
    """Hardware, versions, threads and the command, for the record."""
    packages = ("torch", "stable-baselines3", "sb3-contrib", "numpy", "pettingzoo", "SuperSuit", "cma")
    return {
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "threads_per_process": 1,
        "command": shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record as JSON, machine included; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"machine": machine(), **record}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"wrote {path}")
