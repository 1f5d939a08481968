"""Base class of the grid worlds: movement, step counter, observations, rewards and rendering.

A cell is one number, ``row * n_cols + col``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np
from gymnasium import spaces

from sb3_matrl.envs.core import BatchedCore, CoreStep, discrete_actions
from sb3_matrl.envs.option_checks import check_flag, check_integer, check_number
from sb3_matrl.envs.rendering import draw_grid, overlay

DOWN, LEFT, UP, RIGHT, NOOP = range(5)
_MOVES = ((1, 0), (0, -1), (-1, 0), (0, 1), (0, 0))  # (rows, columns) of each action


def next_cells(floor: Sequence[str]) -> np.ndarray:
    """
    Tabulate the moves on an empty grid; a move off the grid or into a wall has no effect.

    :param floor: rows of one symbol per cell, ``"#"`` for a wall
    :return: (5, number of cells), cell after the action
    """
    n_rows, n_cols = len(floor), len(floor[0])
    table = np.tile(np.arange(n_rows * n_cols), (len(_MOVES), 1))
    for action, (down, right) in enumerate(_MOVES):
        for row in range(n_rows):
            for col in range(n_cols):
                to_row, to_col = row + down, col + right
                if 0 <= to_row < n_rows and 0 <= to_col < n_cols and floor[to_row][to_col] != "#":
                    table[action, row * n_cols + col] = to_row * n_cols + to_col
    return table


def scaled_positions(n_rows: int, n_cols: int, row_scale: float, col_scale: float) -> np.ndarray:
    """
    Tabulate the scaled coordinates of all cells, as in the agents' observations.

    :return: float32 (number of cells, 2): row / row_scale and col / col_scale, rounded to two decimals
    """
    rows, cols = np.divmod(np.arange(n_rows * n_cols), n_cols)
    return np.stack([np.round(rows / row_scale, 2), np.round(cols / col_scale, 2)], axis=1).astype(np.float32)


def move_in_turn(cells: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """
    Move agents one after another in id order; a move into an occupied cell is cancelled.

    :param cells: (num_envs, n_agents), cells of the agents
    :param wanted: (num_envs, n_agents), target cells of the moves
    :return: (num_envs, n_agents), cells after the moves
    """
    moved = cells.T.copy()
    for own, target in zip(moved, wanted.T, strict=True):
        occupied = np.logical_or.reduce(moved == target)  # also by the agent itself, if it stays
        np.copyto(own, target, where=~occupied)
    return moved.T


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """
    Options of all grid worlds.

    :param step_cost: reward of every step; the rules say when another reward is added or replaces it
    :param max_cycles: steps after which an episode is truncated
    :param clock: whether step / max_cycles is appended to every agent's observation
    :param full_observability: whether every agent gets the observations of all agents, concatenated in id order
    :param team_reward: whether every live agent gets the sum of the live agents' rewards
    """

    step_cost: float
    max_cycles: int
    clock: bool = False
    full_observability: bool = False
    team_reward: bool = False

    def __post_init__(self) -> None:
        check_number("step_cost", self.step_cost)
        check_integer("max_cycles", self.max_cycles, low=1)
        for name in ("clock", "full_observability", "team_reward"):
            check_flag(name, getattr(self, name))


class GridCore(BatchedCore):
    """
    Grid world; a subclass defines the map, the rewards, the end of an episode, and the observations. It is deterministic
    unless the subclass has random streams.

    ``cells`` (num_envs, n_agents) are the cells of the agents, ``steps`` (num_envs,) the numbers of steps played.

    :param num_envs: number of copies
    :param options: options of the world
    :param starts: start cell of every agent
    :param view_high: upper bounds of an agent's own observation, without the clock; the lower bounds are 0
    :param state_size: size of the global state, including the step counter
    """

    changing: ClassVar[tuple[str, ...]] = ("cells", "steps", "alive")
    floor: tuple[str, ...]
    NEXT_CELL: np.ndarray
    N_ACTIONS: ClassVar[int] = len(_MOVES)

    def __init__(
        self, num_envs: int, options: GridOptions, starts: Sequence[int], view_high: np.ndarray, state_size: int
    ) -> None:
        check_integer("num_envs", num_envs, low=1)
        self.num_envs = num_envs
        self.options = options
        self.possible_agents = [f"agent_{agent}" for agent in range(len(starts))]
        high = np.append(view_high, 1) if options.clock else np.asarray(view_high)
        self._view_size = len(high)
        high = np.tile(high, len(starts)) if options.full_observability else high
        box = partial(spaces.Box, low=0.0, high=high.astype(np.float32), shape=high.shape, dtype=np.float32)
        self.observation_spaces = {agent: box() for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(self.N_ACTIONS) for agent in self.possible_agents}
        self.state_space = spaces.Box(0.0, 1.0, (state_size,), np.float32)
        self._counts = np.full(len(starts), self.N_ACTIONS)
        self._starts = np.array(starts)
        self.cells = np.tile(self._starts, (num_envs, 1))
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self.alive = np.zeros((num_envs, len(starts)), dtype=bool)

    @abstractmethod
    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Move the agents and apply the rules.

        :param actions: valid actions (num_envs, n_agents); NOOP for agents that are not alive
        :return: rewards, and whether the agent's episode ends by the rules, both (num_envs, n_agents) and valid where alive
        """

    @abstractmethod
    def _start(self, copies: np.ndarray) -> None:
        """
        Reset everything except the agents and the step counter.

        :param copies: bool (num_envs,), copies to reset
        """

    @abstractmethod
    def _write_views(self, out: np.ndarray) -> None:
        """
        Write the agents' own observations.

        :param out: float32 (n_agents, num_envs, view size), array to fill
        """

    def _floor_rows(self) -> Sequence[str]:
        """Rows of symbols of the floor in copy 0; see :func:`draw_grid`."""
        return self.floor

    @abstractmethod
    def _things(self) -> list[str]:
        """Rows of symbols of the things on the floor in copy 0; see :func:`draw_grid`."""

    def replicate(self, num_envs: int) -> Self:
        """
        Create a new core with the same options.

        :param num_envs: number of copies of the new core
        """
        return type(self)(num_envs, self.options)  # type: ignore[call-arg]  # subclasses choose the rest

    def highest_values(self) -> dict[str, int]:
        """The last cell of the grid, and the length of an episode."""
        return {"cells": len(self.floor) * len(self.floor[0]) - 1, "steps": self.options.max_cycles}

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Do nothing: there is no randomness."""

    def reset(self, copies: np.ndarray | None = None) -> None:
        """
        Start a new episode.

        :param copies: bool (num_envs,), copies to reset; ``None`` for all
        """
        chosen = np.ones(self.num_envs, dtype=bool) if copies is None else np.asarray(copies, dtype=bool)
        self.cells = np.where(chosen[:, None], self._starts, self.cells)
        self.steps = np.where(chosen, 0, self.steps)
        self.alive = self.alive | chosen[:, None]
        self._start(chosen)

    def step(self, actions: np.ndarray) -> CoreStep:
        """
        Play one joint step in every copy that has a live agent.

        :param actions: (num_envs, n_agents), integers from 0; rows of agents that are not alive are ignored
        :raises ValueError: if the action of a live agent is invalid; names the agent and the value
        """
        alive = self.alive
        actions = discrete_actions(actions, self._counts, alive, self.possible_agents, idle=NOOP)
        everyone = np.count_nonzero(alive) == alive.size
        self.steps = self.steps + (1 if everyone else np.logical_or.reduce(alive, axis=1))
        rewards, ended = self._play(actions)
        if not everyone:
            rewards = np.where(alive, rewards, 0.0)
        if self.options.team_reward:
            rewards = np.where(alive, rewards.sum(axis=1, keepdims=True), 0.0)
        terminated = alive & ended
        running = alive ^ terminated  # alive & ~ended
        in_time = (self.steps < self.options.max_cycles)[:, None]
        truncated = running & ~in_time
        self.alive = running & in_time
        return CoreStep(rewards, terminated, truncated)

    def observations(self) -> dict[str, np.ndarray]:
        """Current observation of every agent: float32 (num_envs, size)."""
        views = np.empty((len(self.possible_agents), self.num_envs, self._view_size), dtype=np.float32)
        if self.options.clock:
            views[..., -1] = self._clock()
        self._write_views(views[..., :-1] if self.options.clock else views)
        if self.options.full_observability:
            together = np.concatenate(list(views), axis=1)
            return {agent: together.copy() for agent in self.possible_agents}
        return dict(zip(self.possible_agents, views, strict=True))

    def render(self, mode: str) -> np.ndarray | str:
        """
        Render copy 0.

        :param mode: ``"rgb_array"`` or ``"ansi"``
        :return: uint8 (height, width, 3) for ``"rgb_array"``, text for ``"ansi"``
        :raises ImportError: if the mode needs pygame and it is not installed
        """
        if mode == "rgb_array":
            return draw_grid(self._floor_rows(), self._things())
        if mode == "ansi":
            rows = [" ".join(row) for row in overlay(self._floor_rows(), self._things())]
            return "\n".join([*rows, f"step {self.steps[0]}/{self.options.max_cycles}"])
        return super().render(mode)

    def _move(self, actions: np.ndarray) -> None:
        wanted = self.NEXT_CELL.ravel().take(actions * self.NEXT_CELL.shape[1] + self.cells)
        self.cells = move_in_turn(self.cells, wanted)

    def _clock(self) -> np.ndarray:
        return self.steps / self.options.max_cycles

    def _rows(self, symbols: Sequence[str]) -> list[str]:
        """Split a list of one symbol per cell into the rows of the grid."""
        width = len(self.floor[0])
        return ["".join(symbols[start : start + width]) for start in range(0, len(symbols), width)]
