"""Nested dicts of arrays, taken together array by array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def merged(trees: Sequence[Any], merge: Callable[[Sequence[np.ndarray]], np.ndarray]) -> Any:
    """
    One tree from several.

    :param trees: arrays, or nested dicts of arrays, with the same keys; all or none at the same place are ``None``
    :param merge: makes one array from those at the same place
    :return: tree with the same keys
    """
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        return {key: merged([tree[key] for tree in trees], merge) for key in first}
    return merge(trees)


def joined_arrays(trees: Sequence[Any], axis: int = 0) -> Any:
    """
    Arrays of all workers one after the other.

    :param trees: trees of the workers
    :param axis: axis of the copies
    """
    return merged(trees, lambda arrays: np.concatenate(arrays, axis))
