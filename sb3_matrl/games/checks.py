"""Checks of options that several learners share."""

import math
from numbers import Real


def check_positive(name: str, value: object) -> None:
    """
    :param name: of the option, for the message
    :param value: its value
    :raises ValueError: when it is no finite number above zero
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
