"""Early ends of a training: signals, full disks, broken environments."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.callbacks import ResumableCheckpointCallback
from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.vec_env import EnvError
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.signals import SignalWatch


class StopOnSignal(BaseCallback):
    """
    End ``learn`` at the next step after a signal.

    :param watch: watch that receives the signals
    """

    def __init__(self, watch: SignalWatch) -> None:
        super().__init__()
        self.watch = watch

    def _on_step(self) -> bool:
        return not self.watch.is_set()


class UpdateStopped(KeyboardInterrupt):
    """A signal interrupted an update, which was undone."""


@contextmanager
def interruptible_updates(model: MultiAgentAlgorithm, watch: SignalWatch) -> Iterator[None]:
    """
    Inside, a signal interrupts an update of the agents before its next minibatch, because an update may take minutes. The
    model undoes the update and can be saved as it was before the rollout. A rollout of workers is abandoned.

    :param model: model that learns
    :param watch: watch that receives the signals
    :raises UpdateStopped: out of ``learn``
    """

    def check(*_: object) -> None:
        if watch.is_set():
            raise UpdateStopped

    model.stop_requested = watch.is_set
    hooks = [optimizer.register_step_pre_hook(check) for optimizer in model.optimizers()]
    try:
        yield
    finally:
        model.stop_requested = None
        for hook in hooks:
            hook.remove()


def storage_failure(error: OSError, model: MultiAgentAlgorithm, folder: RunFolder, documents: Mapping[str, Any]) -> str:
    """
    Save the model if that is still possible.

    :param error: error of the disk
    :param model: model that was trained
    :param folder: run folder
    :param documents: documents stored in the model's file
    :return: what is lost, what is saved and how to resume, in one line
    """
    try:
        model.save(folder.last_model, documents)
        kept = f"the model after {model.resumable_timesteps} steps is saved in {folder.last_model}"
    except OSError:
        files = [file.name for file in (folder.last_model, folder.best_model) if file.is_file()]
        files += [f"{folder.checkpoints.name}/{folder.checkpoint(steps).name}" for steps in folder.checkpoint_steps()[-1:]]
        kept = f"the model after {model.num_timesteps} steps is lost; {folder.path} still has {', '.join(files) or 'no model'}"
    place = os.fsdecode(error.filename or f"a file in {folder.path}")
    # Not saved as a checkpoint: a row of the log may be lost with the error, and a resumed run must have all of them.
    resume = f" With more space, resume with: {folder.resume_command}" if folder.checkpoint_steps() else ""
    return f"error: cannot write {place}: {error.strerror}. The training ended; {kept}.{resume}"


def training_failure(error: EnvError | NonFiniteError, folder: RunFolder, checkpoints: ResumableCheckpointCallback) -> str:
    """
    Save the training as :func:`early_end` does.

    :param error: error of the environment, or about NaN or infinite numbers
    :param folder: run folder
    :param checkpoints: checkpoint callback of the training
    :return: what failed and how to resume, in one line
    """
    return early_end(f"error: {' '.join(str(error).split())}", folder, checkpoints)


def early_end(cause: str, folder: RunFolder, checkpoints: ResumableCheckpointCallback, save: bool = True) -> str:
    """
    Save the training if it had begun: as it was before the rollout, or of off-policy algorithms as it is.

    :param cause: cause of the end
    :param folder: run folder
    :param checkpoints: checkpoint callback of the training
    :param save: whether the state is whole; otherwise the latest checkpoint stays the last one
    :return: the cause and how to resume, in one line
    """
    if save and checkpoints.can_save:
        checkpoints.save()
    nothing = "nothing was trained" if save else "there is no checkpoint"
    saved = f"resume with: {folder.resume_command}" if folder.checkpoint_steps() else nothing
    return f"{cause}. The training ended; {saved}"
