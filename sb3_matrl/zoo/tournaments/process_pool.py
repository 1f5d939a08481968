"""Worker processes that compute parts of a whole; they end when their parent does, in whatever way."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from sb3_matrl.zoo.common.signals import Interrupted, SignalWatch

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.5
# Parts that wait in the queue of a process.
_AHEAD = 4


@contextmanager
def worker_processes(
    jobs: int, set_up: Callable[..., None], arguments: Sequence[Any], watch: SignalWatch
) -> Iterator[Callable[[Callable[[T], R], Sequence[T]], Iterator[tuple[T, R]]]]:
    """
    Context manager that starts processes and ends them.

    :param jobs: number of processes
    :param set_up: function called first in every process
    :param arguments: its arguments
    :param watch: signals that end the computation
    :return: function of a function and its arguments that yields each argument with the value there, in any order
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (set_up, tuple(arguments)))
    try:
        yield lambda function, parts: _compute(pool, jobs, function, parts, watch)
    finally:
        # A part may take minutes, and is computed anew.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _compute(
    pool: ProcessPoolExecutor, jobs: int, function: Callable[[T], R], parts: Sequence[T], watch: SignalWatch
) -> Iterator[tuple[T, R]]:
    waiting, active = iter(parts), dict[Future[R], T]()
    while True:
        for part in itertools.islice(waiting, jobs * _AHEAD - len(active)):
            active[pool.submit(function, part)] = part
        if not active:
            return
        done, _ = wait(active, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        if watch.received is not None:
            raise Interrupted(watch.received)
        for future in done:
            yield active.pop(future), future.result()


def _begin(set_up: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The start of a process; Ctrl-C reaches it, too, but its parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
