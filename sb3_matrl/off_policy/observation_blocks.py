"""
Observations of all agents in few arrays: those of equal shape and dtype share one, so that a batch is read at once.

Large images are kept in planes, each different one once, see :mod:`sb3_matrl.utils.image_planes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.utils.image_planes import ImageRows, Stores, has_channels_last, image_rows, plane_size, worth_planes
from sb3_matrl.vec_env.spaces import Leaf, leaves_of

Place = tuple[str, str | None]


class ObservationBlocks:
    """
    Zero-filled arrays (\\*rows, k, \\*shape) for the observations of all agents, in the spaces' own dtypes.

    :param observation_spaces: agent -> space
    :param rows: leading axes
    :param stores: planes of the images, to be shared with other blocks; planes of their own if ``None``
    """

    def __init__(
        self, observation_spaces: Mapping[str, spaces.Space[Any]], rows: tuple[int, ...], stores: Stores | None = None
    ) -> None:
        own: Stores = {} if stores is None else stores
        self.layout = _layout(observation_spaces)
        self._entries = {agent: [leaf.key for leaf in leaves_of(space)] for agent, space in observation_spaces.items()}
        self.arrays: list[Any] = [
            _empty(shape, dtype, (*rows, len(places)), own) for (shape, dtype), places in self.layout.items()
        ]

    @staticmethod
    def row_bytes(observation_spaces: Mapping[str, spaces.Space[Any]]) -> int:
        """Least bytes of one row of all arrays: with one plane for all images of a size."""
        leaves = [leaf for space in observation_spaces.values() for leaf in leaves_of(space)]
        images = [leaf for leaf in leaves if worth_planes(leaf.shape, leaf.dtype)]
        planes = {plane_size(leaf.shape, has_channels_last(leaf.shape)) for leaf in images}
        places = sum(4 * _n_planes(leaf) for leaf in images)
        return sum(leaf.nbytes for leaf in leaves if leaf not in images) + places + sum(h * w for h, w in planes)

    def move_from(self, other: ObservationBlocks) -> None:
        """
        Take over the rows of shorter blocks of the same spaces and planes, which must not be used any more.

        :param other: the blocks
        """
        for target, source in zip(self.arrays, other.arrays, strict=True):
            if isinstance(target, ImageRows):
                target.move_from(source)
            else:
                target[: len(source)] = source

    def write(self, index: int, observations: Mapping[str, Any]) -> None:
        """
        Write observations of all copies.

        :param index: row
        :param observations: agent -> (num_envs, \\*shape), or a dict of such arrays
        """
        for array, places in zip(self.arrays, self.layout.values(), strict=True):
            for j, (agent, key) in enumerate(places):
                array[index, :, j] = _leaf(observations, agent, key)

    def holds(self, index: int, observations: Mapping[str, Any]) -> bool:
        """Whether the row ``index`` has these observations, agent -> (num_envs, \\*shape)."""
        return all(
            np.array_equal(array[index, :, j], _leaf(observations, agent, key))
            for array, places in zip(self.arrays, self.layout.values(), strict=True)
            for j, (agent, key) in enumerate(places)
        )

    def by_agent(self, arrays: list[Any]) -> dict[str, Any]:
        """
        Observations by agent, from arrays of this layout.

        :param arrays: arrays or tensors (B, k, \\*shape)
        :return: agent -> view (B, \\*shape), or a dict of such views for a Dict space
        """
        views = {
            place: array[:, j]
            for array, places in zip(arrays, self.layout.values(), strict=True)
            for j, place in enumerate(places)
        }
        return {
            agent: views[agent, None] if keys == [None] else {key: views[agent, key] for key in keys}
            for agent, keys in self._entries.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, without planes."""
        return sum(array.nbytes for array in self.arrays)


def part_of(array: Any, index: Any) -> Any:
    """
    Rows of an array, or of images in planes, which are not read for that.

    :param array: array of :class:`ObservationBlocks`
    :param index: index of the leading axes
    """
    return array.part(index) if isinstance(array, ImageRows) else array[index]


def _empty(shape: tuple[int, ...], dtype: str, rows: tuple[int, ...], stores: Stores) -> Any:
    return image_rows(rows, shape, stores) if worth_planes(shape, dtype) else np.zeros((*rows, *shape), dtype)


def _n_planes(leaf: Leaf) -> int:
    return leaf.shape[2 if has_channels_last(leaf.shape) else 0]


def _layout(observation_spaces: Mapping[str, spaces.Space[Any]]) -> dict[tuple[tuple[int, ...], str], list[Place]]:
    """(shape, dtype) -> agents, with keys of their Dict spaces, that have entries like that."""
    layout: dict[tuple[tuple[int, ...], str], list[Place]] = {}
    for agent, space in observation_spaces.items():
        for leaf in leaves_of(space):
            layout.setdefault((leaf.shape, str(leaf.dtype)), []).append((agent, leaf.key))
    return layout


def _leaf(observations: Mapping[str, Any], agent: str, key: str | None) -> np.ndarray:
    return np.asarray(observations[agent] if key is None else observations[agent][key])
