"""Locks for folders that one process at a time may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from multiprocessing.util import register_after_fork
from pathlib import Path

from filelock import lock_descriptor

LOCK_FILE = ".lock"


@contextmanager
def locked_folder(path: Path, in_use: str) -> Iterator[int]:
    """
    Lock a folder for this process. The system releases the lock when the process ends, in whatever way.

    Processes that inherit the descriptor hold the lock, too. Workers of :mod:`multiprocessing` do not, so that those left by
    a killed process lock nothing.

    :param path: path of the folder, which is created if needed
    :param in_use: message about a folder that is locked, e.g. ``"is in use by another benchmark"``
    :return: descriptor that holds the lock
    :raises ValueError: if another process has locked the folder
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK_FILE).open("a+b", buffering=0) as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            raise ValueError(f"{path} {in_use}{_holder(file)}")
        register_after_fork(file, FileIO.close)
        file.truncate(0)
        # Windows locks the first byte, which other processes then cannot read.
        file.write(b"\n%d" % os.getpid())
        yield file.fileno()


def _holder(file: FileIO) -> str:
    """Process that locked the folder; empty if it has not written its number yet."""
    file.seek(1)
    pid = file.read().decode(errors="replace")
    return f" (process {pid})" if pid.isdecimal() else ""
