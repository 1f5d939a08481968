"""
Kill trainings at random points, resume them, and compare them with trainings that were never stopped.

    python -m benchmarks.kill_test --kills 200 --terms 50
    python -m benchmarks.kill_test --algos qmix --kills 50 --terms 10 --out benchmarks/results/kill_test_qmix.json

Every trial is ``zoo/train.py`` in a process of its own, forked from a server that has imported its modules, because imports
would take most of the time. It gets SIGKILL or SIGTERM at a random time after its first checkpoint; ``--resume`` in another
process must then give the same run as the reference, bit for bit: all parameters and optimiser states, all evaluations, all
rows of the log except measured times, and the replay buffers of off-policy algorithms. Ctrl-C ends the test after the active
trials, and keeps the finished ones.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from benchmarks.shared import write_record
from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.checkpoints import buffer_of
from sb3_matrl.files.model_files import read_model
from sb3_matrl.on_policy.joint_updates import BACKENDS
from sb3_matrl.zoo import train
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.schema import Schema
from sb3_matrl.zoo.common.signals import SignalWatch

ENVS = ("checkers_v0", "switch_v0", "matrix_game_v0")
VEC_ENVS = ("batched", "dummy", "subproc")
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
OPTIONS = "--eval-freq 300 --eval-episodes 2 --save-freq 200 --verbose 0 --device cpu --seed 7".split()
# Hyper-parameters; an algorithm gets those that it has.
ON_POLICY = ["n_steps:25", "batch_size:100", "n_epochs:2", "br_n_epochs:1"]
OFF_POLICY = ["buffer_size:400", "learning_starts:100", "batch_size:16", "train_freq:3", "target_update_interval:40"]
DEADLINE = 600.0
MAX_REPETITIONS = 5


@dataclass(frozen=True)
class Case:
    """
    One kind of training.

    :param env: id of the environment
    :param vec_env: backend that steps its copies
    :param n_timesteps: steps of the training
    :param backend: code that takes the gradient steps of on-policy algorithms
    :param algo: name of the algorithm
    """

    env: str
    vec_env: str
    n_timesteps: int
    backend: str = "auto"
    algo: str = "matrl"

    def words(self, folder: Path) -> list[str]:
        """Command line of ``train.py`` for a run in a folder."""
        case = ["--algo", self.algo, "--env", self.env, "--vec-env", self.vec_env, "-n", str(self.n_timesteps)]
        known = Schema.of(self.algo).arguments
        own = OFF_POLICY if "buffer_size" in known else [*ON_POLICY, f"backend:{self.backend}"]
        small = [pair for pair in own if pair.partition(":")[0] in known]
        return [*case, "--run-dir", str(folder), *OPTIONS, "-params", "n_envs:4", "policy_kwargs.net_arch:[16]", *small]


class Training:
    """
    ``train.py`` in a process of its own.

    :param words: words of its command line
    :param log: file for its output
    """

    def __init__(self, words: Sequence[str], log: Path) -> None:
        # The server forks before it uses threads, which a fork would break.
        context = multiprocessing.get_context("forkserver")
        # The commands import training when they need it, PyTorch its compiler with the first optimiser.
        context.set_forkserver_preload(["sb3_matrl.zoo.train", "sb3_matrl.zoo.training.training_run", "torch._dynamo"])
        self.log = log
        self.process = context.Process(target=_train, args=(list(words), str(log)))
        self.process.start()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return not self.process.is_alive()

    def finish(self) -> None:
        """
        Wait for the end.

        :raises RuntimeError: if it fails; holds its output
        """
        self.process.join(DEADLINE)
        if self.process.exitcode != 0:
            raise RuntimeError(f"train.py ended with {self.process.exitcode}: {self.log.read_text(encoding='utf-8')}")

    def stop(self, number: signal.Signals) -> tuple[int | None, float]:
        """
        Send a signal.

        :return: the exit code, and the seconds until the end
        """
        sent = time.monotonic()
        if self.process.pid is not None and not self.has_ended:
            os.kill(self.process.pid, number)
        self.process.join(DEADLINE)
        return self.process.exitcode, time.monotonic() - sent

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Wait until the condition holds or the process has ended."""
        deadline = time.monotonic() + DEADLINE
        while not condition() and not self.has_ended and time.monotonic() < deadline:
            time.sleep(0.005)


