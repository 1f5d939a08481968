"""SB3's arguments about collection that have several forms: ``train_freq`` and ``replay_buffer_kwargs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_matrl.utils.suggest import unknown


def parse_train_freq(value: Any) -> TrainFreq:
    """
    SB3's ``train_freq``.

    :param value: a number of steps, or a tuple of a number and ``"step"`` or ``"episode"``
    :raises ValueError: if it is neither
    """
    number, unit = tuple(value) if isinstance(value, (tuple, list)) and len(value) == 2 else (value, "step")
    unit = unit.value if isinstance(unit, TrainFrequencyUnit) else unit
    units = [one.value for one in TrainFrequencyUnit]
    if unit not in units or isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise ValueError(
            f"train_freq must be a number of steps of at least 1, or (number, 'step' or 'episode'), got {value!r}"
        )
    return TrainFreq(int(number), TrainFrequencyUnit(unit))


def handles_timeouts(kwargs: Mapping[str, Any] | None) -> bool:
    """
    ``handle_timeout_termination`` of the replay buffer's arguments.

    :param kwargs: ``replay_buffer_kwargs``
    :raises ValueError: if there is anything else, or it is no bool
    """
    given = dict(kwargs or {})
    value = given.pop("handle_timeout_termination", True)
    if given:
        raise ValueError(f"replay_buffer_kwargs: {unknown('argument', next(iter(given)), ['handle_timeout_termination'])}")
    if not isinstance(value, bool):
        raise ValueError(f"handle_timeout_termination must be True or False, got {value!r}")
    return value
