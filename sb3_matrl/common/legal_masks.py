"""Masks of legal actions that agents act by: one without any legal action counts as one that allows all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th


def usable_mask(mask: Any) -> np.ndarray:
    """
    Masks in which every agent has a choice.

    :param mask: legal actions, array-like (..., mask size)
    :return: bool (..., mask size); all True in rows without any legal action, such as those of an agent whose turn it is not
    """
    legal = np.asarray(mask).astype(bool)
    return np.asarray(legal | ~legal.any(axis=-1, keepdims=True))


def mask_rows(mask: Any, values: th.Tensor) -> th.Tensor | None:
    """
    A mask for the values of a batch.

    :param mask: legal actions, array-like (B, n_actions), or (n_actions,) for all rows; ``None`` if all are legal
    :param values: (B, n_actions)
    :return: bool (B, n_actions) on the device of the values; rows as in :func:`usable_mask`; ``None`` if all are legal
    :raises ValueError: if the mask has another shape
    """
    if mask is None:
        return None
    rows = np.broadcast_to(usable_mask(mask), tuple(values.shape))
    return th.as_tensor(rows.copy(), device=values.device)
