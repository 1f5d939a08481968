"""
Memory, open files, threads and child processes of ``zoo/train.py`` over a million steps.

    python -m benchmarks.long_run --timesteps 1000000

The training is a process of its own, as a user starts it, and is observed through /proc (Linux only). Ctrl-C ends it; the
measurements up to then are kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.shared import write_record
from sb3_matrl.zoo.benchmarking.run_results import trained_steps
from sb3_matrl.zoo.common.cli import VEC_ENVS
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.signals import SignalWatch
from sb3_matrl.zoo.common.text_tables import markdown

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.1
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Usage:
    """
    Resources of a process.

    :param rss_mib: resident memory in MiB
    :param open_files: number of file descriptors
    :param threads: number of threads
    :param children: number of active child processes
    """

    rss_mib: float
    open_files: int
    threads: int
    children: int


def usage(pid: int) -> Usage:
    """
    :param pid: id of a process of the same user
    :raises OSError: if the process has ended
    """
    process = Path("/proc", str(pid))
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    if "VmRSS" not in status:
        raise ProcessLookupError(f"process {pid} has ended")
    children = [path.read_text().split() for path in process.glob("task/*/children")]
    return Usage(
        rss_mib=int(status["VmRSS"].split()[0]) * 1024 / MEBIBYTE,
        open_files=len(os.listdir(process / "fd")),
        threads=int(status["Threads"]),
        children=sum(map(len, children)),
    )


def watch(process: subprocess.Popen[Any], folder: RunFolder, every: int, timesteps: int) -> Iterator[dict[str, Any]]:
    """
    Measure a training at its first step and at every multiple of some steps, until it ends.

    :param process: process of ``train.py``
    :param folder: run folder
    :param every: steps between two measurements
    :param timesteps: steps of the training, for the progress bar
    :return: steps, seconds since the first measurement, and :class:`Usage`
    """
    following, begin = 1, time.monotonic()
    with SignalWatch() as signals, tqdm(total=timesteps, unit="step", unit_scale=True) as bar:
        while process.poll() is None and not signals.is_set():
            steps = trained_steps(folder)
            if steps > bar.n:
                bar.update(steps - bar.n)
            if steps >= following:
                try:
                    yield {"steps": steps, "seconds": time.monotonic() - begin, **asdict(usage(process.pid))}
                except OSError:
                    return  # the process has just ended
                following = (steps // every + 1) * every
            time.sleep(POLL_SECONDS)


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """
    Growth in the second half of the training, when one-time allocations are over.

    :param rows: measurements of :func:`watch`
    :return: name of the resource -> growth
    """
    half = rows[len(rows) // 2 :]
    return {name: half[-1][name] - half[0][name] for name in Usage.__dataclass_fields__}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Measurements as Markdown."""
    cells = [
        [f"{row['steps']:,}", f"{row['seconds']:.0f}", f"{row['rss_mib']:.1f}"]
        + [str(row[name]) for name in ("open_files", "threads", "children")]
        for row in rows
    ]
    return markdown(["steps", "seconds", "memory (MiB)", "open files", "threads", "child processes"], cells)


def main() -> int:
    """:return: exit code: that of the training"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="checkers_v0")
    parser.add_argument("--vec-env", default="auto", choices=VEC_ENVS)
    parser.add_argument("--timesteps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=100_000, help="steps between two measurements")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/long_run.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "run", args.env)
        words = ["--env", args.env, "--vec-env", args.vec_env, "-n", str(args.timesteps), "--run-dir", str(folder.path)]
        # Checkpoints as often as measurements, because a long training writes them.
        options = ["--seed", "0", "--verbose", "0", "--save-freq", str(args.every)]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "zoo" / "train.py"), *words, *options], stdout=subprocess.DEVNULL, cwd=ROOT
        )
        try:
            rows = list(watch(process, folder, args.every, args.timesteps))
        finally:
            if process.poll() is None:
                process.terminate()
            exit_code = process.wait()
    print(table(rows))
    write_record(args.out, {"env": args.env, "vec_env": args.vec_env, "rows": rows, "growth": growth(rows) if rows else {}})
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
