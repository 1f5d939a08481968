"""Observations, masks and states as a replay buffer stores them: those of its rows, and the final ones of episodes apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.off_policy.observation_blocks import ObservationBlocks
from sb3_matrl.off_policy.transitions import JointTransition, Masks, Moment
from sb3_matrl.utils.image_planes import Stores

_SMALLEST_POOL = 64


@dataclass
class ObservationRows:
    """
    Moments read from a buffer.

    :param arrays: one array (B, k, \\*shape) per block of observations
    :param masks: agent -> bool (B, n_actions)
    :param states: (B, size), or ``None``
    """

    arrays: list[np.ndarray]
    masks: Masks
    states: np.ndarray | None

    def replace(self, places: np.ndarray, rows: ObservationRows) -> None:
        """Replace the rows at some places."""
        for array, values in zip(self.arrays, rows.arrays, strict=True):
            array[places] = values
        for agent, mask in self.masks.items():
            mask[places] = rows.masks.get(agent, True)
        if self.states is not None:
            self.states[places] = rows.states


class StoredMoments:
    """
    Observations, masks and states of moments; (\\*rows, ...) each.

    :param observation_spaces: agent -> space
    :param state_size: number of entries of a state; 0 for none
    :param rows: leading axes
    :param stores: planes of images, to be shared with other moments
    """

    def __init__(
        self,
        observation_spaces: Mapping[str, spaces.Space[Any]],
        state_size: int,
        rows: tuple[int, ...],
        stores: Stores | None = None,
    ) -> None:
        self.rows = rows
        self.blocks = ObservationBlocks(observation_spaces, rows, stores)
        self.states = np.zeros((*rows, state_size), np.float32) if state_size else None
        self.masks: Masks = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, without planes of images."""
        states = 0 if self.states is None else self.states.nbytes
        return self.blocks.nbytes + states + sum(mask.nbytes for mask in self.masks.values())

    def arrays(self, masks: Iterable[str]) -> list[Any]:
        """All arrays, with the masks of some agents in that order."""
        states = [] if self.states is None else [self.states]
        return [*self.blocks.arrays, *states, *(self.masks[agent] for agent in masks)]

    def require_mask(self, agent: str, size: int) -> np.ndarray:
        """Masks of an agent; made with all actions legal when the first mask of the agent comes."""
        if agent not in self.masks:
            self.masks[agent] = np.ones((*self.rows, size), bool)
        return self.masks[agent]

    def write(self, slot: int, moment: Moment) -> None:
        """Write the moment of all copies."""
        self.blocks.write(slot, moment.observations)
        for agent, mask in moment.masks.items():
            self.require_mask(agent, mask.shape[1])[slot] = mask
        for agent in self.masks.keys() - moment.masks.keys():
            self.masks[agent][slot] = True
        if self.states is not None:
            self.states[slot] = moment.states

    def hold(self, slot: int, moment: Moment) -> bool:
        """Whether the slot holds the moment of all copies."""
        if not self.blocks.holds(slot, moment.observations):
            return False
        if self.states is not None and not np.array_equal(self.states[slot], np.asarray(moment.states)):
            return False
        return all(
            agent in self.masks and np.array_equal(self.masks[agent][slot], mask) for agent, mask in moment.masks.items()
        )

    def read(self, *index: np.ndarray) -> ObservationRows:
        """Rows at integer indices of the leading axes; copies of them."""
        return ObservationRows(
            arrays=[array[index] for array in self.blocks.arrays],
            masks={agent: mask[index] for agent, mask in self.masks.items()},
            states=None if self.states is None else self.states[index],
        )


class FinalMoments:
    """Final moments of episodes; grows as needed, and places of overwritten rows are used again."""

    def __init__(self, observation_spaces: Mapping[str, spaces.Space[Any]], state_size: int, stores: Stores) -> None:
        self._arguments, self._stores = (observation_spaces, state_size), stores
        self.agents = list(observation_spaces)
        self.moments = StoredMoments(*self._arguments, (0,), stores)
        self.free: list[int] = []

    def release(self, places: np.ndarray) -> None:
        """Free places; those below 0 are none."""
        self.free += places[places >= 0].tolist()

    def add(self, moments: StoredMoments, slot: int, copies: np.ndarray) -> np.ndarray:
        """
        Copy moments.

        :param moments: where they are
        :param slot: their row
        :param copies: int (k,), copies of the environment
        :return: int (k,), places in the pool
        """
        while len(self.free) < len(copies):
            self._grow()
        places = np.array([self.free.pop() for _ in range(len(copies))], dtype=np.int64)
        for agent, mask in moments.masks.items():
            self.moments.require_mask(agent, mask.shape[-1])
        rows = moments.read(np.full(len(copies), slot), copies)
        for array, values in zip(self.moments.blocks.arrays, rows.arrays, strict=True):
            array[places] = values
        for agent, mask in rows.masks.items():
            self.moments.masks[agent][places] = mask
        if self.moments.states is not None:
            self.moments.states[places] = rows.states
        return places

    def reserve(self, n_places: int, masks: Mapping[str, int]) -> None:
        """
        Take the first places of an empty pool.

        :param n_places: number of places
        :param masks: agent -> number of actions, for agents that have masks
        """
        while len(self.free) < n_places:
            self._grow()
        self.free = [place for place in self.free if place >= n_places]
        for agent, size in masks.items():
            self.moments.require_mask(agent, size)

    def overwrite(self, places: np.ndarray, copies: np.ndarray, transition: JointTransition) -> None:
        """Write final observations over those of the next episode, where an agent's or a copy's episode ended."""
        final, done = transition.final, transition.dones[copies]
        assert final is not None
        ended = (transition.terminated | transition.truncated)[copies] | done[:, None]
        for array, block in zip(self.moments.blocks.arrays, self.moments.blocks.layout.values(), strict=True):
            for j, (agent, key) in enumerate(block):
                which = ended[:, self.agents.index(agent)]
                values = final.observations[agent] if key is None else final.observations[agent][key]
                array[places[which], j] = values[copies[which]]
        for agent, mask in self.moments.masks.items():
            which = ended[:, self.agents.index(agent)]
            mask[places[which]] = final.masks[agent][copies[which]] if agent in final.masks else True
        if self.moments.states is not None and done.any():
            assert final.states is not None
            self.moments.states[places[done]] = final.states[copies[done]]

    def _grow(self) -> None:
        """Double the number of places."""
        old = self.moments
        size = old.rows[0]
        new = StoredMoments(*self._arguments, (max(2 * size, _SMALLEST_POOL),), self._stores)
        new.blocks.move_from(old.blocks)
        for agent, mask in old.masks.items():
            new.require_mask(agent, mask.shape[-1])[:size] = mask
        if new.states is not None and old.states is not None:
            new.states[:size] = old.states
        self.free += range(new.rows[0] - 1, size - 1, -1)
        self.moments = new
