"""Snapshots of environment state: plain values that can be stored without pickle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sb3_matrl.utils.random_state import set_bit_generator

# Holds only arrays, numbers, strings, None, and lists and dicts (with str keys) of these.
Snapshot = dict[str, Any]


def check_keys(what: str, snapshot: Any, keys: Iterable[str]) -> None:
    """
    Check the keys of a snapshot.

    :param what: name of the snapshot, for the message
    :param snapshot: snapshot to check
    :param keys: expected keys
    :raises ValueError: unless ``snapshot`` is a dict with exactly these keys
    """
    expected = list(keys)
    if not isinstance(snapshot, Mapping):
        raise ValueError(f"{what} must be a dict with {expected}, got a {type(snapshot).__name__}")
    missing = [key for key in expected if key not in snapshot]
    unknown = [key for key in snapshot if key not in expected]
    if missing or unknown:
        raise ValueError(f"{what} lacks {missing} and has unknown {unknown}; was it taken from another environment?")


def check_array(what: str, value: Any, model: np.ndarray) -> None:
    """
    Check the shape and dtype of an array in a snapshot.

    :param what: name of the entry, for the message
    :param value: value of the entry
    :param model: array with the expected shape and dtype
    :raises ValueError: unless ``value`` is such an array
    """
    expected = f"an array of shape {model.shape} and dtype {model.dtype}"
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{what} must be {expected}, got a {type(value).__name__}")
    if value.shape != model.shape or value.dtype != model.dtype:
        raise ValueError(f"{what} must be {expected}, got shape {value.shape} and dtype {value.dtype}")


def check_range(what: str, values: np.ndarray, high: int) -> None:
    """
    Check the integers in a snapshot.

    :param what: name of the entry, for the message
    :param values: integers of any shape
    :param high: highest valid value
    :raises ValueError: if a value is below 0 or above ``high``
    """
    wrong = values[(values < 0) | (values > high)]
    if wrong.size:
        raise ValueError(f"{what} must be integers from 0 to {high}, got {wrong.flat[0]}")


def saved(what: str, value: Any) -> Any:
    """
    Copy an attribute for a snapshot.

    :param what: name of the attribute, for the message
    :param value: array, ``numpy.random.Generator`` (whose bit generator's state is saved), bool, int, float, str, or a list
        of these
    :return: plain copy that shares no memory with ``value``
    :raises TypeError: for any other type
    """
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.copy()
    if isinstance(value, np.random.Generator):
        return dict(value.bit_generator.state)
    if isinstance(value, list):
        return [saved(f"{what}[{index}]", entry) for index, entry in enumerate(value)]
    if type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{what} is of type {type(value).__name__}, which a snapshot cannot hold; expected an array, a "
        "numpy.random.Generator, a bool, an int, a float, a str or a list of these"
    )


def check_saved(what: str, current: Any, value: Any) -> None:
    """
    Check that a saved value fits an attribute.

    :param what: name of the attribute, for the message
    :param current: current value of the attribute
    :param value: saved value, see :func:`saved`
    :raises ValueError: if the saved value does not fit
    """
    if isinstance(current, np.ndarray):
        check_array(what, value, current)
    elif isinstance(current, np.random.Generator):
        _check_generator(what, current, value)
    elif type(value) is not type(current):
        raise ValueError(f"{what} must be of type {type(current).__name__}, got {type(value).__name__}")
    elif isinstance(current, list):
        if len(value) != len(current):
            raise ValueError(f"{what} must have {len(current)} entries, got {len(value)}")
        for index, (old, new) in enumerate(zip(current, value, strict=True)):
            check_saved(f"{what}[{index}]", old, new)


def restored(current: Any, value: Any) -> Any:
    """
    Compute the new value of an attribute. Generators are changed in place, because other objects may refer to them.

    :param current: current value of the attribute
    :param value: saved value that :func:`check_saved` has accepted
    :return: new value of the attribute
    """
    if isinstance(current, np.ndarray):
        return value.copy()
    if isinstance(current, np.random.Generator):
        current.bit_generator.state = value
        return current
    if isinstance(current, list):
        return [restored(old, new) for old, new in zip(current, value, strict=True)]
    return value


def _check_generator(what: str, generator: np.random.Generator, state: Any) -> None:
    kind = type(generator.bit_generator)
    try:
        set_bit_generator(kind(), state)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{what} must be the state of a {kind.__name__}, which it is not: {error!r}") from error
