"""Stopping a training politely."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.common.callbacks import MultiAgentEvalCallback


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
