"""Checks of environment options; errors name the option, the expected and the actual value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from sb3_matrl.utils.suggest import unknown


def is_finite_number(value: Any) -> bool:
    """Whether ``value`` is a real number (a bool is not) other than infinity and NaN."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_number(name: str, value: Any) -> None:
    """
    Check that an option is a finite number.

    :param name: name of the option, for the message
    :param value: value of the option
    :raises ValueError: unless ``value`` is a finite number
    """
    if not is_finite_number(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_numbers(name: str, values: Any, count: int) -> None:
    """
    Check that an option is a sequence of finite numbers.

    :param name: name of the option, for the message
    :param values: value of the option
    :param count: expected number of values, one per agent
    :raises ValueError: unless ``values`` is a list or tuple of ``count`` finite numbers
    """
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_sequence or len(values) != count or not all(map(is_finite_number, values)):
        raise ValueError(f"{name} must be {count} finite numbers, one per agent in order, got {values!r}")


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """
    Check that an option is an integer within limits.

    :param name: name of the option, for the message
    :param value: value of the option
    :param low: smallest valid value
    :param high: largest valid value; ``None`` for no limit
    :raises ValueError: unless ``value`` is an integer within the limits
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")


def check_distinct_integers(name: str, values: Any, low: int, high: int) -> None:
    """
    Check that an option is a list of distinct integers within limits.

    :param name: name of the option, for the message
    :param values: value of the option
    :param low: smallest valid integer
    :param high: largest valid integer
    :raises ValueError: unless ``values`` is a non-empty list or tuple of distinct integers within the limits
    """
    if not isinstance(values, list | tuple) or not values or len(set(map(repr, values))) < len(values):
        raise ValueError(f"{name} must be a list of different integers from {low} to {high}, got {values!r}")
    for value in values:
        check_integer(f"each of {name}", value, low, high)


def check_flag(name: str, value: Any) -> None:
    """
    Check that an option is ``True`` or ``False``.

    :param name: name of the option, for the message
    :param value: value of the option
    :raises ValueError: unless ``value`` is ``True`` or ``False`` (the string ``"False"`` would count as true)
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """
    Check that an option has one of the valid values.

    :param name: name of the option, for the message
    :param value: value of the option
    :param choices: valid values
    :raises ValueError: unless ``value`` is one of ``choices``
    """
    if value not in choices:
        raise ValueError(unknown(name, value, choices))


def check_turns(env: Any, agents: Sequence[str], started: bool, actions: Mapping[str, Any]) -> None:
    """
    Check that the actions of a step are those of the acting agents.

    :param env: environment, for the message
    :param agents: acting agents
    :param started: whether an episode has ever begun
    :param actions: agent -> action
    :raises RuntimeError: before the first reset and after the end of the episode
    :raises ValueError: if the action of an acting agent is missing, or another agent has one
    """
    if not agents:
        reason = "the episode is over" if started else "no episode has begun"
        raise RuntimeError(f"{env}: step() was called although {reason}; call reset() first")
    if actions.keys() != set(agents):
        missing = [agent for agent in agents if agent not in actions]
        extra = [agent for agent in actions if agent not in agents]
        raise ValueError(
            f"{env}: step() needs one action for each of {list(agents)}; missing: {missing}, without a turn: {extra}"
        )
