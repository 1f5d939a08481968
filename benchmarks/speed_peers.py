"""
Our speed beside that of other software, in one run: `python -m benchmarks.speed --peers`.

In every column (:mod:`benchmarks.speed_columns`) all contestants (:mod:`benchmarks.contestants`) advance in turns, one
learning iteration each, so that whatever else the machine does hits all alike. A ratio is the median over the rounds of the
time of the first peer divided by the contestant's time of the same round, given with its quartiles. The work of every
iteration is counted, and it is an error if a contestant does other work than expected. BenchMARL's IPPO runs in a process of
its own afterwards (`make benchmarl` installs it; without it, it is left out). Times are compared with the floor
(:mod:`benchmarks.floor`): the matrix products of the same iteration alone.

Two more comparisons follow: peak memory in processes of their own, and the total time of `make train`'s command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from benchmarks.floor import Gemm, flops
from benchmarks.peak_memory import PEER
from benchmarks.shared import GRID_SETTINGS, build_model, write_record, zoo_settings
from benchmarks.speed_columns import (
    ALGORITHMS,
    BACKENDS,
    COLUMNS,
    EQUAL,
    IPPO,
    MATRL,
    Column,
    Entry,
    architecture,
    enter_all,
    expected_work,
    products,
)
from benchmarks.speed_figure import draw
from sb3_matrl.zoo.common import records

ROOT = Path(__file__).parents[1]
BENCHMARL_PYTHON = ROOT / ".venv-benchmarl/bin/python"
RESULT = Path("benchmarks/results/speed_peers.json")
ITERATIONS, WARM_UP, BENCHMARL_ITERATIONS = 7, 1, 3
PARTS = ("columns", "memory", "train")
QUICK_COLUMNS = ("checkers", "checkers_64", "hopper", "n2", "n4")
TRAIN = ("zoo/train.py", "--algo", "matrl", "--env", "checkers_v0", "--conf-file", str(GRID_SETTINGS), "--seed", "0")
TRAIN_STEPS, TRAIN_REPEATS = 200_000, 3


def usable_backends() -> tuple[list[str], list[str]]:
    """
    Find out which backends MATRL accepts here.

    :return: backends, and for each of the others the reason why it is left out
    """
    usable, reasons = [], []
    for backend in BACKENDS:
        settings = zoo_settings(MATRL, "matrix_game_v0", n_envs=2, backend=backend)
        try:
            model = build_model(settings, "matrix_game_v0", seed=0)
        except (ValueError, ImportError, RuntimeError) as error:
            reasons.append(f"backend {backend!r} is left out: {error}")
        else:
            usable.append(backend)
            assert model.env is not None
            model.env.close()
    return usable, reasons


def measure_column(column: Column, backends: Sequence[str], iterations: int, gemm: Gemm) -> dict[str, Any]:
    """
    Measure all contestants of a column in turns.

    :param column: the column
    :param backends: backends that can be used here
    :param iterations: measured rounds
    :param gemm: speeds of matrix products, measured in this run
    :return: record of the column
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # SB3's, about minibatches that do not divide the rollout
        entries = enter_all(column, backends)
    try:
        for _ in range(WARM_UP):
            for entry in entries:
                timed_iteration(entry)
        work = {algorithm: products(column, algorithm, len(column.spaces)) for algorithm in ALGORITHMS}
        floors = {algorithm: gemm.seconds(one) for algorithm, one in work.items()}
        seconds = np.array([_round(entries, first) for first in tqdm(range(iterations), desc=column.label, unit="round")]).T
        rows = [_row(column, entry, times, seconds, entries, gemm) for entry, times in zip(entries, seconds, strict=True)]
    finally:
        for entry in entries:
            entry.contestant.close()
    return {
        "column": column.name,
        "label": column.label,
        "env": column.env,
        "agents": len(column.spaces),
        "env_steps": column.rows,
        "floor_seconds": floors,
        "floor_flops": {algorithm: flops(one) for algorithm, one in work.items()},
        "gemm_peak_gflops": gemm.peak(),
        "rows": rows,
    }


