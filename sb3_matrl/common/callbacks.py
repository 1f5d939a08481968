"""Callbacks for every multi-agent algorithm; SB3's own (stopping rules, ...) work as they are."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EventCallback

from sb3_matrl.files.checkpoints import (
    Stateful,
    buffer_document,
    buffers,
    checkpoint_path,
    checkpoint_steps,
    new_buffer_path,
)

# Number of the latest checkpoints whose replay buffers are kept: the second one is for a damaged latest one.
KEPT_BUFFERS = 2


class StopTraining(Exception):
    """Raised by a callback at the start of a rollout: the training ends before another step, as if this were its end."""


class ResumableCheckpointCallback(BaseCallback):
    """
    Save the whole training between two iterations, and at its end.

    Put it first in a list of callbacks, so that it saves the state before the others act. A checkpoint is written under a
    temporary name and renamed, so a killed process leaves only complete ones. That of an off-policy algorithm consists of two
    files, the replay buffer and the model, which refers to it; the buffers of the two latest checkpoints are kept.

    :param folder: folder of the checkpoints; of those up to the current step all but the last ``keep`` are removed
    :param save_freq: joint steps between two checkpoints; 0 or less for none by steps
    :param every_minutes: minutes between two checkpoints; ``None`` for none by the clock
    :param keep: number of checkpoints to keep; 0 for all
    :param parts: name -> object with a state of its own, stored in the checkpoint as ``<name>.json``
    :param documents: name -> value in JSON types, stored in the checkpoint as ``<name>.json``
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
        # Document of the latest checkpoint that names its replay buffer; empty for algorithms without one.
        self.buffer: dict[str, Any] = {}
        # There is no state yet if an env fails while the training is being set up.
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
        Save a checkpoint now.

        :return: path of the checkpoint
        :raises OSError: if it cannot be written; older checkpoints are kept
        """
        model: Any = self.model
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = model.resumable_timesteps
        path = checkpoint_path(self.folder, steps)
        documents = {**self.documents, **{name: part.state() for name, part in self.parts.items()}}
        if has_replay_buffer(model):
            self._save_pair(path, new_buffer_path(self.folder, steps), documents)
        else:
            model.save(path, documents)
        self._saved_steps, self._saved_at = model.num_timesteps, time.monotonic()
        if self.keep > 0:
            self._remove_old(steps)
        return path

    def _save_pair(self, path: Path, buffer: Path, documents: Mapping[str, Any]) -> None:
        """Save the replay buffer, then the model that refers to it, then remove buffers that are no longer needed."""
        model: Any = self.model
        named = buffer_document(buffer)
        try:
            model.save_replay_buffer(buffer)
            model.save(path, {**documents, **named})
        except OSError:  # a full disk needs the space; after other errors the model may have been written
            buffer.unlink(missing_ok=True)
            raise
        self.buffer = named
        current = model.resumable_timesteps
        kept = [steps for steps in checkpoint_steps(self.folder) if steps <= current][-KEPT_BUFFERS:]
        for old, steps in buffers(self.folder).items():
            if old != buffer and (steps == current or (steps < current and steps not in kept)):
                old.unlink(missing_ok=True)

    def _remove_old(self, current: int) -> None:
        # Later ones are damaged ones that a resumed training did not use: they must not replace a good one.
        for steps in [steps for steps in checkpoint_steps(self.folder) if steps <= current][: -self.keep]:
            checkpoint_path(self.folder, steps).unlink(missing_ok=True)


def has_replay_buffer(model: object) -> bool:
    """Whether an algorithm learns from a replay buffer, which its checkpoints then hold."""
    return hasattr(model, "save_replay_buffer")


def __getattr__(name: str) -> Any:
    """The evaluation callback under its path in version 0.1."""
    if name != "MultiAgentEvalCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"import {name} from sb3_matrl.evaluation", DeprecationWarning, stacklevel=2)
    return getattr(import_module("sb3_matrl.evaluation"), name)


def reject_single_agent_evaluation(callback: BaseCallback | None) -> None:
    """
    Find SB3's evaluation among callbacks.

    :param callback: callback, or a list or tree of callbacks
    :raises TypeError: if one is SB3's EvalCallback, which evaluates one agent
    """
    if isinstance(callback, EvalCallback) and type(callback)._on_step is EvalCallback._on_step:
        raise TypeError(
            "SB3's EvalCallback evaluates one agent: use sb3_matrl.evaluation.MultiAgentEvalCallback with a separate "
            "environment"
        )
    if isinstance(callback, CallbackList):
        for each in callback.callbacks:
            reject_single_agent_evaluation(each)
    elif isinstance(callback, EventCallback):
        reject_single_agent_evaluation(callback.callback)
