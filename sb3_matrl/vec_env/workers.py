"""Worker processes: starting them deaf to interruptions, ending them in order, and telling which one fell silent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

from sb3_matrl.vec_env.errors import WorkerLost


def leave_interruptions_to_the_parent() -> None:
    """
    In a worker process: let SIGINT and SIGTERM pass, which Ctrl-C and schedulers send to all processes of a job.

    The parent decides what is done about them; without its workers it could not even save its state. Handlers inherited
    from the parent are replaced. Processes that the env itself starts keep the default behaviour.
    """
    worker = os.getpid()

    def ignore(number: int, frame: Any) -> None:
        if os.getpid() != worker:  # forked off by the env
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    # A function, because programs that the env executes would inherit SIG_IGN.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ignore)


@contextmanager
def silent_workers(procs: Sequence[Any] = (), shares: Sequence[Sequence[int]] = ()) -> Iterator[None]:
    """
    Say what it means when a worker process does not answer.

    :param procs: the workers, if they are known
    :param shares: the copies that each worker holds
    :raises WorkerLost: in place of the pipe's error
    """
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise _lost(procs, shares) from error


def _lost(procs: Sequence[Any], shares: Sequence[Sequence[int]]) -> WorkerLost:
    """Find out who is gone; a process may still be on its way out when its pipe has closed already."""
    dead = wait([proc.sentinel for proc in procs], timeout=2.0) if procs else []
    gone = [worker for worker, proc in enumerate(procs) if proc.sentinel in dead]
    if not gone:
        return WorkerLost([], None)
    procs[gone[0]].join()
    return WorkerLost([copy for worker in gone for copy in shares[worker]], procs[gone[0]].exitcode)


def end_workers(pipes: Sequence[Any], procs: Sequence[Any], patience: float = 10.0) -> BaseException | None:
    """
    Close the envs in SuperSuit's workers and end these.

    :param pipes: to the workers
    :param procs: the workers
    :param patience: seconds before a worker is killed
    :return: the first error that a worker reported in the meantime, e.g. one from closing its envs
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
    """Read until the worker has hung up, so that it never waits for a reader; give the first error it reported."""
    first: BaseException | None = None
    with suppress(EOFError, OSError):
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            message = pipe.recv()
            if isinstance(message, tuple):
                first = first or message[0]
    return first
