"""
Predator-prey with punishment: two predators must catch a prey at the same time, and one that tries alone is punished.

**Rules.** ``n_agents`` predators and ``n_prey`` prey start on random different cells of a square grid with borders, and no two
of them are ever on the same cell. Actions: 0 DOWN, 1 LEFT, 2 UP, 3 RIGHT, 4 NOOP, 5 CATCH. In a step, the predators first move
one after another in random order; a move off the grid or into an occupied cell has no effect. Then the prey have their turns,
in random order:

- If at least two predators in the four neighbouring cells play CATCH, the prey is caught: it and these predators leave the
  grid.
- If exactly one does, this predator is punished.
- A prey that was not caught moves to one of its free neighbouring cells, all equally probable; it stays if there is none.

CATCH without a prey beside the predator has no effect.

**Rewards.** A caught prey pays ``capture_reward``, divided equally among those that caught it. A failed attempt pays
``miscapture_reward`` to the predator that tried, for each prey beside it. The sum over the agents is thus the joint reward of
the source; ``team_reward=True`` gives this sum to every agent. ``step_cost`` is added in every step.

**End.** The episode terminates when no prey or no predator is left, and is truncated after ``max_cycles`` steps. A predator
that has caught a prey waits for this end, and its actions are ignored (``finished_agents="wait"``, as in the source), or
terminates at once (``"leave"``).

**Observation.** The 5x5 window around the agent, row by row: for each cell, whether a predator and whether a prey is on it
(50 numbers); ``observe_walls=True`` adds whether the cell is off the grid (75 numbers). All are 0 for a predator that has left
the grid. ``full_observability=True`` gives every agent the observations of all.

**State.** size * size numbers each for the predators and the prey on the grid, and step / max_cycles.

**Seed.** It determines the start cells, the orders of moves and the moves of the prey.

The best possible sum of the agents' returns is ``capture_reward`` * min(n_prey, n_agents // 2), 40 with the defaults; doing
nothing gives 0. With the punishment, an agent whose partners rarely play CATCH is better off without it: independent learners
stop catching (relative overgeneralisation).

Source: W. Boehmer, V. Kurin and S. Whiteson 2020, "Deep coordination graphs", with the default numbers of the
published configuration (10x10 cells, 8 predators, 8 prey, reward 10, punishment -2, 200 steps). There, actions without effect
are masked out; here they are legal and have no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.grid import NOOP, GridCore, GridOptions, next_cells
from sb3_matrl.envs.option_checks import check_choice, check_flag, check_integer, check_number
from sb3_matrl.envs.random_streams import SeededCore, nth_true

CATCH = NOOP + 1
_RADIUS = 2
_WINDOW = (2 * _RADIUS + 1) ** 2


@dataclass(frozen=True, kw_only=True)
class PredatorPreyOptions(GridOptions):
    """
    Options of predator-prey; see :class:`~sb3_matrl.envs.grid.GridOptions` for the others.

    :param size: rows and columns of the grid, 3 to 20
    :param n_agents: number of predators, 2 to 8
    :param n_prey: number of prey, at least 1
    :param capture_reward: reward of a caught prey, divided among those that caught it
    :param miscapture_reward: reward of an agent that tries to catch a prey alone
    :param finished_agents: ``"wait"`` or ``"leave"``
    :param observe_walls: whether agents see which cells of their window are off the grid
    """

    step_cost: float = 0.0
    max_cycles: int = 200
    size: int = 10
    n_agents: int = 8
    n_prey: int = 8
    capture_reward: float = 10.0
    miscapture_reward: float = -2.0
    finished_agents: str = "wait"
    observe_walls: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("size", self.size, low=3, high=20)
        check_integer("n_agents", self.n_agents, low=2, high=8)
        check_integer("n_prey", self.n_prey, low=1, high=self.size**2 - self.n_agents)
        check_number("capture_reward", self.capture_reward)
        check_number("miscapture_reward", self.miscapture_reward)
        check_choice("finished_agents", self.finished_agents, ["wait", "leave"])
        check_flag("observe_walls", self.observe_walls)


class PredatorPreyCore(SeededCore, GridCore):
    """
    ``num_envs`` copies of predator-prey; the module's docstring has the rules.

    ``cells`` (num_envs, n_agents) and ``prey`` (num_envs, n_prey) are the cells; the number of cells marks those that have
    left the grid.

    :param num_envs: number of copies
    :param options: options of the world; ``None`` for the defaults
    """

    changing = (*GridCore.changing, "streams", "prey")
    N_ACTIONS = CATCH + 1
    options: PredatorPreyOptions
    metadata = {  # noqa: RUF012 - PettingZoo's convention
        "name": "predator_prey_v0",
        "render_modes": ["human", "rgb_array", "ansi"],
        "is_parallelizable": True,
        "render_fps": 5,
    }

    def __init__(self, num_envs: int = 1, options: PredatorPreyOptions | None = None) -> None:
        options = options or PredatorPreyOptions()
        self._n_cells = options.size**2
        self._gone, self._wall = self._n_cells, self._n_cells + 1  # extra cells: left the grid, beyond the border
        n_channels = 3 if options.observe_walls else 2
        starts = [0] * options.n_agents  # replaced in every reset
        super().__init__(num_envs, options, starts, np.ones(n_channels * _WINDOW), state_size=2 * self._n_cells + 1)
        self.floor = ("." * options.size,) * options.size
        self._make_tables(options.size)
        self._open_streams(num_envs)
        self._copies = np.arange(num_envs)
        self._stride = self._n_cells + 2
        self._offsets = self._copies * self._stride  # of the copies in flat arrays of cells
        self.cells = np.full((num_envs, options.n_agents), self._gone)
        self.prey = np.full((num_envs, options.n_prey), self._gone)

    def _make_tables(self, size: int) -> None:
        moves = next_cells(self.floor)
        stay = np.arange(self._n_cells)
        outside = np.full((len(moves) + 1, 1), self._gone)
        self.NEXT_CELL = np.concatenate([np.vstack([moves, stay]), outside], axis=1)  # (action, cell), with the gone cell
        beside = np.where(moves[:NOOP] == stay, self._wall, moves[:NOOP]).T
        self._beside = np.concatenate([beside, np.full((1, NOOP), self._wall)])  # (cell, 4), with the gone cell
        bordered = np.full((size + 2 * _RADIUS, size + 2 * _RADIUS), self._wall)
        bordered[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = stay.reshape(size, size)
        side = 2 * _RADIUS + 1
        windows = np.lib.stride_tricks.sliding_window_view(bordered, (side, side)).reshape(self._n_cells, _WINDOW)
        self._windows = np.concatenate([windows, np.full((1, _WINDOW), self._gone)])

    def highest_values(self) -> dict[str, int]:
        """As in all grid worlds, but agents and prey may have left the grid."""
        return {**super().highest_values(), "cells": self._gone, "prey": self._gone}

    def _start(self, copies: np.ndarray) -> None:
        n_agents, n_all = self.options.n_agents, self.options.n_agents + self.options.n_prey
        places = np.argsort(self._uniform(self._n_cells, copies), axis=1)[:, :n_all]
        self.cells = np.where(copies[:, None], places[:, :n_agents], self.cells)
        self.prey = np.where(copies[:, None], places[:, n_agents:], self.prey)

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        options = self.options
        n_agents, n_prey = options.n_agents, options.n_prey
        playing = np.logical_or.reduce(self.alive, axis=1)
        uniform = self._uniform(n_agents + 2 * n_prey, playing)
        before = self.cells == self._gone
        self.cells, self.prey = self.cells.copy(), self.prey.copy()
        occupied = self._occupied()
        self._move_predators(actions, np.argsort(uniform[:, :n_agents], axis=1), occupied)
        catchers = self._catchers((actions == CATCH) & ~before)
        rewards = np.full((self.num_envs, n_agents + 1), float(options.step_cost))  # the last column is for nobody
        order, choices = np.argsort(uniform[:, n_agents:-n_prey], axis=1), uniform[:, -n_prey:]
        for turn in range(n_prey):
            self._play_prey(order[:, turn], choices[:, turn], occupied, catchers, rewards)
        gone = self.cells == self._gone
        over = (gone.all(axis=1) | (self.prey == self._gone).all(axis=1))[:, None]
        return rewards[:, :-1], (over | (gone & ~before)) if options.finished_agents == "leave" else over

    def _occupied(self) -> np.ndarray:
        """Cells that nobody can enter, flat: bool (num_envs * (cells + 2),)."""
        occupied = np.zeros(self.num_envs * self._stride, dtype=bool)
        occupied[self.cells + self._offsets[:, None]] = True
        occupied[self.prey + self._offsets[:, None]] = True
        occupied[self._offsets + self._gone] = False
        occupied[self._offsets + self._wall] = True
        return occupied

    def _catchers(self, catching: np.ndarray) -> np.ndarray | None:
        """
        Tabulate the predators that play CATCH by their cells.

        :param catching: bool (num_envs, n_agents)
        :return: predator on each cell, or ``n_agents`` where none plays CATCH, flat: (num_envs * (cells + 2),); ``None`` if
            nobody plays it
        """
        if not np.count_nonzero(catching):
            return None
        catchers = np.full(self.num_envs * self._stride, self.options.n_agents)
        copies, agents = np.nonzero(catching)
        catchers[self._offsets[copies] + self.cells[copies, agents]] = agents
        return catchers

    def _move_predators(self, actions: np.ndarray, order: np.ndarray, occupied: np.ndarray) -> None:
        copies, offsets, width = self._copies, self._offsets, self.NEXT_CELL.shape[1]
        wanted = self.NEXT_CELL.ravel().take(actions * width + self.cells)
        for agent in order.T:
            own, target = self.cells[copies, agent], wanted[copies, agent]
            target = np.where(occupied.take(offsets + target), own, target)
            occupied[offsets + own] = False
            occupied[offsets + target] = target != self._gone
            self.cells[copies, agent] = target

    def _play_prey(
        self, prey: np.ndarray, uniform: np.ndarray, occupied: np.ndarray, catchers: np.ndarray | None, rewards: np.ndarray
    ) -> None:
        """Catch or move one prey in every copy; changes ``cells``, ``prey`` and the last three arguments."""
        copies, offsets = self._copies, self._offsets
        cell = self.prey[copies, prey]
        beside = self._beside.take(cell, axis=0) + offsets[:, None]
        target = cell
        if catchers is not None:
            caught = self._catch(beside, occupied, catchers, rewards)
            target = np.where(caught, self._gone, target)
        free = ~occupied.take(beside)
        moves = np.logical_or.reduce(free, axis=1) & (target != self._gone)
        target = np.where(moves, beside[copies, nth_true(free, uniform)] - offsets, target)
        occupied[offsets + cell] = False
        occupied[offsets + target] = target != self._gone
        self.prey[copies, prey] = target

    def _catch(self, beside: np.ndarray, occupied: np.ndarray, catchers: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Reward or punish those beside a prey that play CATCH; return in which copies it is caught: bool (num_envs,)."""
        options, agents = self.options, catchers.take(beside)  # (num_envs, 4)
        catching = agents < options.n_agents
        if not np.count_nonzero(catching):
            return np.zeros(self.num_envs, dtype=bool)
        count = np.add.reduce(catching, axis=1)
        caught = count > 1
        pay = np.where(caught, options.capture_reward / np.maximum(count, 1), options.miscapture_reward)
        rewards[self._copies[:, None], agents] += pay[:, None]
        if np.count_nonzero(caught):
            leaving = catching & caught[:, None]
            occupied[beside[leaving]] = False
            catchers[beside[leaving]] = options.n_agents
            rows, columns = np.nonzero(leaving)
            self.cells[rows, agents[rows, columns]] = self._gone
        return np.asarray(caught)

    def _planes(self) -> np.ndarray:
        """Predators, prey and walls: float32 (num_envs, 3, cells + 2)."""
        planes = np.zeros((self.num_envs, 3, self._n_cells + 2), dtype=np.float32)
        planes[self._copies[:, None], 0, self.cells] = 1
        planes[self._copies[:, None], 1, self.prey] = 1
        planes[:, :2, self._gone] = 0
        planes[:, 2, self._wall] = 1
        return planes

    def _write_views(self, out: np.ndarray) -> None:
        n_channels = 3 if self.options.observe_walls else 2
        planes = np.ascontiguousarray(np.moveaxis(self._planes()[:, :n_channels], 1, 2))  # (num_envs, cell, channel)
        seen = self._windows.take(self.cells.T, axis=0) + self._offsets[:, None]
        windows = planes.reshape(-1, n_channels).take(seen, axis=0)
        out[...] = windows.reshape(*self.cells.T.shape, -1)

    def state(self) -> np.ndarray:
        """Global state: float32 (num_envs, 2 * size * size + 1)."""
        planes = self._planes()[:, :2, : self._n_cells].reshape(self.num_envs, -1)
        return np.concatenate([planes, self._clock()[:, None]], axis=1, dtype=np.float32)

    def _things(self) -> list[str]:
        symbols = dict.fromkeys(self.prey[0].tolist(), "P")
        symbols |= {cell: str(agent) for agent, cell in enumerate(self.cells[0].tolist())}
        return self._rows([symbols.get(cell, ".") for cell in range(self._n_cells)])


