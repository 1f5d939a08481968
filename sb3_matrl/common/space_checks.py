"""Spaces that SB3's policies would misread."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def one_line(thing: object) -> str:
    """:return: text of a space or an error on one line"""
    return " ".join(str(thing).split())


def check_space(space: spaces.Space[Any], kind: str) -> None:
    """
    Refuse spaces whose values SB3's policies would misread.

    :param space: space of an agent
    :param kind: ``"observation"`` or ``"action"``, for the error
    :raises ValueError: if a discrete space does not count from 0, or a space has no elements
    """
    if isinstance(space, spaces.Dict):
        for entry in space.spaces.values():
            check_space(entry, kind)
    if 0 in (space.shape or ()):
        raise ValueError(
            f"SB3 cannot use the {kind} space {one_line(space)}, which has no elements: leave it out by a wrapper"
        )
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        raise ValueError(
            f"SB3 wants discrete spaces that start at 0, not the {kind} space {one_line(space)}: wrap the env to shift it"
        )
