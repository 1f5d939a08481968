"""How a training ends early: after a signal, on a full disk, with a broken environment."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL
from sb3_matrl.common.callbacks import MultiAgentEvalCallback
from sb3_matrl.common.checkpoints import ResumableCheckpointCallback
from sb3_matrl.finite import NonFiniteError
from sb3_matrl.vec_env import EnvError
from zoo.runs import RunFolder


class StopOnSignal(BaseCallback):
    """
    End ``learn`` at the next step after Ctrl-C or SIGTERM; a second one interrupts at once.

    A context manager around ``learn``, which also gets it as a callback.

    :param evaluation: its evaluation at the end of training is left out when a signal came, to be quick
    """

    def __init__(self, evaluation: MultiAgentEvalCallback) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def _on_step(self) -> bool:
        if self.signal is not None:
            self.evaluation.evaluate_at_end = False
        return self.signal is None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 after Ctrl-C, 143 after SIGTERM, 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> StopOnSignal:
        # Python delivers signals to the main thread only, and only there lets them be handled.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def storage_failure(error: OSError, model: MATRL, folder: RunFolder) -> str:
    """
    Save the model if that is still possible.

    :param error: of the disk
    :param model: that was trained
    :param folder: of the run
    :return: what is lost, what is not and how to go on, in one line
    """
    try:
        model.save(folder.last_model)
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
