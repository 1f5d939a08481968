"""Checkpoint files of a run: file names, the newest readable checkpoint, and states stored in it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.budget import check_description

PREFIX = "rl_model"


class Stateful(Protocol):
    """Object whose state belongs into a checkpoint, such as an evaluation callback."""

    def state(self) -> dict[str, Any]:
        """:return: the state in JSON types"""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """:param state: return value of :meth:`state`"""
        ...


def checkpoint_path(folder: Path, num_timesteps: int) -> Path:
    """:return: path of the checkpoint after ``num_timesteps`` steps, named as by SB3's ``CheckpointCallback``"""
    return folder / f"{PREFIX}_{num_timesteps}_steps.zip"


def checkpoint_steps(folder: Path) -> list[int]:
    """:return: steps of all checkpoints in a folder, in ascending order"""
    names = (re.fullmatch(rf"{PREFIX}_(\d+)_steps\.zip", path.name) for path in folder.glob("*.zip"))
    return sorted(int(name[1]) for name in names if name)


def latest_checkpoint(folder: Path) -> Path:
    """
    Find the newest readable checkpoint; a damaged one is skipped with a warning.

    :param folder: folder of the checkpoints
    :raises FileNotFoundError: if there is no checkpoint
    :raises ValueError: if all checkpoints are damaged
    """
    errors = []
    for steps in reversed(checkpoint_steps(folder)):
        path = checkpoint_path(folder, steps)
        try:
            read_archive(path)
        except ValueError as error:
            errors.append(str(error))
            continue
        for damage in errors:
            warnings.warn(f"{damage}; using {path.name} instead", stacklevel=2)
        return path
    if errors:
        raise ValueError(f"no checkpoint in {folder} can be read: {'; '.join(errors)}")
    raise FileNotFoundError(f"{folder} has no checkpoint")


def restore_parts(path: Path, parts: Mapping[str, Stateful]) -> None:
    """
    Restore the states of objects from a checkpoint.

    :param path: path of the checkpoint
    :param parts: name -> object, as passed to :class:`~sb3_matrl.common.callbacks.ResumableCheckpointCallback`
    :raises ValueError: if the checkpoint lacks one of the parts, or it is damaged
    """
    documents, _ = read_archive(path)
    for name, part in parts.items():
        if name not in documents:
            raise ValueError(f"{path} was saved without {name!r}; it has {', '.join(sorted(documents))}")
        try:
            check_description(documents[name], path.stat().st_size)
            part.set_state(documents[name])
        except Exception as error:  # damaged content causes many errors
            raise ValueError(f"{path} is damaged: {name}.json: {error!r}") from error
