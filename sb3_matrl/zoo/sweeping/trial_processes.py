"""Further processes that run trials of a local study: ``--n-jobs``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace

from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.sweeping.sweep_options import StudyFolder, SweepOptions

GRACE_SECONDS = 30.0


class TrialProcesses:
    """
    Processes that run trials.

    :param processes: the processes
    """

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.processes = processes

    def are_active(self) -> bool:
        """Whether one of them has not ended."""
        return any(process.poll() is None for process in self.processes)

    def end(self) -> None:
        """Ask all to end, and kill those that are active after ``GRACE_SECONDS``; their trials are run again later."""
        try:
            for process in self.processes:
                process.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            while self.are_active() and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            for process in self.processes:
                process.kill()
                process.wait()


def worker_command(options: SweepOptions, config: SweepConfig, trial: int | None = None) -> list[str]:
    """
    Command line of a process that runs trials.

    :param options: options of the sweep, with the number of the process
    :param config: the sweep
    :param trial: number in the data base of the only trial to be run; ``None`` for all that are left
    """
    task = {"options": asdict(options), "sweep": config.source, "trust": config.trust, "trial": trial}
    return [sys.executable, "-m", "sb3_matrl.zoo.sweeping.trial_worker", json.dumps(task)]


def worker_environment() -> dict[str, str]:
    """:return: environment variables of such a process"""
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


@contextmanager
def trial_processes(options: SweepOptions, config: SweepConfig) -> Iterator[TrialProcesses]:
    """
    Start ``options.n_jobs - 1`` processes, which end when there are no trials left, or at the end of the context.

    :param options: options of the command line
    :param config: the sweep
    """
    folder, started = StudyFolder.of(options), list[subprocess.Popen[bytes]]()
    with ExitStack() as held:
        held.callback(TrialProcesses(started).end)
        for worker in range(1, options.n_jobs):
            with folder.output_of(worker).open("ab") as output:
                started.append(
                    subprocess.Popen(
                        worker_command(replace(options, worker=worker), config),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env=worker_environment(),
                        # Ctrl-C reaches only this process, which then ends the others.
                        start_new_session=True,
                    )
                )
        yield TrialProcesses(started)
