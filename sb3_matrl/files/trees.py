"""Nested dicts and lists of arrays, as files hold them: with tensors in place of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th


def tensors_for_arrays(value: Any) -> Any:
    """Nested dicts and lists with a tensor in place of every array; all else as it is, tuples as lists."""
    return th.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else _each(tensors_for_arrays, value)


def arrays_for_tensors(value: Any) -> Any:
    """The other way round."""
    return value.numpy() if isinstance(value, th.Tensor) else _each(arrays_for_tensors, value)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: change(one) for key, one in value.items()}
    return [change(one) for one in value] if isinstance(value, (list, tuple)) else value
