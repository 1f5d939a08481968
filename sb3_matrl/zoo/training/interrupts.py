"""How a training ends early: after a signal, on a full disk, with a broken environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL
from sb3_matrl.common.callbacks import ResumableCheckpointCallback
from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.vec_env import EnvError
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.signals import SignalWatch


class StopOnSignal(BaseCallback):
    """
    End ``learn`` at the next step after a signal.

    :param watch: for signals
    """

    def __init__(self, watch: SignalWatch) -> None:
        super().__init__()
        self.watch = watch

    def _on_step(self) -> bool:
        return not self.watch.is_set()


class UpdateStopped(KeyboardInterrupt):
    """A signal came in the middle of an update, of which nothing is left."""


@contextmanager
def interruptible_updates(model: MATRL, watch: SignalWatch) -> Iterator[None]:
    """
    Inside, an update of the agents ends before its next minibatch after a signal, because it may take minutes. The model
    undoes what was done of it and can be saved as it was before the rollout.

    :param model: that learns
    :param watch: for signals
    :raises UpdateStopped: out of ``learn``
    """

    def check(*_: object) -> None:
        if watch.is_set():
            raise UpdateStopped

    optimizers = [*(learner.policy.optimizer for learner in model.learners.values()), *model.coordinator.optimizers.values()]
    hooks = [optimizer.register_step_pre_hook(check) for optimizer in optimizers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def storage_failure(error: OSError, model: MATRL, folder: RunFolder, documents: Mapping[str, Any]) -> str:
    """
    Save the model if that is still possible.

    :param error: of the disk
    :param model: that was trained
    :param folder: of the run
    :param documents: saved beside the model
    :return: what is lost, what is not and how to go on, in one line
    """
    try:
        model.save(folder.last_model, documents)
        kept = f"the model after {model.resumable_timesteps} steps is saved in {folder.last_model}"
    except OSError:
        files = [file.name for file in (folder.last_model, folder.best_model) if file.is_file()]
        files += [f"{folder.checkpoints.name}/{folder.checkpoint(steps).name}" for steps in folder.checkpoint_steps()[-1:]]
        kept = f"the model after {model.num_timesteps} steps is lost; {folder.path} still has {', '.join(files) or 'no model'}"
    place = error.filename or f"a file in {folder.path}"
    # Not saved as a checkpoint: a row of the log may be lost with the error, and the run is to have all of them.
    resume = f" With more space, go on with: {folder.resume_command}" if folder.checkpoint_steps() else ""
    return f"error: cannot write {place}: {error.strerror}. The training ended; {kept}.{resume}"


def training_failure(error: EnvError | NonFiniteError, folder: RunFolder, checkpoints: ResumableCheckpointCallback) -> str:
    """
    Save the training as it was before the rollout, if it had begun.

    :param error: of the environment, or about numbers that are not finite
    :param folder: of the run
    :param checkpoints: the training's
    :return: what failed and how to go on, in one line
    """
    if checkpoints.can_save:
        checkpoints.save()
    saved = f"go on with: {folder.resume_command}" if folder.checkpoint_steps() else "nothing was trained"
    return f"error: {' '.join(str(error).split())}. The training ended; {saved}"
