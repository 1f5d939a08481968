"""Spaces that SB3 supports, and a byte-exact encoding of their values as rows of equal length.

SuperSuit needs the same space for every agent. Therefore every agent's observation (and action) is encoded as a row of
``uint8``: the bytes of its array, padded with zeros to the longest agent's length. The encoding is exact for every dtype,
needs no conversion, does not enlarge images, and covers Discrete, Box, MultiDiscrete, MultiBinary and Dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

AgentSpaces = dict[str, spaces.Space[Any]]

_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


@dataclass(frozen=True)
class Leaf:
    """
    One array of a space: the whole space, or one entry of a Dict space.

    :param key: key in the Dict space; ``None`` if the space is no Dict
    :param space: space of the leaf
    :param shape: shape of one value
    :param dtype: dtype of one value
    """

    key: str | None
    space: spaces.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Number of bytes of one value."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __str__(self) -> str:
        return str(self.space) if self.key is None else f"{self.space} (entry {self.key!r})"


def _leaf(key: str | None, space: spaces.Space[Any]) -> Leaf:
    return Leaf(key, space, tuple(space.shape or ()), np.dtype(space.dtype))


def leaves_of(space: spaces.Space[Any]) -> list[Leaf]:
    """
    List the arrays that make up a value of ``space``.

    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these
    :return: one leaf, or one per entry of a Dict, in the Dict's order
    :raises TypeError: for any other space; the message lists the supported ones
    """
    if isinstance(space, spaces.Dict):
        if not space.spaces:
            raise TypeError(f"a Dict space without entries; {_HANDLED}")
        nested = [key for key, entry in space.spaces.items() if not isinstance(entry, _LEAVES)]
        if nested:
            raise TypeError(f"a Dict space whose entry {nested[0]!r} is a {type(space[nested[0]]).__name__}; {_HANDLED}")
        return [_leaf(key, entry) for key, entry in space.spaces.items()]
    if not isinstance(space, _LEAVES):
        raise TypeError(f"a {type(space).__name__} space; {_HANDLED}")
    return [_leaf(None, space)]


_HANDLED = (
    "SB3's policies support Box, Discrete, MultiDiscrete and MultiBinary (and, for observations, a flat Dict of these). "
    "Convert it with a PettingZoo or SuperSuit wrapper first"
)


class ByteCodec:
    """
    Encodes values of a space as the first :attr:`size` bytes of ``uint8`` rows, and decodes them exactly.

    :param space: space that :func:`leaves_of` supports
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.leaves = leaves_of(space)
        ends = np.cumsum([leaf.nbytes for leaf in self.leaves])
        self.slices = [slice(int(end) - leaf.nbytes, int(end)) for leaf, end in zip(self.leaves, ends, strict=True)]
        self.size = int(ends[-1])

    def write(self, arrays: list[np.ndarray], rows: np.ndarray) -> None:
        """
        Write a batch of values.

        :param arrays: one array (batch, *leaf shape) per leaf, in order, with the leaf's dtype
        :param rows: uint8 (batch, at least ``size``); changed in place
        """
        for array, where in zip(arrays, self.slices, strict=True):
            flat = np.ascontiguousarray(array).reshape(len(rows), -1)
            rows[:, where] = flat.view(np.uint8)

    def read(self, rows: np.ndarray) -> Any:
        """
        Read a batch of values.

        :param rows: uint8 (batch, at least ``size``)
        :return: new array (batch, *shape), or a dict of such arrays for a Dict space
        """
        arrays = {
            leaf.key: rows[:, where].copy().view(leaf.dtype).reshape(len(rows), *leaf.shape)
            for leaf, where in zip(self.leaves, self.slices, strict=True)
        }
        return arrays[None] if None in arrays else arrays


def mask_rows(observation: Any, keep: np.ndarray) -> None:
    """
    Set the rows of an observation batch to zero where ``keep`` is False, in place.

    :param observation: array (num_envs, *shape), or a dict of such arrays
    :param keep: bool (num_envs,)
    """
    for array in observation.values() if isinstance(observation, Mapping) else (observation,):
        array[~keep] = 0


def row_of(observation: Any, copy: int) -> Any:
    """
    Extract one copy's row from a batched observation.

    :param observation: array (num_envs, *shape), or a dict of such arrays
    :param copy: index of the env copy
    :return: the row, as a new array or dict of arrays
    """
    if isinstance(observation, Mapping):
        return {key: array[copy].copy() for key, array in observation.items()}
    return observation[copy].copy()
