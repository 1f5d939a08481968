"""Seconds of training from a log whose clock begins at 0 again when a run is resumed."""

from __future__ import annotations

import numpy as np

STEPS, SECONDS, SPEED = "time/total_timesteps", "time/time_elapsed", "time/fps"


def training_seconds(steps: np.ndarray, clock: np.ndarray, speed: np.ndarray | None = None) -> np.ndarray:
    """
    Seconds of the whole training at every row of a log.

    A row begins another process if the clock is behind that of the row before, or if the steps of the process, which clock and
    speed give up to their rounding, began later.

    :param steps: environment steps, shape (k,)
    :param clock: whole seconds since the process began, shape (k,)
    :param speed: whole steps per second since then, shape (k,), NaN where unknown; ``None`` for unknown
    :return: shape (k,)
    """
    before = np.concatenate([[0.0], clock[:-1]]) if len(clock) else clock
    resumed = clock < before
    if speed is not None and len(clock):
        earliest, latest = steps - (speed + 1.0) * (clock + 1.0), steps - speed * clock
        resumed[1:] |= earliest[1:] > latest[:-1]
    return np.asarray(clock + np.cumsum(np.where(resumed, before, 0.0)))
