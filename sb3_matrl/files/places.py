"""Where files are read from and written to: a path, or a binary file that the user has opened, as SB3 takes them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from sb3_matrl.utils.atomic_file import atomic_file

#: What users give: a path, or an open binary file such as ``io.BytesIO``.
UserFile: TypeAlias = str | Path | io.BufferedIOBase
#: Path of a file, or an open binary file.
Place: TypeAlias = Path | io.BufferedIOBase


def zip_path(path: str | Path) -> Path:
    """The path with ``.zip`` where it has no suffix, as in SB3."""
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")


def place_of(given: Any) -> Place:
    """
    :param given: path, or open binary file
    :return: the path with ``.zip`` where it has no suffix, or the file
    :raises TypeError: if it is neither
    """
    if isinstance(given, (str, os.PathLike)):
        return zip_path(Path(given))
    if isinstance(given, io.BufferedIOBase):
        return given
    raise TypeError(f"expected a path, or a file that is open in binary mode such as io.BytesIO(), got {given!r}")


def name_of(place: object) -> str:
    """:return: the path, or words for an open file, for error messages"""
    return str(getattr(place, "name", "the given file") if isinstance(place, io.BufferedIOBase) else place)


def check_exists(place: Place, what: str) -> None:
    """
    :param place: where something is to be read from
    :param what: what it is, for the error
    :raises FileNotFoundError: if there is no such file
    """
    if isinstance(place, Path) and not place.is_file():
        folder = place.with_suffix("")
        files = sorted(folder.glob("*.zip")) if folder.is_dir() else []
        inside = f", but {folder} is a folder with {', '.join(file.name for file in files)}" if files else ""
        raise FileNotFoundError(f"no {what} at {place}{inside}")


def size_of(place: Place) -> int:
    """:return: bytes of a file; one that is open is read to its end"""
    return place.stat().st_size if isinstance(place, Path) else place.seek(0, io.SEEK_END)


@contextmanager
def reading(place: Place) -> Iterator[IO[bytes]]:
    """
    Open a file for reading; one that the user has opened stays open.

    :param place: path or open file
    """
    if isinstance(place, Path):
        with place.open("rb") as file:
            yield file
    else:
        yield place  # type: ignore[misc]  # what zipfile needs of IO[bytes], it has


@contextmanager
def writing(place: Place) -> Iterator[IO[bytes]]:
    """
    Write a file atomically, see :class:`~sb3_matrl.utils.atomic_file.atomic_file`; to one that the user has opened the bytes
    are written from its position on, and it stays open.

    :param place: path, whose folder is made, or open file
    :raises ValueError: if an open file is not open for writing
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as file:
            yield file
    elif not place.writable():
        raise ValueError(f"{name_of(place)} is not open for writing: open it with mode 'wb'")
    else:
        yield place  # type: ignore[misc]
