"""Observations of all agents in few arrays: those of equal shape and dtype share one, so that a batch is read at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.vec_env.spaces import leaves_of

Place = tuple[str, str | None]


class ObservationBlocks:
    """
    Zero-filled arrays (\\*rows, k, \\*shape) for the observations of all agents, in the spaces' own dtypes.

    :param observation_spaces: agent -> space
    :param rows: leading axes
    """

    def __init__(self, observation_spaces: Mapping[str, spaces.Space[Any]], rows: tuple[int, ...]) -> None:
        self.layout = _layout(observation_spaces)
        self._entries = {agent: [leaf.key for leaf in leaves_of(space)] for agent, space in observation_spaces.items()}
        self.arrays = [np.zeros((*rows, len(places), *shape), dtype) for (shape, dtype), places in self.layout.items()]

    @staticmethod
    def row_bytes(observation_spaces: Mapping[str, spaces.Space[Any]]) -> int:
        """Bytes of one row of all arrays."""
        return sum(leaf.nbytes for space in observation_spaces.values() for leaf in leaves_of(space))

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
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays)


def _layout(observation_spaces: Mapping[str, spaces.Space[Any]]) -> dict[tuple[tuple[int, ...], str], list[Place]]:
    """(shape, dtype) -> agents, with keys of their Dict spaces, that have entries like that."""
    layout: dict[tuple[tuple[int, ...], str], list[Place]] = {}
    for agent, space in observation_spaces.items():
        for leaf in leaves_of(space):
            layout.setdefault((leaf.shape, str(leaf.dtype)), []).append((agent, leaf.key))
    return layout


def _leaf(observations: Mapping[str, Any], agent: str, key: str | None) -> np.ndarray:
    return np.asarray(observations[agent] if key is None else observations[agent][key])
