"""Conversion between arrays and tensors inside nested dicts and lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th


def tensors_for_arrays(value: Any) -> Any:
    """Replace every array in nested dicts and lists by a tensor, and every tuple by a list."""
    return th.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else _each(tensors_for_arrays, value)


def arrays_for_tensors(value: Any) -> Any:
    """Replace every tensor in nested dicts and lists by an array, and every tuple by a list."""
    return value.numpy() if isinstance(value, th.Tensor) else _each(arrays_for_tensors, value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: change(one) for key, one in value.items()}
    return [change(one) for one in value] if isinstance(value, (list, tuple)) else value
