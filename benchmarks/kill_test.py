"""
Kill trainings at random points, resume them, and compare them with trainings that were never stopped.

    python -m benchmarks.kill_test --kills 200 --terms 50

Every trial is ``zoo/train.py`` in a process of its own. It gets SIGKILL or SIGTERM at a random time after its first
checkpoint; ``--resume`` must then end in the same run as the reference: all parameters and optimiser states, all
evaluations and all rows of the log but for measured times, bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from benchmarks.experiment import run_parallel, write_record
from sb3_matrl.common.model_file import read_model
from zoo.runs import RunFolder

ROOT = Path(__file__).resolve().parents[1]
ENVS = ("checkers_v0", "switch_v0", "matrix_game_v0")
VEC_ENVS = ("batched", "dummy")
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
OPTIONS = [
    "--eval-freq",
    "700",
    "--eval-episodes",
    "4",
    "--save-freq",
    "300",
    "--verbose",
    "0",
    "--device",
    "cpu",
    "--seed",
    "7",
]
HYPERPARAMETERS = ["n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:2", "br_n_epochs:1", "policy_kwargs.net_arch:[16]"]
DEADLINE = 600.0


@dataclass(frozen=True)
class Case:
    """
    What is trained.

    :param env: id of the environment
    :param vec_env: how its copies are stepped
    :param n_timesteps: steps of the training
    """

    env: str
    vec_env: str
    n_timesteps: int

    def words(self, folder: Path) -> list[str]:
        """Command line of ``train.py`` for a run in a folder."""
        case = ["--env", self.env, "--vec-env", self.vec_env, "-n", str(self.n_timesteps), "--run-dir", str(folder)]
        return [*case, *OPTIONS, "-params", *HYPERPARAMETERS]


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    """``train.py`` in a process of its own."""
    command = [sys.executable, str(ROOT / "zoo" / "train.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def finish(process: subprocess.Popen[str]) -> None:
    """
    Wait for the end of a training.

    :raises RuntimeError: with its output when it fails
    """
    output, _ = process.communicate(timeout=DEADLINE)
    if process.returncode != 0:
        raise RuntimeError(f"train.py ended with {process.returncode}: {output}")


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Return as soon as the condition holds, or the process has ended."""
    deadline = time.monotonic() + DEADLINE
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, float]:
    """
    Send a signal.

    :return: the exit code, and the seconds until the end
    """
    sent = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=DEADLINE)
    return process.returncode, time.monotonic() - sent


def differences(run: RunFolder, reference: RunFolder) -> list[str]:
    """:return: what is not the same in two runs: files, and in them agents, arrays or rows"""
    found = []
    for name in ("last_model", "best_model"):
        ours, theirs = read_model(getattr(run, name)), read_model(getattr(reference, name))
        if not (_same(ours.parameters, theirs.parameters) and ours.counters == theirs.counters):
            found.append(getattr(run, name).name)
        if ours.coordinator_rng != theirs.coordinator_rng:
            found.append(f"generator in {getattr(run, name).name}")
    with np.load(run.path / "evaluations.npz") as ours, np.load(reference.path / "evaluations.npz") as theirs:
        found += [f"{key} in evaluations.npz" for key in theirs if not np.array_equal(ours[key], theirs[key])]
    if _rows(run.path / "progress.csv") != _rows(reference.path / "progress.csv"):
        found.append("progress.csv")
    return found


def _same(one: Any, two: Any) -> bool:
    """Whether nested state dicts are equal in every bit."""
    if isinstance(one, Mapping):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(_same, one, two))
    return th.equal(one, two) if isinstance(one, th.Tensor) else bool(one == two)


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of the log without the columns that hold measured times."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: text for key, text in row.items() if not _is_time(key)} for row in rows]


def _is_time(key: str) -> bool:
    return "seconds" in key or key in ("time/fps", "time/time_elapsed")