def timed_iteration(entry: Entry) -> float:
    """
    Let a contestant do one iteration.

    :param entry: the contestant
    :return: seconds
    :raises RuntimeError: if it has done other work than expected, so that times cannot be compared
    """
    contestant = entry.contestant
    before, start = contestant.work, time.perf_counter()
    contestant.training.iterate()
    seconds = time.perf_counter() - start
    done = contestant.work - before
    if done != entry.expected:
        raise RuntimeError(f"{contestant.name}: an iteration was {done}, expected {entry.expected}; times cannot be compared")
    return seconds


def _round(entries: Sequence[Entry], first: int) -> list[float]:
    """Seconds of one iteration of everyone, in the order of ``entries``; who begins changes from round to round."""
    seconds = [0.0] * len(entries)
    for turn in range(len(entries)):
        index = (first + turn) % len(entries)
        seconds[index] = timed_iteration(entries[index])
    return seconds


def _row(
    column: Column, entry: Entry, times: np.ndarray, seconds: np.ndarray, entries: Sequence[Entry], gemm: Gemm
) -> dict[str, Any]:
    row = {
        "contestant": entry.contestant.name,
        "algorithm": entry.algorithm,
        "backend": entry.backend,
        "learned_agents": entry.n_learned,
        "gradient_steps": entry.expected.gradient_steps,
        "detail": entry.contestant.detail,
        "ratio": spread(seconds[0] / times),
    }
    row |= _speeds(column, entry.n_learned, times, gemm.seconds(products(column, entry.algorithm, entry.n_learned)))
    if entry.algorithm == MATRL:
        equal = [one.algorithm == EQUAL and one.backend == entry.backend for one in entries].index(True)
        row["matrl_to_ippo"] = spread(times / seconds[equal])
    return row


