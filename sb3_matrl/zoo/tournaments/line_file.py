"""Finished parts of a long computation as lines of JSON, from which it continues after it was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Entry of a subject -> flag that sets it, for errors.
_FLAGS = {"games_per_cell": "--games"}


class LineFile:
    """
    JSON lines: the first says what is computed, each other holds a finished part.

    A line is written at once and forced to the disk. A last line that a killed process left incomplete is dropped.

    :param path: path of the file; the folder exists
    :param subject: what is computed, in JSON's types
    :param remedy: end of the error about a file of something else, e.g. ``"choose another --out"``
    :raises ValueError: if the file is damaged, or holds parts of something else
    """

    def __init__(self, path: Path, subject: Mapping[str, Any], remedy: str) -> None:
        self.path = path
        self.parts: list[dict[str, Any]] = []
        # As JSON reads it, e.g. lists for tuples.
        wanted = json.loads(json.dumps(dict(subject)))
        if path.is_file() and path.stat().st_size:
            self._read(wanted, remedy)
        else:
            self._append(wanted)

    def _read(self, wanted: dict[str, Any], remedy: str) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = list(_parsed(self.path, content[:whole]))
        if not lines:  # killed while it wrote the first line
            os.truncate(self.path, 0)
            self._append(wanted)
            return
        differing = [key for key in {**wanted, **lines[0]} if wanted.get(key) != lines[0].get(key)]
        if differing:
            names = [_FLAGS.get(key, key) for key in differing]
            raise ValueError(f"{self.path} holds results with another {', '.join(names)}: {remedy}")
        if whole < len(content):
            os.truncate(self.path, whole)
        self.parts = lines[1:]

    def add(self, part: Mapping[str, Any]) -> None:
        """
        Append a finished part.

        :param part: values in JSON's types
        :raises OSError: if it cannot be written
        """
        self._append(part)
        self.parts.append(dict(part))

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _parsed(path: Path, content: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number} is damaged: remove the line, or the file to begin again")
        yield value
