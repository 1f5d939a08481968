"""Folders that one process at a time works in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from multiprocessing.util import register_after_fork
from pathlib import Path

LOCK_FILE = ".lock"


@contextmanager
def locked_folder(path: Path, in_use: str) -> Iterator[int]:
    """
    Have a folder for this process alone. The system gives it free when the process ends, however it ends.

    Processes that get the descriptor hold the lock, too. Workers of :mod:`multiprocessing` do not: one that is left over from
    a killed process keeps nobody waiting.

    :param path: of the folder, made if need be
    :param in_use: said of a folder that another process has, e.g. ``"is in use by another benchmark"``
    :return: descriptor that holds the lock
    :raises ValueError: when another process has it
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} {in_use}{_holder(file)}") from None
        register_after_fork(file, TextIOWrapper.close)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _holder(file: TextIOWrapper) -> str:
    """Who locked it; nothing where it has not yet said so."""
    file.seek(0)
    pid = file.read().strip()
    return f" (process {pid})" if pid.isdecimal() else ""
