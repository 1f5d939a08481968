"""Checkpoints from which a training goes on as if it had never stopped."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.common.archive import read_archive

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


class ResumableCheckpointCallback(BaseCallback):
    """
    Save the whole training between two iterations, and at its end.

    The first of a list of callbacks: what it saves is then the state before the others act at the same point. A checkpoint is
    written under a temporary name and renamed, so a killed process leaves only whole ones.

    :param folder: for the checkpoints; of those up to the current step all but the last ``keep`` are removed
    :param save_freq: joint steps between two checkpoints; 0 or less: not by steps
    :param every_minutes: minutes between two; ``None``: not by the clock
    :param keep: how many to keep; 0 for all
    :param parts: name -> whatever else has a state, stored in the checkpoint as ``<name>.json``
    :param documents: name -> value in JSON types, stored likewise
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        save_freq: int,
        every_minutes: float | None = None,
        keep: int = 0,
        parts: Mapping[str, Stateful] | None = None,
        documents: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.save_freq = save_freq
        self.every_seconds = None if every_minutes is None else 60.0 * every_minutes
        self.keep = keep
        self.parts = dict(parts or {})
        self.documents = dict(documents or {})
        self._saved_steps = 0
        self._saved_at = 0.0
        # An env may fail when the training is only being set up: then there is no state yet.
        self.can_save = False

    def _on_training_start(self) -> None:
        self._saved_steps, self._saved_at = self.model.num_timesteps, time.monotonic()

    def _on_rollout_start(self) -> None:
        self.can_save = True
        steps = self.model.num_timesteps
        by_steps = self.save_freq > 0 and steps // self.save_freq > self._saved_steps // self.save_freq
        by_clock = self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        if by_steps or by_clock:
            self.save()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.save()

    def save(self) -> Path:
        """
        Save now.

        :return: the checkpoint
        :raises OSError: when it cannot be written; older checkpoints are as they were
        """
        model: Any = self.model
        self.folder.mkdir(parents=True, exist_ok=True)
        path = checkpoint_path(self.folder, model.resumable_timesteps)
        model.save(path, {**self.documents, **{name: part.state() for name, part in self.parts.items()}})
        self._saved_steps, self._saved_at = model.num_timesteps, time.monotonic()
        if self.keep > 0:
            self._remove_old(model.resumable_timesteps)
        return path

    def _remove_old(self, current: int) -> None:
        # Later ones can only be damaged ones that a resumed training did not use: they must not push out a good one.
        for steps in [steps for steps in checkpoint_steps(self.folder) if steps <= current][: -self.keep]:
            checkpoint_path(self.folder, steps).unlink(missing_ok=True)


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