def _speeds(column: Column, n_learned: int, seconds: np.ndarray, floor: float) -> dict[str, Any]:
    """Columns of a row that follow from its seconds."""
    median = float(np.median(seconds))
    return {
        "seconds": seconds,
        "median_seconds": median,
        "seconds_per_agent": median / n_learned,
        "env_steps_per_second": column.rows / median,
        "times_floor": median / floor,
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """
    Median and quartiles.

    :param values: one value per round
    """
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def measure_benchmarl(column: Column, record: dict[str, Any], iterations: int, python: Path = BENCHMARL_PYTHON) -> str | None:
    """
    Measure BenchMARL's IPPO in a process of its own, and add its row to a column's record.

    :param column: the column
    :param record: record of the column, which is changed
    :param iterations: measured iterations
    :param python: interpreter of BenchMARL's virtual environment
    :return: reason why it was left out, or ``None``
    """
    if not python.exists():
        return "BenchMARL is left out: `make benchmarl` installs it"
    settings = column.settings(IPPO)
    hidden, activation = architecture(settings)
    task = {name: settings[name] for name in ("n_steps", "batch_size", "n_epochs")}
    task |= {"env": column.env, "env_kwargs": settings.env_kwargs, "n_envs": settings.n_envs, "iterations": iterations}
    task |= {"net_arch": hidden, "activation": activation.__name__}
    done = run_python(python, "-m", "benchmarks.benchmarl_peer", json.dumps(task))
    if done.returncode:
        return f"BenchMARL failed in {column.label}: {done.stderr.strip().splitlines()[-1]}"
    result = json.loads(done.stdout.splitlines()[-1])
    _check_benchmarl(column, result, record["agents"])
    seconds = np.array(result["seconds"])
    row = {
        "contestant": f"BenchMARL {result['versions']['benchmarl']} IPPO",
        "algorithm": IPPO,
        "backend": "",
        "learned_agents": record["agents"],
        "gradient_steps": result["gradient_steps"],
        "detail": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "ratio": spread(record["rows"][0]["median_seconds"] / seconds),
    }
    record["rows"].append(row | _speeds(column, record["agents"], seconds, record["floor_seconds"][IPPO]))
    return None


def _check_benchmarl(column: Column, result: dict[str, Any], n_agents: int) -> None:
    expected = expected_work(column, IPPO, n_agents)
    done = (result["env_steps"], result["gradient_steps"])
    if done != (expected.env_steps, expected.gradient_steps):
        raise RuntimeError(f"BenchMARL: an iteration was {done} env steps and gradient steps, expected {expected}")


def measure_memory(backends: Sequence[str], iterations: int = 3) -> list[dict[str, Any]]:
    """
    Peak memory of training in Checkers with 20 copies, in processes of their own.

    :param backends: backends that can be used here
    :param iterations: iterations of each training
    """
    rows = []
    for backend in (PEER, *backends):
        command = ("-m", "benchmarks.peak_memory", "--backend", backend, "--iterations", str(iterations))
        done = run_python(Path(sys.executable), *command, check=True)
        rows.append({"contestant": backend, "peak_mib": float(done.stdout.split()[-1])})
    return rows


def measure_train(steps: int, repeats: int, earlier: Path | None = None) -> list[dict[str, Any]]:
    """
    Total time of `make train`'s command, imports and files included, with the backend "sb3" and with the default, in turns.

    :param steps: steps to train for
    :param repeats: trainings of each
    :param earlier: checkout of an earlier version, which takes its turns too; ``None`` for none
    """
    variants = {"sb3": (ROOT, ("--hyperparams", "backend:sb3")), "default": (ROOT, ())}
    if earlier is not None:
        variants = {f"version {_commit(earlier)}": (earlier, ()), **variants}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, (root, options) in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                command = (*TRAIN, "--verbose", "0", "-n", str(steps), "--run-dir", str(Path(folder) / "run"), *options)
                run_python(Path(sys.executable), *command, check=True, root=root)
                seconds[name].append(time.perf_counter() - start)
    return [
        {"backend": name, "steps": steps, "seconds": times, "median_seconds": float(np.median(times))}
        for name, times in seconds.items()
    ]


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_python(python: Path, *arguments: str, check: bool = False, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python in a repository's folder, with one thread of PyTorch."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done


def compare(
    columns: Sequence[str],
    iterations: int,
    out: Path,
    quick: bool,
    parts: Sequence[str] = PARTS,
    earlier: Path | None = None,
) -> dict[str, Any]:
    """
    The whole comparison; the record is written after every part of it, the figure beside it at the end.

    :param columns: names of columns; all of :data:`COLUMNS` if empty, with ``quick`` :data:`QUICK_COLUMNS`
    :param iterations: measured rounds
    :param out: path of the JSON file
    :param quick: whether to shrink everything to seconds, for a test
    :param parts: those of :data:`PARTS` to measure; the others stay as they are in the record
    :param earlier: see :func:`measure_train`
    :return: the record
    """
    th.set_num_threads(1)
    backends, skipped = usable_backends()
    if "columns" in parts:
        measured = measure_columns(columns, backends, skipped, iterations, out, quick)
    else:
        measured = json.loads(out.read_text(encoding="utf-8"))
    record = {key: value for key, value in measured.items() if key != "machine"}
    if "memory" in parts:
        record["memory"] = measure_memory(backends, 1 if quick else 3)
    if "train" in parts:
        record["train"] = measure_train(2_000 if quick else TRAIN_STEPS, 1 if quick else TRAIN_REPEATS, earlier)
    write_record(out, record)
    draw(record, out.with_suffix(".png"))
    for reason in record["skipped"]:
        print(reason)
    return record


def measure_columns(
    columns: Sequence[str], backends: list[str], skipped: list[str], iterations: int, out: Path, quick: bool
) -> dict[str, Any]:
    """
    The columns of the comparison; the record is written after each.

    :param columns: as for :func:`compare`
    :param backends: backends that can be used here
    :param skipped: reasons why others are left out, to which that of BenchMARL is added
    :param iterations: measured rounds
    :param out: path of the JSON file
    :param quick: as for :func:`compare`
    :return: the record
    """
    record: dict[str, Any] = {
        "iterations": iterations,
        "quick": quick,
        "backends": backends,
        "skipped": skipped,
        "columns": [],
    }
    gemm = Gemm()
    for name in columns or (QUICK_COLUMNS if quick else COLUMNS):
        column = replace(COLUMNS[name], quick=quick)
        one = measure_column(column, backends, iterations, gemm)
        record["columns"].append(one)
        if not quick or one is record["columns"][0]:
            reason = measure_benchmarl(column, one, 1 if quick else BENCHMARL_ITERATIONS)
            skipped += [reason] if reason is not None and reason not in skipped else []
        records.write_record(out, record)
    return record
