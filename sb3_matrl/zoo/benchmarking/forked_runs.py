"""
Runs as processes that a server forks, which has imported everything already.

A process that is started anew imports for seconds, which is as long as a small training takes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, get_all_start_methods, get_context, reduction
from typing import Any

from sb3_matrl.zoo.benchmarking.execution import Launcher, process_launcher, worker_command, worker_environment
from sb3_matrl.zoo.benchmarking.plan import PlannedRun

WORKER = "sb3_matrl.zoo.benchmarking.worker"


class ForkedRun:
    """
    Handle of a run.

    :param process: its process, which was started
    """

    def __init__(self, process: Any) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Exit code, negative for a signal that ended the process; ``None`` while the run is active."""
        code: int | None = self._process.exitcode
        return code

    def terminate(self) -> None:
        """Ask the run to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End the run at once."""
        self._process.kill()


def local_launcher(lock: int) -> Launcher:
    """
    Launcher of the runs of this machine: forked where the system can do that, else started anew.

    :param lock: descriptor of the lock of the benchmark's folder
    """
    return forked_launcher(lock) if "forkserver" in get_all_start_methods() else process_launcher(lock)


def forked_launcher(lock: int) -> Launcher:
    """
    Launcher of processes that a server forks.

    :param lock: descriptor of the lock of the benchmark's folder, which every run holds, too
    """
    context, held = get_context("forkserver"), _Descriptor(lock)
    context.set_forkserver_preload([WORKER])

    def launch(run: PlannedRun) -> ForkedRun:
        variables = worker_environment(run)
        with _environment(variables):  # of the server, which the first run starts
            forkserver.ensure_running()
        arguments = (worker_command(run), variables, str(run.log), held)
        process = context.Process(target=_run, args=arguments, name=run.name)
        process.start()
        return ForkedRun(process)

    return launch


class _Descriptor:
    """A file descriptor that is sent to the processes that get this object."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.number),)


def _received(sent: Any) -> _Descriptor:
    return _Descriptor(sent.detach())


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside, the environment is another one."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(command: Sequence[str], variables: Mapping[str, str], log: str, held: _Descriptor) -> None:
    """The run, as if this process had been started with the command."""
    # Ctrl-C reaches only the benchmark's process, which then ends the runs.
    os.setsid()
    with open(log, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(variables)
    sys.orig_argv, sys.argv = list(command), list(command[2:])
    from sb3_matrl.zoo.benchmarking import worker

    sys.exit(worker.main(command[3:]))
