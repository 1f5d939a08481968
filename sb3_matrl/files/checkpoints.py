"""
Checkpoint files of a run: file names, the newest readable checkpoint, and states stored in it.

A checkpoint of an off-policy algorithm has a second file with the replay buffer, which the model's file names. The buffer is
written first, and under a name of its own, so that a model never refers to the buffer of another time.
"""

from __future__ import annotations

import re
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sb3_matrl.files.archive import check_archive, read_archive
from sb3_matrl.files.budget import check_description

PREFIX = "rl_model"
#: Document of a model's file that names its replay buffer.
BUFFER_DOCUMENT = "replay_buffer"
_BUFFER_NAME = re.compile(rf"{PREFIX}_replay_buffer_(\d+)_steps_[0-9a-f]{{8}}\.zip")


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


def new_buffer_path(folder: Path, num_timesteps: int) -> Path:
    """:return: unused path for the replay buffer of the checkpoint after ``num_timesteps`` steps"""
    return folder / f"{PREFIX}_replay_buffer_{num_timesteps}_steps_{secrets.token_hex(4)}.zip"


def buffer_document(buffer: Path) -> dict[str, Any]:
    """:return: document of a model's file that names its replay buffer"""
    return {BUFFER_DOCUMENT: {"file": buffer.name}}


def buffers(folder: Path) -> dict[Path, int]:
    """:return: replay buffer in a folder -> steps of its checkpoint"""
    names = ((path, _BUFFER_NAME.fullmatch(path.name)) for path in sorted(folder.glob("*.zip")))
    return {path: int(name[1]) for path, name in names if name}


def buffer_of(model: Path) -> Path | None:
    """
    Replay buffer to which a model's file refers.

    :param model: path of the model: a checkpoint, or a file in the folder above
    :return: path of the buffer in the model's folder, else in the folder ``checkpoints`` below it; ``None`` for a model that
        was saved without one
    :raises FileNotFoundError: if the buffer is not there
    :raises ValueError: if the model's file is damaged
    """
    document = read_archive(model)[0].get(BUFFER_DOCUMENT)
    if document is None:
        return None
    name = document.get("file") if isinstance(document, dict) else None
    # A plain name: a file of somebody else must not lead to any place of the disk.
    if not isinstance(name, str) or not _BUFFER_NAME.fullmatch(name):
        raise ValueError(f"{model} is damaged: {BUFFER_DOCUMENT}.json names no replay buffer: {document!r:.100}")
    for folder in (model.parent, model.parent / "checkpoints"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"the replay buffer {name} of {model} is missing")


def latest_checkpoint(folder: Path) -> Path:
    """
    Find the newest readable checkpoint; a damaged one, or one whose replay buffer is missing or damaged, is skipped with a
    warning.

    :param folder: folder of the checkpoints
    :raises FileNotFoundError: if there is no checkpoint
    :raises ValueError: if all checkpoints are damaged
    """
    errors = []
    for steps in reversed(checkpoint_steps(folder)):
        path = checkpoint_path(folder, steps)
        try:
            buffer = buffer_of(path)
            if buffer is not None:
                check_archive(buffer)
        except (ValueError, FileNotFoundError) as error:
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
