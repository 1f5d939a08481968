"""Output to a pipe whose reader may leave, as ``| head`` does."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast


class _PipeWriter(io.FileIO):
    """A file descriptor that discards what is written after its reader has closed the pipe."""

    def write(self, data: bytes) -> int | None:  # type: ignore[override]  # bytes stands for every buffer
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


@contextmanager
def output_without_reader_discarded() -> Iterator[None]:
    """Inside, a command continues when the reader of its ``sys.stdout`` or ``sys.stderr`` leaves: the output is discarded."""
    before = sys.stdout, sys.stderr
    # Streams that a caller has replaced, e.g. to capture them, stay as they are.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _tolerant(sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = _tolerant(sys.stderr)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None without a console
            stream.flush()
        sys.stdout, sys.stderr = before


def _tolerant(stream: io.TextIOWrapper) -> TextIO:
    """The stream over a :class:`_PipeWriter`, with the same descriptor, encoding and name."""
    stream.flush()
    raw = _PipeWriter(stream.fileno(), "w", closefd=False)
    raw.name = stream.name  # SB3 and tqdm recognise "<stdout>"
    return io.TextIOWrapper(
        io.BufferedWriter(cast(io.RawIOBase, raw)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
    )
