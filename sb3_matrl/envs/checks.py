"""Checks of environment options: each raises a ValueError that names the option, what it must be and what it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from sb3_matrl.common.suggest import unknown


def is_finite_number(value: Any) -> bool:
    """Whether ``value`` is a real number (a bool is not) other than infinity and NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_number(name: str, value: Any) -> None:
    """
    :param name: the option
    :param value: what it was set to
    :raises ValueError: unless ``value`` is a finite number
    """
    if not is_finite_number(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_numbers(name: str, values: Any, count: int) -> None:
    """
    :param name: the option
    :param values: what it was set to
    :param count: how many numbers it must hold, one per agent
    :raises ValueError: unless ``values`` is a list or tuple of ``count`` finite numbers
    """
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_sequence or len(values) != count or not all(map(is_finite_number, values)):
        raise ValueError(f"{name} must be {count} finite numbers, one per agent in order, got {values!r}")


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """
    :param name: the option
    :param value: what it was set to
    :param low: smallest valid value
    :param high: largest valid value; ``None`` for no limit
    :raises ValueError: unless ``value`` is an integer within the limits
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """
    :param name: the option
    :param value: what it was set to
    :raises ValueError: unless ``value`` is ``True`` or ``False`` (the text ``"False"`` would count as true)
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """
    :param name: the option
    :param value: what it was set to
    :param choices: the valid values
    :raises ValueError: unless ``value`` is one of ``choices``
    """
    if value not in choices:
        raise ValueError(unknown(name, value, choices))
