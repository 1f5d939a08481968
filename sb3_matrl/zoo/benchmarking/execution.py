"""Parallel execution of runs: start, watch and end them; a run that fails does not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from sb3_matrl.zoo.benchmarking.display import ProgressDisplay
from sb3_matrl.zoo.benchmarking.plan import PlannedRun, make_ready
from sb3_matrl.zoo.benchmarking.run_results import trained_steps
from sb3_matrl.zoo.common.signals import SignalWatch

POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0


class Handle(Protocol):
    """Handle of a run that was started, such as ``subprocess.Popen``."""

    def poll(self) -> int | None:
        """Exit code; ``None`` while the run is active."""
        ...

    def terminate(self) -> None:
        """Ask the run to end."""
        ...

    def kill(self) -> None:
        """End the run at once."""
        ...


Launcher = Callable[[PlannedRun], Handle]


@dataclass
class Outcome:
    """
    Outcome of the runs.

    :param failed: runs that ended with an error
    :param signal: Ctrl-C or SIGTERM, if one ended the benchmark
    """

    failed: list[PlannedRun] = field(default_factory=list)
    signal: signal.Signals | None = None


def worker_command(run: PlannedRun) -> list[str]:
    """Command line of the process of a run."""
    return [sys.executable, "-m", "sb3_matrl.zoo.benchmarking.worker", *run.words]


def worker_environment(run: PlannedRun) -> dict[str, str]:
    """Environment variables of the process of a run."""
    return {**os.environ, "OMP_NUM_THREADS": str(run.options.num_threads)}


def process_launcher(lock: int) -> Launcher:
    """
    Launcher of child processes, each started anew.

    :param lock: descriptor of the lock of the benchmark's folder
    """

    def launch(run: PlannedRun) -> Handle:
        with run.log.open("ab") as log:
            return subprocess.Popen(
                worker_command(run),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=worker_environment(run),
                pass_fds=(lock,),
                # Ctrl-C reaches only this process, which then ends the runs.
                start_new_session=True,
            )

    return launch


def execute(runs: Iterable[PlannedRun], launch: Launcher, jobs: int, display: ProgressDisplay) -> Outcome:
    """
    Execute runs, ``jobs`` at a time. No run outlives this function, whatever ends it.

    :param runs: runs in the order of their start
    :param launch: launcher of one run
    :param jobs: number of runs at a time
    :param display: display of the progress
    """
    waiting, active, outcome = deque(runs), list[tuple[PlannedRun, Handle]](), Outcome()
    with SignalWatch() as signals:
        try:
            while (waiting or active) and signals.received is None:
                while waiting and len(active) < jobs:
                    active.append(_start(waiting.popleft(), launch, display))
                time.sleep(POLL_SECONDS)
                active = [pair for pair in active if not _has_ended(*pair, display, outcome)]
        finally:
            _stop([handle for _, handle in active])
    outcome.signal = signals.received
    return outcome


def _start(run: PlannedRun, launch: Launcher, display: ProgressDisplay) -> tuple[PlannedRun, Handle]:
    make_ready(run)
    display.started(run)
    return run, launch(run)


def _has_ended(run: PlannedRun, handle: Handle, display: ProgressDisplay, outcome: Outcome) -> bool:
    exit_code = handle.poll()
    if exit_code is None:
        display.advanced(run, trained_steps(run.folder))
    elif exit_code == 0 and run.result.exists():
        display.finished(run)
    else:
        display.failed(run, exit_code)
        outcome.failed.append(run)
    return exit_code is not None


def _stop(handles: list[Handle]) -> None:
    """Ask all to end; kill those that are active after ``GRACE_SECONDS``, or after a second Ctrl-C."""
    try:
        for handle in handles:
            handle.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while any(handle.poll() is None for handle in handles) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 5)
    finally:
        for handle in handles:
            if handle.poll() is None:
                handle.kill()
