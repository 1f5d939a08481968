"""
Stag hunt on a grid: two hunters catch the stag together, or each takes a hare alone.

The map with the default size 4 (row 0 at the top; ``0`` and ``1`` the agents, ``S`` the stag, ``H`` the hares)::

    0 . . .        a hare is size - 2 steps from its hunter,
    . . S H        the stag is size - 1 steps from both
    H . . .
    . . . 1

**Rules.** Actions: 0 DOWN, 1 LEFT, 2 UP, 3 RIGHT, 4 NOOP. Both agents move at the same time; a move off the grid has no
effect, and agents may share cells with each other and with animals.

**Rewards**, after the moves. Both agents on the stag's cell: ``stag_reward`` for each. One agent on it: ``lone_reward`` for
this agent, in every step. An agent on a hare's cell: ``hare_reward``. ``step_cost`` is added in every step.

**End.** The episode terminates for both when the stag or a hare has been caught, and is truncated after ``max_cycles`` steps.

**Variants.** With ``stag_follows=True`` the stag moves after the agents, one step towards the nearer agent (agent_0 if both
are equally near; along the longer axis, along the column if both are equally long), and stays if an agent is on its cell. With
``respawn=True`` nothing ends the episode before ``max_cycles``: an animal that an agent has met, alone or not, reappears on a
random cell without agents and animals. Monster-Hunt is then ``size=5, stag_follows=True, respawn=True, hare_reward=2,
lone_reward=-2`` (Tang et al. 2021), and the Markov stag hunt is similar, with ``hare_reward=1`` (Peysakhovich and Lerer 2018).

**Observation.** size * size one-hot numbers each for the own cell, the other agent's cell, the stag's cell, and the cells of
the hares: 64 numbers with the default size.

**State.** The same planes with agent_0 first, and step / max_cycles.

A seed has an effect only with ``respawn=True``. With the default options, the best possible team return is 10, in three steps
(both agents walk to the stag), and both agents at their hares in the second step get 3. Both are equilibria: hunting the stag
alone pays less than a hare, so that the hares are the safe choice.

Sources: A. Peysakhovich and A. Lerer 2018, "Prosocial learning agents solve generalized Stag Hunts better than selfish ones";
Z. Tang et al. 2021, "Discovering diverse multi-agent strategic behavior via reward randomization". The default is a short
version of these games, in which one mistake ends the episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.option_checks import check_flag, check_number
from sb3_matrl.envs.random_streams import SeededCore, nth_true
from sb3_matrl.envs.square_grid import SquareGridCore, SquareGridOptions


@dataclass(frozen=True, kw_only=True)
class StagHuntOptions(SquareGridOptions):
    """
    Options of the stag hunt; see :class:`~sb3_matrl.envs.square_grid.SquareGridOptions` for the others.

    :param stag_reward: reward of each agent when both are on the stag's cell
    :param hare_reward: reward of an agent on a hare's cell
    :param lone_reward: reward of an agent that is alone on the stag's cell
    :param stag_follows: whether the stag moves towards the nearer agent
    :param respawn: whether animals reappear, and the episode lasts ``max_cycles`` steps
    """

    max_cycles: int = 12
    size: int = 4
    stag_reward: float = 5.0
    hare_reward: float = 1.5
    lone_reward: float = -0.5
    stag_follows: bool = False
    respawn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stag_reward", "hare_reward", "lone_reward"):
            check_number(name, getattr(self, name))
        for name in ("stag_follows", "respawn"):
            check_flag(name, getattr(self, name))


class StagHuntCore(SeededCore, SquareGridCore):
    """
    ``num_envs`` copies of the stag hunt; the module's docstring has the rules.

    ``animals`` (num_envs, 3) are the cells of the stag and the two hares.

    :param num_envs: number of copies
    :param options: options of the game; ``None`` for the defaults
    """

    changing = (*SquareGridCore.changing, "streams", "animals")
    options: StagHuntOptions
    metadata = {  # noqa: RUF012 - PettingZoo's convention
        "name": "stag_hunt_v0",
        "render_modes": ["human", "rgb_array", "ansi"],
        "is_parallelizable": True,
        "render_fps": 5,
    }

    def __init__(self, num_envs: int = 1, options: StagHuntOptions | None = None) -> None:
        options = options or StagHuntOptions()
        size, last = options.size, options.size - 1
        super().__init__(num_envs, options, [0, size * size - 1], n_planes=2)
        self._open_streams(num_envs)
        self._animals_at_start = np.array([(last // 2) * size + size // 2, (last - 1) * size, size + last])
        self.animals = np.tile(self._animals_at_start, (num_envs, 1))

    def highest_values(self) -> dict[str, int]:
        """As in all grid worlds, and the last cell for animals."""
        return {**super().highest_values(), "animals": self._n_cells - 1}

    def _start(self, copies: np.ndarray) -> None:
        self.animals = np.where(copies[:, None], self._animals_at_start, self.animals)

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        options = self.options
        self._move(actions)
        if options.stag_follows:
            self._chase()
        on = self.cells[:, :, None] == self.animals[:, None, :]  # (num_envs, agent, animal)
        both = np.logical_and.reduce(on[:, :, 0], axis=1)[:, None]
        at_stag = on[:, :, 0] * np.where(both, options.stag_reward, options.lone_reward)
        at_hare = options.hare_reward * np.logical_or.reduce(on[:, :, 1:], axis=2)
        rewards = at_stag + at_hare + options.step_cost
        if options.respawn:
            self._respawn(np.logical_or.reduce(on, axis=1))
            return rewards, np.zeros_like(both)
        return rewards, both | np.logical_or.reduce(on[:, :, 1:], axis=(1, 2))[:, None]

    def _chase(self) -> None:
        """Move the stag of every copy one step towards the nearer agent."""
        size = self.options.size
        rows, cols = np.divmod(self.cells, size)
        row, col = np.divmod(self.animals[:, 0], size)
        down, right = rows - row[:, None], cols - col[:, None]
        nearer = np.argmin(abs(down) + abs(right), axis=1)
        copies = np.arange(self.num_envs)
        down, right = down[copies, nearer], right[copies, nearer]
        step = np.where(abs(down) >= abs(right), size * np.sign(down), np.sign(right))
        self.animals = self.animals + np.stack([step, np.zeros_like(step), np.zeros_like(step)], axis=1)

    def _respawn(self, met: np.ndarray) -> None:
        """Move animals to random free cells: ``met`` bool (num_envs, 3)."""
        playing = np.logical_or.reduce(self.alive, axis=1)
        uniform = self._uniform(3, playing)
        copies, animals = np.arange(self.num_envs), self.animals.copy()
        for animal in range(3):
            free = np.ones((self.num_envs, self._n_cells), dtype=bool)
            for cells in (*self.cells.T, *animals.T):
                free[copies, cells] = False
            target = nth_true(free, uniform[:, animal])
            animals[:, animal] = np.where(met[:, animal] & playing, target, animals[:, animal])
        self.animals = animals

    def _thing_planes(self) -> np.ndarray:
        planes = self._eye[self.animals]
        return np.stack([planes[:, 0], np.maximum(planes[:, 1], planes[:, 2])], axis=1)

    def _thing_symbols(self) -> dict[int, str]:
        stag, *hares = self.animals[0].tolist()
        return dict.fromkeys(hares, "H") | {stag: "S"}


def parallel_env(
    render_mode: str | None = None,
    size: int = 4,
    stag_reward: float = 5.0,
    hare_reward: float = 1.5,
    lone_reward: float = -0.5,
    step_cost: float = 0.0,
    max_cycles: int = 12,
    stag_follows: bool = False,
    respawn: bool = False,
    clock: bool = False,
    team_reward: bool = False,
) -> CoreParallelEnv:
    """
    Make the stag hunt as a PettingZoo parallel environment; the module's docstring has the rules.

    :param render_mode: ``"human"``, ``"rgb_array"``, ``"ansi"`` or ``None``
    :param size: rows and columns of the grid, 3 to 10
    :param stag_reward: reward of each agent when both are on the stag's cell
    :param hare_reward: reward of an agent on a hare's cell
    :param lone_reward: reward of an agent that is alone on the stag's cell
    :param step_cost: reward of every step, for each agent
    :param max_cycles: steps after which the episode is truncated
    :param stag_follows: let the stag move towards the nearer agent
    :param respawn: let animals reappear, so that the episode lasts ``max_cycles`` steps
    :param clock: append step / max_cycles to every agent's observation
    :param team_reward: give both agents the sum of their rewards
    :raises ValueError: if an option is invalid; the message says what is valid
    """
    options = StagHuntOptions(
        size=size,
        stag_reward=stag_reward,
        hare_reward=hare_reward,
        lone_reward=lone_reward,
        step_cost=step_cost,
        max_cycles=max_cycles,
        stag_follows=stag_follows,
        respawn=respawn,
        clock=clock,
        team_reward=team_reward,
    )
    return CoreParallelEnv(StagHuntCore(1, options), render_mode)


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make the stag hunt as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))