def parallel_env(
    render_mode: str | None = None,
    size: int = 10,
    n_agents: int = 8,
    n_prey: int = 8,
    capture_reward: float = 10.0,
    miscapture_reward: float = -2.0,
    step_cost: float = 0.0,
    max_cycles: int = 200,
    finished_agents: str = "wait",
    observe_walls: bool = False,
    clock: bool = False,
    full_observability: bool = False,
    team_reward: bool = False,
) -> CoreParallelEnv:
    """
    Make predator-prey as a PettingZoo parallel environment; the module's docstring has the rules.

    :param render_mode: ``"human"``, ``"rgb_array"``, ``"ansi"`` or ``None``
    :param size: rows and columns of the grid, 3 to 20
    :param n_agents: number of predators, 2 to 8
    :param n_prey: number of prey, at least 1
    :param capture_reward: reward of a caught prey, divided among those that caught it
    :param miscapture_reward: reward of an agent that tries to catch a prey alone
    :param step_cost: reward of every step, for each agent
    :param max_cycles: steps after which the episode is truncated
    :param finished_agents: ``"wait"``: agents that have caught a prey wait for the end; ``"leave"``: they terminate
    :param observe_walls: let agents see which cells of their window are off the grid
    :param clock: append step / max_cycles to every agent's observation
    :param full_observability: give every agent the observations of all, in id order
    :param team_reward: give every live agent the sum of the live agents' rewards
    :raises ValueError: if an option is invalid; the message says what is valid
    """
    options = PredatorPreyOptions(
        size=size,
        n_agents=n_agents,
        n_prey=n_prey,
        capture_reward=capture_reward,
        miscapture_reward=miscapture_reward,
        step_cost=step_cost,
        max_cycles=max_cycles,
        finished_agents=finished_agents,
        observe_walls=observe_walls,
        clock=clock,
        full_observability=full_observability,
        team_reward=team_reward,
    )
    return CoreParallelEnv(PredatorPreyCore(1, options), render_mode)


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make predator-prey as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))
