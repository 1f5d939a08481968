"""What the experiment scripts share: parallel runs with progress, intervals, and the JSON record."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from tqdm import tqdm

Task = TypeVar("Task")
Result = TypeVar("Result")

# The two switches of Sec. 4.
ALGORITHMS: dict[str, dict[str, bool]] = {
    "matrl": {"metagame": True, "best_response": True},
    "matrl-no-br": {"metagame": True, "best_response": False},
    "il-la": {"metagame": False, "best_response": True},
    "ippo": {"metagame": False, "best_response": False},
}


def run_parallel(worker: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> list[Result]:
    """
    Run a worker on every task in ``jobs`` processes, one torch thread each, with a progress bar.

    :return: results in the order of the tasks
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    results: dict[int, Result] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=th.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(worker, task): index for index, task in enumerate(tasks)}
        for future in tqdm(as_completed(futures), total=len(tasks), unit="run"):
            results[futures[future]] = future.result()
    return [results[index] for index in range(len(tasks))]


def interval(values: Sequence[float], seed: int = 0, n_resamples: int = 10_000) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap percentile interval over runs."""
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).choice(array, size=(n_resamples, len(array)))
    low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def machine() -> dict[str, Any]:
    """Hardware, versions, threads and the command, for the record."""
    packages = ("torch", "stable-baselines3", "sb3-contrib", "numpy", "pettingzoo", "SuperSuit")
    return {
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "torch_threads_per_run": 1,
        "command": " ".join(["python", *sys.argv]),
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record as JSON, machine included; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"machine": machine(), **record}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"wrote {path}")
