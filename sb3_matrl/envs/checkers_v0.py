"""
Checkers: two agents, one of which must clear the way for the other although this costs it reward.

The map (row 0 at the top; ``A`` apple, ``L`` lemon, ``0`` and ``1`` the agents)::

    A L A L A L 0 .
    L A L A L A . .
    A L A L A L 1 .

**Rules.** Actions: 0 DOWN, 1 LEFT, 2 UP, 3 RIGHT, 4 NOOP. Agents move one after another in id order; a move off the
grid or into an occupied cell is cancelled. An agent that moves onto a fruit eats it; the cell stays empty.

**Rewards.** ``step_cost`` for each agent at every step, plus the value of the fruit for the agent that eats it: apple 5
and lemon -5 for the sensitive agent_0, apple 1 and lemon -1 for agent_1. The episode terminates for both when no apple is
left, and is truncated after ``max_cycles`` steps.

**Observation.** Own row / 3 and column / 7, rounded to two decimals, then the 3x3 window around the agent, row by row.
``"one_hot"``: 5 numbers per cell (lemon, apple, agent_0, agent_1, wall; the wall is never 1), 47 in all. ``"codes"``: one
number per cell (0 empty or off the grid, 1 lemon, 2 apple, 3 an agent), 11 in all.

**State.** The grid row by row, 4 numbers per cell (lemon, apple, agent_0, agent_1), then step / max_cycles: 97 numbers.

The world is deterministic: the map and the start cells are fixed, and a seed has no effect. The best possible team return
(sum over agents and steps) with the default options is 41.26, in 37 steps; staying still gives -2.

Source: the MATRL paper, Sec. 4 and App. E, after MA-Gym's Checkers (where apples are worth (10, 1) and lemons (-10, -1)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.grid import GridCore, GridOptions, next_cells, scaled_positions
from sb3_matrl.envs.option_checks import check_choice, check_numbers

_N_ROWS, _N_COLS = 3, 8
_N_CELLS = _N_ROWS * _N_COLS
_OFF_GRID = _N_CELLS  # extra cell that is always empty, for the parts of windows beyond the border
_COLUMNS = np.arange(2)  # columns of agent_0 and agent_1
_STARTS = (6, 22)  # (0, 6) and (2, 6)

# Largest team return with the default rewards, and its number of steps.
_BEST_RETURN, _BEST_STEPS = 41.26, 37

# Contents of a cell.
_EMPTY, _LEMON, _APPLE, _AGENT_0, _AGENT_1 = range(5)
_AGENTS = np.array([_AGENT_0, _AGENT_1])
_SYMBOLS = ".LA01"

# Observation of a cell by its content: (5, numbers per cell).
_VIEWS = {
    "one_hot": np.eye(6, 5, k=-1, dtype=np.float32)[:5],
    "codes": np.array([[0], [1], [2], [3], [3]], dtype=np.float32),
}
_STATE_VIEW = np.eye(5, 4, k=-1, dtype=np.float32)
_POSITIONS = scaled_positions(_N_ROWS, _N_COLS, row_scale=3, col_scale=7)


def _grid_at_start() -> np.ndarray:
    rows, cols = np.divmod(np.arange(_N_CELLS), _N_COLS)
    fruit = np.where((rows + cols) % 2 == 0, _APPLE, _LEMON)
    grid = np.append(np.where(cols < 6, fruit, _EMPTY), _EMPTY)
    grid[list(_STARTS)] = _AGENTS
    return grid


def _windows() -> np.ndarray:
    """Cells of the 3x3 window around every cell: (cells, 9)."""
    bordered = np.full((_N_ROWS + 2, _N_COLS + 2), _OFF_GRID)
    bordered[1:-1, 1:-1] = np.arange(_N_CELLS).reshape(_N_ROWS, _N_COLS)
    return np.lib.stride_tricks.sliding_window_view(bordered, (3, 3)).reshape(_N_CELLS, 9).copy()


_GRID_AT_START = _grid_at_start()
_WINDOWS = _windows()


@dataclass(frozen=True, kw_only=True)
class CheckersOptions(GridOptions):
    """
    Options of Checkers; see :class:`~sb3_matrl.envs.grid.GridOptions` for the others.

    :param observation: ``"one_hot"`` or ``"codes"``
    :param apple_rewards: value of an apple for agent_0 and agent_1
    :param lemon_rewards: value of a lemon for agent_0 and agent_1
    """

    step_cost: float = -0.01
    max_cycles: int = 100
    observation: str = "one_hot"
    apple_rewards: Sequence[float] = (5, 1)
    lemon_rewards: Sequence[float] = (-5, -1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("observation", self.observation, list(_VIEWS))
        check_numbers("apple_rewards", self.apple_rewards, count=2)
        check_numbers("lemon_rewards", self.lemon_rewards, count=2)


def _best_team_return(options: CheckersOptions) -> float | None:
    default = CheckersOptions()
    rewards, default_rewards = (
        (one.step_cost, tuple(one.apple_rewards), tuple(one.lemon_rewards)) for one in (options, default)
    )
    if rewards != default_rewards or not _BEST_STEPS <= options.max_cycles <= default.max_cycles:
        return None
    return _BEST_RETURN * (2 if options.team_reward else 1)


class CheckersCore(GridCore):
    """
    ``num_envs`` copies of Checkers; the module's docstring has the rules.

    :param num_envs: number of copies
    :param options: options of the world; ``None`` for the defaults
    """

    changing = (*GridCore.changing, "_grid", "_apples_left")
    floor = ("." * _N_COLS,) * _N_ROWS
    NEXT_CELL = next_cells(floor)
    metadata = {  # noqa: RUF012 - PettingZoo's convention
        "name": "checkers_v0",
        "render_modes": ["human", "rgb_array", "ansi"],
        "is_parallelizable": True,
        "render_fps": 5,
    }

    def __init__(self, num_envs: int = 1, options: CheckersOptions | None = None) -> None:
        options = options or CheckersOptions()
        self._best_team_return = _best_team_return(options)
        self._view = _VIEWS[options.observation]
        view_high = np.concatenate([[1, 1], np.tile(self._view.max(initial=1), 9 * self._view.shape[1])])
        super().__init__(num_envs, options, _STARTS, view_high, state_size=4 * _N_CELLS + 1)
        # Nobody can enter an agent's cell, but a damaged file may hold a grid on which that happens.
        values = [np.zeros(2), options.lemon_rewards, options.apple_rewards, np.zeros(2), np.zeros(2)]
        self._fruit_values = np.array(values, dtype=np.float64) + options.step_cost  # (content eaten, agent)
        self._offsets = np.arange(num_envs)[:, None] * len(_GRID_AT_START)
        self._grid = np.empty((num_envs, len(_GRID_AT_START)), dtype=np.int64)  # content of every cell
        self._apples_left = np.empty(num_envs, dtype=np.int64)
        self._start(np.ones(num_envs, dtype=bool))

    @property
    def best_team_return(self) -> float | None:
        """41.26 with the default rewards and at most 100 steps, twice that with ``team_reward``."""
        return self._best_team_return

    def highest_values(self) -> dict[str, int]:
        """As in all grid worlds, and the contents of the cells."""
        return {**super().highest_values(), "_grid": _AGENT_1}

    def _start(self, copies: np.ndarray) -> None:
        self._grid[copies] = _GRID_AT_START
        self._apples_left[copies] = np.count_nonzero(_GRID_AT_START == _APPLE)

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grid = self._flat_grid()
        grid[self.cells + self._offsets] = _EMPTY
        self._move(actions)
        entered = self.cells + self._offsets
        eaten = grid.take(entered)  # empty for agents that stayed, because their cells were just cleared
        grid[entered] = _AGENTS
        self._apples_left -= np.add.reduce(eaten == _APPLE, axis=1)
        return self._fruit_values.take(2 * eaten + _COLUMNS), (self._apples_left == 0)[:, None]

    def _flat_grid(self) -> np.ndarray:
        # A view stored as an attribute would lose its base when the core is copied.
        return self._grid.reshape(-1)

    def _write_views(self, out: np.ndarray) -> None:
        cells = self.cells.T
        windows = self._grid.take(_WINDOWS.take(cells, axis=0) + self._offsets)
        out[..., :2] = _POSITIONS.take(cells, axis=0)
        out[..., 2:] = self._view.take(windows, axis=0).reshape(*cells.shape, -1)

    def state(self) -> np.ndarray:
        """Global state: float32 (num_envs, 97)."""
        grid = _STATE_VIEW[self._grid[:, :_N_CELLS]].reshape(self.num_envs, -1)
        return np.concatenate([grid, self._clock()[:, None]], axis=1, dtype=np.float32)

    def _things(self) -> list[str]:
        return self._rows([_SYMBOLS[content] for content in self._grid[0, :_N_CELLS]])


def parallel_env(
    render_mode: str | None = None,
    observation: str = "one_hot",
    step_cost: float = -0.01,
    apple_rewards: Sequence[float] = (5, 1),
    lemon_rewards: Sequence[float] = (-5, -1),
    max_cycles: int = 100,
    clock: bool = False,
    full_observability: bool = False,
    team_reward: bool = False,
) -> CoreParallelEnv:
    """
    Make Checkers as a PettingZoo parallel environment; the module's docstring has the rules.

    :param render_mode: ``"human"``, ``"rgb_array"``, ``"ansi"`` or ``None``
    :param observation: ``"one_hot"`` (47 numbers) or ``"codes"`` (the paper's 11 numbers)
    :param step_cost: reward of every step, for each agent
    :param apple_rewards: value of an apple for agent_0 and agent_1
    :param lemon_rewards: value of a lemon for agent_0 and agent_1
    :param max_cycles: steps after which the episode is truncated
    :param clock: append step / max_cycles to every agent's observation
    :param full_observability: give every agent the observations of both, agent_0's first
    :param team_reward: give both agents the sum of their rewards
    :raises ValueError: if an option is invalid; the message says what is valid
    """
    options = CheckersOptions(
        observation=observation,
        step_cost=step_cost,
        apple_rewards=apple_rewards,
        lemon_rewards=lemon_rewards,
        max_cycles=max_cycles,
        clock=clock,
        full_observability=full_observability,
        team_reward=team_reward,
    )
    return CoreParallelEnv(CheckersCore(1, options), render_mode)


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make Checkers as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))
