"""Ending worker processes in order, and telling why one fell silent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def silent_workers() -> Iterator[None]:
    """
    Say what it means when a worker process does not answer.

    :raises RuntimeError: in place of the pipe's error
    """
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            "a worker process of the env ended without a message: it was killed (out of memory?) or crashed. "
            "vec_env='dummy' runs the env in this process, where the cause may show"
        ) from error


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
