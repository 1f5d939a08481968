"""Locks of folders: the same lock as any other program's that uses filelock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from sb3_matrl.zoo.common.locking import LOCK_FILE, locked_folder


def test_a_locked_folder_is_locked_for_filelock_too(tmp_path: Path) -> None:
    other = FileLock(tmp_path / LOCK_FILE, timeout=0)
    with locked_folder(tmp_path, "is in use"), pytest.raises(Timeout):
        other.acquire()
    with other, pytest.raises(ValueError, match="is in use"), locked_folder(tmp_path, "is in use"):
        pass
    with locked_folder(tmp_path, "is in use"):  # and it is free again
        pass


def test_the_holder_is_named(tmp_path: Path) -> None:
    for _ in range(2):  # the number is not added to that of an earlier holder
        with locked_folder(tmp_path / "new", "is in use"):
            with pytest.raises(ValueError) as error_info, locked_folder(tmp_path / "new", "is in use"):
                pass
            assert str(error_info.value) == f"{tmp_path / 'new'} is in use (process {os.getpid()})"


def test_a_holder_without_a_number_is_not_named(tmp_path: Path) -> None:
    with FileLock(tmp_path / LOCK_FILE), pytest.raises(ValueError, match=r"is in use$"), locked_folder(tmp_path, "is in use"):
        pass


def test_a_folder_without_write_permission_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locked_folder(tmp_path / "file", "is in use"):
        pass
