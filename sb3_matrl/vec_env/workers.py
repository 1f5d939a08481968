"""Worker processes: ignore signals, shut down cleanly, report crashes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from sb3_matrl.vec_env.errors import WorkerLost, WorkerStuck


def ignore_interrupts() -> None:
    """
    Ignore SIGINT and SIGTERM in a worker process; Ctrl-C and schedulers send them to all processes of a job.

    The parent process handles them, and needs its workers to save the state. Handlers inherited from the parent are
    replaced. Processes started by the env itself keep the default behaviour.
    """
    worker = os.getpid()

    def ignore(number: int, frame: Any) -> None:
        if os.getpid() != worker:  # forked by the env
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    # Not SIG_IGN, which programs executed by the env would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ignore)


@contextmanager
def worker_failures(procs: Sequence[Any] = (), shares: Sequence[Sequence[int]] = ()) -> Iterator[None]:
    """
    Context manager that turns the broken pipe of a dead worker into a :class:`WorkerLost`.

    :param procs: worker processes, if known
    :param shares: copies of each worker
    :raises WorkerLost: instead of the pipe's error
    """
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise _lost(procs, shares) from error


def _lost(procs: Sequence[Any], shares: Sequence[Sequence[int]]) -> WorkerLost:
    """Find the worker that died; it may still be exiting when its pipe is already closed."""
    dead = wait([proc.sentinel for proc in procs], timeout=2.0) if procs else []
    gone = [worker for worker, proc in enumerate(procs) if proc.sentinel in dead]
    if not gone:
        return WorkerLost([], None)
    procs[gone[0]].join()
    return WorkerLost([copy for worker in gone for copy in shares[worker]], procs[gone[0]].exitcode)


def await_answers(pipes: Sequence[Any], procs: Sequence[Any], shares: Sequence[Sequence[int]], seconds: float | None) -> None:
    """
    Wait until every worker has answered or died.

    :param pipes: pipes to the workers
    :param procs: worker processes
    :param shares: copies of each worker
    :param seconds: time that the workers have; ``None`` for no limit
    :raises WorkerStuck: if workers have not answered; they are killed
    """
    if seconds is None:
        return
    deadline = time.monotonic() + seconds
    stuck = [worker for worker, pipe in enumerate(pipes) if not pipe.poll(max(0.0, deadline - time.monotonic()))]
    for worker in stuck:
        procs[worker].kill()
    if stuck:
        raise WorkerStuck([copy for worker in stuck for copy in shares[worker]], seconds)


def end_workers(pipes: Sequence[Any], procs: Sequence[Any], patience: float = 10.0) -> BaseException | None:
    """
    Close the envs in worker processes and end the processes.

    A worker closes its envs at ``"close"``, ends at ``"terminate"``, and reports an error as a tuple that starts with it.

    :param pipes: pipes to the workers
    :param procs: worker processes
    :param patience: seconds before a worker is killed
    :return: first error that a worker reported, e.g. while closing its envs
    """
    for pipe in pipes:
        with suppress(OSError):
            pipe.send("close")
            pipe.send("terminate")
    deadline = time.monotonic() + patience
    errors = [_drain(pipe, deadline) for pipe in pipes]
    for pipe, proc in zip(pipes, procs, strict=True):
        proc.join(max(0.0, deadline - time.monotonic()))
        if proc.is_alive():
            proc.kill()
            proc.join()
        pipe.close()
    return next((error for error in errors if error is not None), None)


def _drain(pipe: Any, deadline: float) -> BaseException | None:
    """Read until the worker closes the pipe, so that it never blocks on a full one; return the first error reported."""
    first: BaseException | None = None
    with suppress(EOFError, OSError):
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            message = pipe.recv()
            if isinstance(message, tuple):
                first = first or message[0]
    return first


def shares_of_workers(num_envs: int, num_cpus: int | None) -> list[list[int]]:
    """
    Divide copies among worker processes.

    :param num_envs: number of copies
    :param num_cpus: number of worker processes, at most one per copy; ``None`` for one per CPU core, at least two
    :return: consecutive copies of each worker
    """
    workers = min(num_envs, num_cpus or max(2, os.cpu_count() or 2))
    return [share.tolist() for share in np.array_split(np.arange(num_envs), workers)]


class WorkerGroup:
    """
    Worker processes, which end together: after an error, with this object, or at exit, before Python waits for them.

    They follow the protocol of :func:`end_workers`.

    :param pipes: one pipe to each worker
    :param processes: worker processes, which are no daemons
    :param shares: copies of each worker
    :param timeout: seconds that a worker has for one command; ``None`` for no limit
    """

    def __init__(
        self, pipes: Sequence[Any], processes: Sequence[Any], shares: Sequence[Sequence[int]], timeout: float | None = None
    ) -> None:
        self.pipes = pipes
        self.processes = processes
        self.shares = shares
        self._timeout = timeout
        self._end = Finalize(self, end_workers, (pipes, processes), exitpriority=10)

    def __reduce__(self) -> Any:
        # Copies of the pipes would close those of the original.
        raise TypeError(
            "environments in worker processes cannot be copied or pickled: save() and load() the model, or use vec_env='dummy'"
        )

    def send_all(self, command: Any) -> None:
        """Send the same command to every worker."""
        content = ForkingPickler.dumps(command)
        with self.ended_by_errors():
            for pipe in self.pipes:
                pipe.send_bytes(content)

    def send(self, commands: Sequence[Any]) -> None:
        """Send one command to each worker."""
        with self.ended_by_errors():
            for pipe, command in zip(self.pipes, commands, strict=True):
                pipe.send(command)

    def receive(self) -> list[Any]:
        """
        Receive one answer from each worker.

        :raises WorkerLost: if a worker died or, as :class:`WorkerStuck`, did not answer in time
        :raises Exception: error that a worker reported
        """
        with self.ended_by_errors():
            await_answers(self.pipes, self.processes, self.shares, self._timeout)
            return [_result(pipe.recv()) for pipe in self.pipes]

    @contextmanager
    def ended_by_errors(self) -> Iterator[None]:
        """
        Context manager that ends all workers after an error, because pipes may then hold answers that nobody read.

        :raises WorkerLost: instead of the error of a dead worker's pipe
        :raises RuntimeError: if the workers have ended before
        """
        if not self._end.still_active():
            raise RuntimeError("the worker processes have ended after an earlier error; make a new JointVecEnv")
        try:
            with worker_failures(self.processes, self.shares):
                yield
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """
        End the workers; further calls do nothing.

        :raises Exception: first error that a worker reported, e.g. while closing its envs
        """
        error = self._end()
        if error is not None:
            raise error


def _result(answer: Any) -> Any:
    if isinstance(answer, tuple):
        raise answer[0]
    return answer
