"""Gymnasium spaces as JSON and back, without pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """
    Describe a space in JSON types.

    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of those
    :raises ValueError: for any other space, which SB3's on-policy algorithms do not support either
    """
    if isinstance(space, spaces.Box):
        low, high = _bounds_to_json(space.low), _bounds_to_json(space.high)
        box = {"type": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
        return box | _unbounded_integers(space)
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(space.start).tolist()
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": start, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        # n=3 and n=[3] make different spaces.
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, space_to_json(value)] for key, value in space.spaces.items()]}
    raise ValueError(f"spaces of type {type(space).__name__} are not supported: {space}")


def space_from_json(data: Mapping[str, Any]) -> spaces.Space[Any]:
    """
    Build a space from its description.

    :param data: return value of :func:`space_to_json`
    :raises ValueError: if the description is invalid
    """
    try:
        space: spaces.Space[Any] = _BUILDERS[data["type"]](data)
    except Exception as error:  # damaged data cause many errors
        raise ValueError(f"not a description of a space: {data!r:.200} ({error})") from error
    return space


def _box(data: Mapping[str, Any]) -> spaces.Box:
    shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
    low, high = (_bounds_from_json(data[key], shape, dtype) for key in ("low", "high"))
    box = spaces.Box(low, high, shape, dtype)
    for key in _BOUNDED:
        if key in data:
            setattr(box, key, _bounds_from_json(data[key], shape, np.dtype(bool)))
    return box


def _discrete(data: Mapping[str, Any]) -> spaces.Discrete:
    n, start, dtype = int(data["n"]), int(data["start"]), np.dtype(data.get("dtype", "int64"))
    # gymnasium 1.0 supports no other dtype and has no such argument.
    return spaces.Discrete(n, start=start) if dtype == np.int64 else spaces.Discrete(n, start=start, dtype=dtype)


def _multi_discrete(data: Mapping[str, Any]) -> spaces.MultiDiscrete:
    dtype = np.dtype(data["dtype"])
    return spaces.MultiDiscrete(np.array(data["nvec"]), dtype=dtype, start=np.array(data["start"], dtype=dtype))


_BUILDERS: dict[str, Any] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": lambda data: spaces.MultiBinary(data["n"]),
    # Pairs, because gymnasium sorts the keys of a plain dict.
    "Dict": lambda data: spaces.Dict([(key, space_from_json(value)) for key, value in data["spaces"]]),
}


_BOUNDED = ("bounded_below", "bounded_above")


def _unbounded_integers(box: spaces.Box) -> dict[str, Any]:
    """Mask of the finite bounds of an integer Box; needed because integers have no infinity."""
    if box.dtype.kind != "i":
        return {}
    return {key: _bounds_to_json(getattr(box, key)) for key in _BOUNDED if not getattr(box, key).all()}


def _bounds_to_json(bounds: np.ndarray) -> Any:
    """One number if all are equal (images), else a flat list; infinities as strings, because JSON has no infinity."""
    flat = bounds.reshape(-1).tolist()
    if len(flat) > 0 and all(value == flat[0] for value in flat):
        return _number_to_json(flat[0])
    return [_number_to_json(value) for value in flat]


def _bounds_from_json(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if isinstance(data, list):
        return np.array([_number_from_json(value) for value in data], dtype=dtype).reshape(shape)
    return np.full(shape, _number_from_json(data), dtype=dtype)


def _number_to_json(value: float) -> float | str:
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _number_from_json(value: float | str) -> float:
    return float(value) if isinstance(value, str) else value
