"""Output formats of SB3's logger: a shorter table on the screen, and files whose errors have names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, make_output_format

TABLE_WIDTH = 72


class ScreenTable(HumanOutputFormat):
    """
    SB3's table on the screen, without what the agents' learners say about themselves.

    :param agents: keys that begin with one of these names are left out, except the agents' returns
    """

    def __init__(self, agents: Iterable[str]) -> None:
        # Wider than SB3's 36, which cuts off (and then refuses) long names of agents.
        super().__init__(sys.stdout, max_length=TABLE_WIDTH)
        self._hidden = tuple(f"{agent}/" for agent in agents)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Print the keys that are shown."""
        shown = [key for key in key_values if not key.startswith(self._hidden) or key.endswith("/ep_rew_mean")]
        super().write({key: key_values[key] for key in shown}, {key: key_excluded[key] for key in shown}, step)


class FileFormat(KVWriter):
    """
    One of SB3's output formats whose errors say where it could not write: those of a full disk do not by themselves.

    :param kind: ``"csv"`` or ``"tensorboard"``
    :param folder: of its files
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self._format = make_output_format(kind, str(folder))
        self._place = folder / "progress.csv" if kind == "csv" else folder
        self._failed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        Write one row.

        :raises OSError: with the file's name, or the folder's
        """
        with self._named_errors():
            self._format.write(key_values, key_excluded, step)

    def close(self) -> None:
        """Close the file; after an error, without telling once more what is lost."""
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
