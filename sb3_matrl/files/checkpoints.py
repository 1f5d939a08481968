"""Checkpoint files of a run: their names, the newest one that can be read, and what else they hold."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sb3_matrl.files.archive import read_archive

PREFIX = "rl_model"


class Stateful(Protocol):
    """What has a state of its own that belongs to a checkpoint, such as an evaluation's history."""

    def state(self) -> dict[str, Any]:
        """:return: the state in JSON types"""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """:param state: as :meth:`state` returned it"""
        ...


def checkpoint_path(folder: Path, num_timesteps: int) -> Path:
    """:return: the checkpoint after so many steps, named as SB3's ``CheckpointCallback`` does"""
    return folder / f"{PREFIX}_{num_timesteps}_steps.zip"


def checkpoint_steps(folder: Path) -> list[int]:
    """:return: steps of all checkpoints in a folder, rising"""
    names = (re.fullmatch(rf"{PREFIX}_(\d+)_steps\.zip", path.name) for path in folder.glob("*.zip"))
    return sorted(int(name[1]) for name in names if name)


def latest_checkpoint(folder: Path) -> Path:
    """
    The newest checkpoint that can be read; of a damaged one it is said that the one before is used.

    :param folder: of the checkpoints
    :raises FileNotFoundError: when there is none
    :raises ValueError: when all are damaged
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
    Bring everything that has a state of its own to where it was at a checkpoint.

    :param path: of the checkpoint
    :param parts: as :class:`ResumableCheckpointCallback` had them
    :raises ValueError: when the checkpoint lacks one of them
    """
    documents, _ = read_archive(path)
    for name, part in parts.items():
        if name not in documents:
            raise ValueError(f"{path} was saved without {name!r}; it has {', '.join(sorted(documents))}")
        part.set_state(documents[name])
