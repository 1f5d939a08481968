"""Atomic file writes: a file is replaced only once its new content is on disk."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any


class atomic_file:
    """
    Context manager that writes a binary file to a temporary name and renames it to ``path`` on success.

    After an error the old file is left as it was. An ``OSError`` (a full disk, for example) names ``path``.

    :param path: path of the finished file
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> io.BufferedRandom:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp")
        self._temporary = Path(name)
        self._file = os.fdopen(handle, "w+b")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError):
            error.filename = error.filename or str(self.path)
        try:
            self._finish(kind)
        except OSError as failure:
            failure.filename = failure.filename or str(self.path)
            raise

    def _finish(self, kind: type[BaseException] | None) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                # mkstemp makes files private; give the permissions that open() would have given.
                umask = os.umask(0)
                os.umask(umask)
                self._temporary.chmod(0o666 & ~umask)
                self._temporary.replace(self.path)
        finally:
            try:
                self._file.close()  # flushes the buffer, which fails on a full disk
            finally:
                self._temporary.unlink(missing_ok=True)
