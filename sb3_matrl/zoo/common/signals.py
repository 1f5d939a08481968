"""Ctrl-C and SIGTERM: the first is noted, so that the program can stop where that is safe; the second interrupts at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """
    A signal that interrupts at once.

    :param number: number of the signal
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """Exit code of shells: 128 plus the number of the signal, by default that of Ctrl-C."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


class SignalWatch:
    """Context manager that notes the first Ctrl-C or SIGTERM; a second one interrupts."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._waits = True
        self._previous: dict[signal.Signals, Any] = {}

    def is_set(self) -> bool:
        """Whether a signal was received."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """Exit code of shells: 130 after Ctrl-C, 143 after SIGTERM, 0 without a signal."""
        return 0 if self.received is None else 128 + self.received

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """
        Inside, the first signal interrupts, too: for work that may stop anywhere.

        :raises Interrupted: on a signal, or on entry if there was one before
        """
        self._waits = False
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self._waits = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first, self.received = self.received is None, signal.Signals(number)
        if not (is_first and self._waits):
            raise Interrupted(self.received)

    def __enter__(self) -> SignalWatch:
        # Python delivers signals to the main thread only, and only that thread may set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
