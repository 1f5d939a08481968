"""Base class of two-agent games on a square grid without walls, where agents may share a cell and see everything."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_matrl.envs.grid import GridCore, GridOptions, next_cells
from sb3_matrl.envs.option_checks import check_integer

BOTH = "&"  # symbol of a cell that both agents are on


@dataclass(frozen=True, kw_only=True)
class SquareGridOptions(GridOptions):
    """
    Options of games on a square grid; see :class:`~sb3_matrl.envs.grid.GridOptions` for the others.

    :param size: rows and columns of the grid, 3 to 10
    """

    step_cost: float = 0.0
    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("size", self.size, low=3, high=10)


class SquareGridCore(GridCore):
    """
    Two agents on a square grid, which may share a cell. Cells are one-hot planes of size * size numbers.

    An agent observes the planes of itself, of the other agent and of the things on the grid, then some more numbers. The
    state has the same content with the planes of agent_0 and agent_1 first, then step / max_cycles.

    :param num_envs: number of copies
    :param options: options of the game
    :param starts: start cell of each agent
    :param n_planes: number of planes of things
    :param n_more: how many more numbers an agent observes, from 0 to 1
    """

    def __init__(
        self, num_envs: int, options: SquareGridOptions, starts: Sequence[int], n_planes: int, n_more: int = 0
    ) -> None:
        self._n_cells = options.size**2
        view_size = (2 + n_planes) * self._n_cells + n_more
        super().__init__(num_envs, options, starts, np.ones(view_size), state_size=view_size + 1)
        self.floor = ("." * options.size,) * options.size
        self.NEXT_CELL = next_cells(self.floor)
        self._eye = np.eye(self._n_cells, dtype=np.float32)

    @abstractmethod
    def _thing_planes(self) -> np.ndarray:
        """Planes of the things: float32 (num_envs, n_planes, size * size)."""

    @abstractmethod
    def _thing_symbols(self) -> dict[int, str]:
        """Symbol of each cell of copy 0 that has a thing on it."""

    def _more(self) -> np.ndarray:
        """More observed numbers: (num_envs, n_more)."""
        return np.empty((self.num_envs, 0), dtype=np.float32)

    def _move(self, actions: np.ndarray) -> None:
        self.cells = self.NEXT_CELL[actions, self.cells]

    def _write_views(self, out: np.ndarray) -> None:
        n, agents, rest = self._n_cells, self._eye[self.cells], self._rest()
        for agent in range(2):
            out[agent, :, :n], out[agent, :, n : 2 * n] = agents[:, agent], agents[:, 1 - agent]
            out[agent, :, 2 * n :] = rest

    def _rest(self) -> np.ndarray:
        return np.concatenate([self._thing_planes().reshape(self.num_envs, -1), self._more()], axis=1)

    def state(self) -> np.ndarray:
        """Global state: float32 (num_envs, observation size + 1)."""
        agents = self._eye[self.cells].reshape(self.num_envs, -1)
        return np.concatenate([agents, self._rest(), self._clock()[:, None]], axis=1, dtype=np.float32)

    def _floor_rows(self) -> Sequence[str]:
        symbols = self._thing_symbols()
        return self._rows([symbols.get(cell, ".") for cell in range(self._n_cells)])

    def _things(self) -> list[str]:
        first, second = self.cells[0].tolist()
        agents = {first: BOTH} if first == second else {first: "0", second: "1"}
        return self._rows([agents.get(cell, ".") for cell in range(self._n_cells)])
