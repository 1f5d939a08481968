"""What the experiment scripts share: parallel runs with progress, intervals, and the JSON record."""

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

from sb3_matrl.zoo.common import records


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


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write the record as JSON, machine and command included, and say so."""
    records.write_record(path, record)
    print(f"wrote {path}")