def _train(words: list[str], log: str) -> None:
    os.setsid()  # Ctrl-C is for the test, not for its trainings
    with open(log, "wb", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.exit(train.main(words))


def differences(run: RunFolder, reference: RunFolder) -> list[str]:
    """:return: differences between two runs: names of files, generators and arrays"""
    found = []
    for name in ("last_model", "best_model"):
        ours, theirs = read_model(getattr(run, name)), read_model(getattr(reference, name))
        if not (_same(ours.parameters, theirs.parameters) and ours.counters == theirs.counters):
            found.append(getattr(run, name).name)
        if ours.generators != theirs.generators:
            found.append(f"generators in {getattr(run, name).name}")
    with np.load(run.evaluations) as ours, np.load(reference.evaluations) as theirs:
        found += [f"{key} in {run.evaluations.name}" for key in theirs if not np.array_equal(ours[key], theirs[key])]
    if _rows(run.progress) != _rows(reference.progress):
        found.append(run.progress.name)
    buffers = [buffer_of(one.checkpoint(one.checkpoint_steps()[-1])) for one in (run, reference)]
    contents = [None if buffer is None else read_archive(buffer) for buffer in buffers]
    if not _same(*(None if content is None else content[1] for content in contents)):
        found.append("replay buffer")
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
    Train, stop, resume, compare. A training that ends before the signal is repeated, with the signal after half the time.

    :param task: ``env``, ``vec_env``, ``n_timesteps``, ``signal`` (a key of ``SIGNALS``), ``delay`` (seconds after the first
        checkpoint) and ``reference`` (a folder)
    :return: ``exit_code``, ``stop_seconds``, ``checkpoint`` (steps), ``ended`` (before the signal came), ``differences`` and
        ``delay``
    """
    result = _trial(task)
    for _ in range(MAX_REPETITIONS):
        if not result["ended"] or result["differences"]:
            break
        task = {**task, "delay": task["delay"] / 2}
        result = _trial(task)
    return {**result, "delay": task["delay"]}


def _trial(task: dict[str, Any]) -> dict[str, Any]:
    case = Case(*(task[field.name] for field in fields(Case)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "run", case.env)
        training = Training(case.words(folder.path), Path(temporary) / "first.txt")
        training.wait_until(folder.checkpoint_steps)
        time.sleep(task["delay"])
        exit_code, seconds = training.stop(SIGNALS[task["signal"]])
        result: dict[str, Any] = {"exit_code": exit_code, "stop_seconds": seconds, "ended": folder.is_finished}
        result["checkpoint"] = max(folder.checkpoint_steps(), default=None)
        try:
            if not folder.is_finished:
                Training(["--resume", str(folder.path)], Path(temporary) / "second.txt").finish()
            result["differences"] = differences(folder, RunFolder(Path(task["reference"]), case.env))
        except (RuntimeError, OSError, ValueError) as error:
            result["differences"] = [f"not resumed: {error}"]
        return result


def run_reference(case: Case, folder: RunFolder) -> float:
    """
    The training that is never stopped.

    :return: seconds from its first checkpoint to its last model
    """
    training = Training(case.words(folder.path), folder.path.with_suffix(".txt"))
    training.wait_until(folder.checkpoint_steps)
    began = time.monotonic()
    training.wait_until(folder.last_model.is_file)
    seconds = time.monotonic() - began
    training.finish()
    return seconds


def plan(cases: Sequence[Case], references: Path, kinds: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """One task for every kind of stop, the cases in turn, at times drawn from the whole length of the reference."""
    rng = np.random.default_rng(seed)
    folders = {
        case: RunFolder(references / f"{case.algo}_{case.env}_{case.vec_env}_{case.backend}", case.env) for case in cases
    }
    lengths = {case: run_reference(case, folders[case]) for case in tqdm(cases, desc="references", unit="run")}
    tasks = []
    for i, kind in enumerate(kinds):
        case = cases[i % len(cases)]
        delay = float(rng.uniform(0.0, lengths[case]))
        tasks.append({**vars(case), "signal": kind, "delay": delay, "reference": str(folders[case].path)})
    return tasks


def run_trials(tasks: Sequence[dict[str, Any]], jobs: int) -> list[dict[str, Any]]:
    """
    :param tasks: as :func:`trial` takes them
    :param jobs: how many at a time
    :return: task and result merged, in the order in which they ended; not all of them after Ctrl-C
    """
    rows: list[dict[str, Any]] = []
    with SignalWatch() as watch, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(lambda one: None if watch.is_set() else trial(one), task): task for task in tasks}
        bar = tqdm(as_completed(futures), total=len(tasks), unit="trial")
        for future in bar:
            result = future.result()
            if result is not None:
                rows.append({**futures[future], **result})
                if result["differences"]:
                    tqdm.write(f"{futures[future]}: {result}")
                bar.set_postfix(identical=sum(not row["differences"] for row in rows), of=len(rows))
    return rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of both kinds of stop."""
    summary: dict[str, Any] = {}
    for kind in SIGNALS:
        chosen = [row for row in rows if row["signal"] == kind]
        summary[kind] = {
            "trials": len(chosen),
            "identical": sum(not row["differences"] for row in chosen),
            "signal_before_the_end": sum(not row["ended"] for row in chosen),
            "signal_after_the_end": sum(row["ended"] for row in chosen),
            "exit_codes": dict(Counter(str(row["exit_code"]) for row in chosen)),
            "slowest_stop_seconds": max((row["stop_seconds"] for row in chosen), default=None),
        }
    return summary


def main() -> int:
    """:return: exit code: 1 when a resumed training differs from its reference"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many get SIGKILL")
    parser.add_argument("--terms", type=int, default=50, help="how many get SIGTERM")
    parser.add_argument("--timesteps", type=int, default=800, help="length of a training")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["auto"], help="code that takes the gradient steps")
    parser.add_argument("--algos", nargs="+", choices=algorithm_names(), default=["matrl"], help="algorithms")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the signals")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kill_test.json"))
    args = parser.parse_args()
    cases = [Case(*one) for one in product(ENVS, VEC_ENVS, [args.timesteps], args.backends, args.algos)]
    kinds = ["kill"] * args.kills + ["term"] * args.terms
    with tempfile.TemporaryDirectory() as folder:
        tasks = plan(cases, Path(folder), kinds, args.seed)
        rows = run_trials(tasks, args.jobs)
    summary = summarise(rows)
    for kind, numbers in summary.items():
        print(kind, numbers)
    table = [{key: value for key, value in row.items() if key != "reference"} for row in rows]
    write_record(args.out, {"timesteps": args.timesteps, "planned": len(tasks), "summary": summary, "trials": table})
    return int(any(row["differences"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