def trial(task: dict[str, Any]) -> dict[str, Any]:
    """
    Train, stop, resume, compare.

    :param task: ``env``, ``vec_env``, ``n_timesteps``, ``signal`` (a key of ``SIGNALS``), ``delay`` (seconds after the first
        checkpoint) and ``reference`` (a folder)
    :return: ``exit_code``, ``stop_seconds``, ``checkpoint`` (steps), ``ended`` (before the signal came) and ``differences``
    """
    case = Case(task["env"], task["vec_env"], task["n_timesteps"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "run", case.env)
        process = start(case.words(folder.path))
        wait_until(folder.checkpoint_steps, process)
        time.sleep(task["delay"])
        exit_code, seconds = stop(process, SIGNALS[task["signal"]])
        result: dict[str, Any] = {"exit_code": exit_code, "stop_seconds": seconds, "ended": folder.is_finished}
        result["checkpoint"] = max(folder.checkpoint_steps(), default=None)
        try:
            if not folder.is_finished:
                finish(start(["--resume", str(folder.path)]))
            result["differences"] = differences(folder, RunFolder(Path(task["reference"]), case.env))
        except (RuntimeError, OSError, ValueError) as error:
            result["differences"] = [f"not resumed: {error}"]
        return result


def run_reference(case: Case, folder: RunFolder) -> float:
    """
    The training that is never stopped.

    :return: seconds from its first checkpoint to its last model
    """
    process = start(case.words(folder.path))
    wait_until(folder.checkpoint_steps, process)
    began = time.monotonic()
    wait_until(folder.last_model.is_file, process)
    seconds = time.monotonic() - began
    finish(process)
    return seconds


def plan(cases: Sequence[Case], references: Path, kinds: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """One task for every kind of stop, the cases in turn, at times drawn from the whole length of the reference."""
    rng = np.random.default_rng(seed)
    folders = {case: RunFolder(references / f"{case.env}_{case.vec_env}", case.env) for case in cases}
    lengths = {case: run_reference(case, folders[case]) for case in tqdm(cases, desc="references", unit="run")}
    tasks = []
    for i, kind in enumerate(kinds):
        case = cases[i % len(cases)]
        delay = float(rng.uniform(0.0, lengths[case]))
        tasks.append({**vars(case), "signal": kind, "delay": delay, "reference": str(folders[case].path)})
    return tasks


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of both kinds of stop."""
    summary: dict[str, Any] = {}
    for kind in SIGNALS:
        chosen = [row for row in rows if row["signal"] == kind]
        summary[kind] = {
            "trials": len(chosen),
            "stopped_in_training": sum(not row["ended"] for row in chosen),
            "identical": sum(not row["differences"] for row in chosen),
            "exit_codes": dict(Counter(str(row["exit_code"]) for row in chosen)),
            "slowest_stop_seconds": max((row["stop_seconds"] for row in chosen), default=None),
        }
    return summary


def main() -> int:
    """:return: exit code: 1 when a resumed training differs from its reference"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many get SIGKILL")
    parser.add_argument("--terms", type=int, default=50, help="how many get SIGTERM")
    parser.add_argument("--timesteps", type=int, default=2000, help="length of a training")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the signals")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kill_test.json"))
    args = parser.parse_args()
    cases = [Case(env, vec_env, args.timesteps) for env in ENVS for vec_env in VEC_ENVS]
    kinds = ["kill"] * args.kills + ["term"] * args.terms
    with tempfile.TemporaryDirectory() as folder:
        tasks = plan(cases, Path(folder), kinds, args.seed)
        # References and delays are new ones every time: nothing is taken from an earlier cache.
        rows = run_parallel(trial, tasks, args.jobs, Path(folder) / "trials.runs.jsonl")
    summary = summarise(rows)
    for kind, numbers in summary.items():
        print(kind, numbers)
    table = [{key: value for key, value in row.items() if key != "reference"} for row in rows]
    write_record(args.out, {"timesteps": args.timesteps, "summary": summary, "trials": table})
    return int(any(row["differences"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
