"""Snapshots of a training: models at evenly spaced steps, which are kept for cross-play."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.files.checkpoints import checkpoint_path, checkpoint_steps
from sb3_matrl.zoo.common.run_folder import RunFolder


def snapshot_folder(folder: RunFolder) -> Path:
    """Folder of a run's snapshots, whose files are named as checkpoints are."""
    return folder.path / "snapshots"


class SnapshotCallback(BaseCallback):
    """
    Save the model between two iterations, after each of n equal parts of a training; the last one at its end.

    Snapshots are in a folder of their own, from which nothing is removed. A resumed training saves those that are missing.

    :param folder: folder of the snapshots
    :param count: number of snapshots n
    :param start: steps of the model before the training
    :param total: steps of the model at the end of the training
    :param documents: name -> value in JSON types, stored in every snapshot
    """

    def __init__(self, folder: Path, count: int, start: int, total: int, documents: Mapping[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        self.count = count
        self.start = start
        self.total = total
        self.documents = documents
        self._seen = 0

    def _on_rollout_start(self) -> None:
        self._save_if_due()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._save_if_due()

    def _save_if_due(self) -> None:
        model: Any = self.model
        steps = model.resumable_timesteps
        part = min((steps - self.start) * self.count // max(self.total - self.start, 1), self.count)
        if part <= self._seen:
            return
        self._seen = part
        # Rounded up: the first whole number of steps that belongs to the part.
        due = self.start - (-part * (self.total - self.start)) // self.count
        if not any(due <= saved <= steps for saved in checkpoint_steps(self.folder)):
            self.folder.mkdir(parents=True, exist_ok=True)
            model.save(checkpoint_path(self.folder, steps), self.documents)
