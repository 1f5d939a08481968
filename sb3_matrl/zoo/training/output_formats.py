"""SB3's logger with a state for checkpoints, and its output formats: files that can be continued."""

from __future__ import annotations

import csv
import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    Figure,
    FormatUnsupportedError,
    HParam,
    Image,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    Video,
    filter_excluded_keys,
)
from torch.utils.tensorboard import SummaryWriter

from sb3_matrl.files.argument_codec import argument_from_json, argument_to_json
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.training.tracking import Tracker


class CsvTable(CSVOutputFormat):
    """
    SB3's CSV file, which continues an existing file, and loses no complete row when the process is killed: new columns are
    written to a new file that replaces the old one. Every row is one line: line breaks in names and texts are written as
    ``\\n`` and ``\\r``.

    :param path: path of the file
    """

    def __init__(self, path: Path) -> None:
        super().__init__(os.devnull)
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.keys, lines = self._read()
        self.n_rows = len(lines)
        self._open()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Append one row, and columns for its new keys.

        :raises FormatUnsupportedError: if a value is a video, figure, image or table of hyper-parameters
        """
        written = {_one_line(key): value for key, value in filter_excluded_keys(key_values, key_excluded, "csv").items()}
        for kind in (Video, Figure, Image, HParam):
            if any(isinstance(value, kind) for value in written.values()):
                raise FormatUnsupportedError(["csv"], kind.__name__.lower())
        new = sorted(written.keys() - set(self.keys))
        if new:
            self._replace([*self.keys, *new], [line + self.separator * len(new) for line in self._read()[1]])
        values = (written.get(key) for key in self.keys)
        self.file.write(_csv_line(["" if value is None else _one_line(str(value)) for value in values]))
        self.file.flush()
        self.n_rows += 1

    def cut(self, n_rows: int) -> None:
        """
        Remove all but the first rows; warn if there are fewer.

        :param n_rows: number of rows to keep
        """
        keys, lines = self._read()
        if len(lines) < n_rows:
            warnings.warn(f"{self.path} has only {len(lines)} of its {n_rows} rows; the others are lost", stacklevel=2)
        self._replace(keys, lines[:n_rows])
        self.n_rows = min(len(lines), n_rows)

    def sync(self) -> None:
        """Flush the rows to the disk, so that they are as safe as a checkpoint."""
        os.fsync(self.file.fileno())

    def _read(self) -> tuple[list[str], list[str]]:
        """Columns and complete rows as they are written; an incomplete last row is left out."""
        header, *lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] or [""]
        return next(csv.reader([header]), []), lines

    def _replace(self, keys: Sequence[str], lines: Sequence[str]) -> None:
        with atomic_file(self.path) as file:
            file.write(_csv_line(keys).encode())
            file.writelines(f"{line}\n".encode() for line in lines)
        self.keys = list(keys)
        self._open()

    def _open(self) -> None:
        self.file.close()
        self.file = self.path.open("a", encoding="utf-8")


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _csv_line(cells: Sequence[str]) -> str:
    """One line of CSV, in quotes where needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class EventFile(TensorBoardOutputFormat):
    """
    SB3's files for TensorBoard.

    :param folder: folder of the files
    :param purge_step: step from which TensorBoard hides rows of earlier files; ``None`` hides nothing
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._is_closed = False


@contextmanager
def event_file_errors_printed_once() -> Iterator[None]:
    """Inside, TensorBoard's thread prints no traceback of a failed write: the next row raises the same error."""
    before = threading.excepthook

    def excepthook(failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__name__ != "_AsyncWriterThread" or not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = excepthook
    try:
        yield
    finally:
        threading.excepthook = before


class FileFormat(KVWriter):
    """
    An output format whose errors name the file that could not be written, which those of a full disk do not.

    :param output: the format
    :param place: its file or folder
    """

    def __init__(self, output: KVWriter, place: Path) -> None:
        self._format = output
        self._place = place
        self._failed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Write one row.

        :raises OSError: if the row cannot be written; names the file or folder
        """
        with self._named_errors():
            self._format.write(key_values, key_excluded, step)

    def close(self) -> None:
        """Close the file; after an error in :meth:`write`, without another one."""
        with suppress(OSError) if self._failed else self._named_errors():
            self._format.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            error.filename = error.filename or str(self._place)
            raise


class RunLogger(Logger):
    """
    SB3's logger with a state for checkpoints: the number of rows in its table, and the values not yet written.

    :param folder: path of the run folder
    :param output_formats: all output formats, including that of the table
    :param table: CSV file of all rows
    """

    def __init__(self, folder: str, output_formats: list[KVWriter], table: CsvTable) -> None:
        super().__init__(folder, output_formats)
        self._table = table

    def state(self) -> dict[str, Any]:
        """:return: number of rows and the values since the last one, in JSON types; pictures and the like are left out"""
        self._table.sync()
        values = {key: _scalar_to_json(value) for key, value in self.name_to_value.items() if isinstance(value, np.ScalarType)}
        return {
            "n_rows": self._table.n_rows,
            "values": values,
            "counts": {key: self.name_to_count[key] for key in values if key in self.name_to_count},
            "excluded": {key: list(self.name_to_excluded[key]) for key in values},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state of a checkpoint: rows that came after it are removed from the table.

        :param state: result of :meth:`state`
        """
        self._table.cut(state["n_rows"])
        self.name_to_value.clear()
        self.name_to_value.update({key: _scalar_from_json(value) for key, value in state["values"].items()})
        self.name_to_count.clear()
        self.name_to_count.update(state["counts"])
        self.name_to_excluded = {key: tuple(value) for key, value in state["excluded"].items()}


def _scalar_to_json(value: Any) -> Any:
    """NumPy's numbers become 0-d arrays, which keep their types: NumPy prints other digits than Python."""
    return argument_to_json(np.array(value) if isinstance(value, np.generic) else value)


def _scalar_from_json(data: Any) -> Any:
    value = argument_from_json(data)
    return value[()] if isinstance(value, np.ndarray) else value


def make_logger(
    folder: RunFolder, events: Path, purge_step: int | None, screen: KVWriter | None, tracker: Tracker | None
) -> RunLogger:
    """
    SB3's logger with the outputs of a run; an existing CSV file is continued.

    :param folder: run folder, for the CSV file
    :param events: folder of TensorBoard's files
    :param purge_step: step from which TensorBoard hides earlier rows; ``None`` hides nothing
    :param screen: table on the screen, or ``None``
    :param tracker: W&B, or ``None``
    """
    table = CsvTable(folder.progress)
    formats: list[KVWriter] = [FileFormat(table, table.path), FileFormat(EventFile(events, purge_step), events)]
    if screen is not None:
        formats.append(screen)
    if tracker is not None:
        formats.append(tracker.writer())
    return RunLogger(str(folder.path), formats, table)
