"""Spaces that SB3's policies would misread, and errors that name the spaces for which SB3 cannot build something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.utils.one_line import one_line


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


@contextmanager
def errors_name_spaces(what: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Iterator[None]:
    """
    Turn all errors inside into one that names the spaces; SB3 checks its arguments by assertions, or leaves it to torch.

    :param what: what is built inside, such as the name of a class
    :param observation_space: observation space for which it is built
    :param action_space: action space for which it is built
    :raises ValueError: for any error inside; names ``what``, the spaces and the cause on one line
    """
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{what} cannot use these spaces or arguments (observations {one_line(observation_space)}, actions "
            f"{one_line(action_space)}){f': {one_line(error)}' if str(error) else ''}"
        ) from error
