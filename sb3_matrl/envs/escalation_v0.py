"""
Escalation: two agents are paid for stepping on lit cells together, and the one that is left alone pays for the whole streak.

**Rules.** Two agents start on random cells of a square grid, and one random cell is lit. Actions: 0 DOWN, 1 LEFT, 2 UP,
3 RIGHT, 4 NOOP. Both agents move at the same time; a move off the grid has no effect, and agents may share a cell. After the
moves of a step, with L the streak so far:

- Both agents are on the lit cell: each gets ``streak_reward``, L grows by 1, and instead of this cell a random one beside it
  (of the up to four cells above, below, left and right) is lit.
- One agent is on it, and L >= 1: the other one has left the path. The agent on the lit cell gets -``desertion_penalty`` * L,
  and the episode terminates for both.
- One agent is on it, and L = 0: nothing happens; it may wait for the other one.
- No agent is on it: L becomes 0, without punishment, and the same cell stays lit.

``step_cost`` is added in every step. The episode is truncated after ``max_cycles`` steps.

**Observation.** size * size one-hot numbers each for the own cell, the other agent's cell and the lit cell, then
L / max_cycles: 76 numbers with the default size.

**State.** The same with the plane of agent_0 first, and step / max_cycles.

**Seed.** It determines the start cells, the first lit cell and all later ones.

The best possible team return is 2 * (max_cycles - d + 1) * streak_reward, where d is the number of steps, at least 1, of the
agent that is farther from the first lit cell: both walk there, and then follow the light. The longer the streak, the more the
agent that stays loses if the other one leaves, so that leaving together, or never meeting, is the safe choice.

Sources: A. Peysakhovich and A. Lerer 2018, "Prosocial learning agents solve generalized Stag Hunts better than selfish ones",
and Z. Tang et al. 2021, "Discovering diverse multi-agent strategic behavior via reward randomization", whose rules these are
(punishment 0.9 L; agents that leave the path together are not punished, and the game continues).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.option_checks import check_number
from sb3_matrl.envs.random_streams import SeededCore, nth_true
from sb3_matrl.envs.square_grid import SquareGridCore, SquareGridOptions


@dataclass(frozen=True, kw_only=True)
class EscalationOptions(SquareGridOptions):
    """
    Options of Escalation; see :class:`~sb3_matrl.envs.square_grid.SquareGridOptions` for the others.

    :param streak_reward: reward of each agent when both are on the lit cell
    :param desertion_penalty: punishment of the agent that is left alone, per step of the streak
    """

    max_cycles: int = 50
    size: int = 5
    streak_reward: float = 1.0
    desertion_penalty: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("streak_reward", self.streak_reward)
        check_number("desertion_penalty", self.desertion_penalty)


class EscalationCore(SeededCore, SquareGridCore):
    """
    ``num_envs`` copies of Escalation; the module's docstring has the rules.

    ``lit`` (num_envs,) are the lit cells, ``streak`` (num_envs,) the lengths of the streaks.

    :param num_envs: number of copies
    :param options: options of the game; ``None`` for the defaults
    """

    changing = (*SquareGridCore.changing, "streams", "lit", "streak")
    options: EscalationOptions
    metadata = {  # noqa: RUF012 - PettingZoo's convention
        "name": "escalation_v0",
        "render_modes": ["human", "rgb_array", "ansi"],
        "is_parallelizable": True,
        "render_fps": 5,
    }

    def __init__(self, num_envs: int = 1, options: EscalationOptions | None = None) -> None:
        options = options or EscalationOptions()
        super().__init__(num_envs, options, [0, 0], n_planes=1, n_more=1)
        self._open_streams(num_envs)
        self._is_beside = self.NEXT_CELL[:4] != np.arange(self._n_cells)  # (action, cell): the action leads to another cell
        self.lit = np.zeros(num_envs, dtype=np.int64)
        self.streak = np.zeros(num_envs, dtype=np.int64)

    def highest_values(self) -> dict[str, int]:
        """As in all grid worlds, and the last cell for the lit one."""
        return {**super().highest_values(), "lit": self._n_cells - 1, "streak": self.options.max_cycles}

    def _start(self, copies: np.ndarray) -> None:
        drawn = (self._uniform(3, copies) * self._n_cells).astype(np.int64)
        self.cells = np.where(copies[:, None], drawn[:, :2], self.cells)
        self.lit = np.where(copies, drawn[:, 2], self.lit)
        self.streak = np.where(copies, 0, self.streak)

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        options = self.options
        self._move(actions)
        on = self.cells == self.lit[:, None]
        both, one = on[:, 0] & on[:, 1], on[:, 0] ^ on[:, 1]
        punishment = options.desertion_penalty * self.streak * one
        paid = options.streak_reward * both - punishment
        rewards = on * paid[:, None] + options.step_cost
        deserted = (one & (self.streak > 0))[:, None]
        playing = np.logical_or.reduce(self.alive, axis=1)
        uniform = self._uniform(1, playing)[:, 0]
        direction = nth_true(self._is_beside[:, self.lit].T, uniform)
        self.lit = np.where(both & playing, self.NEXT_CELL[direction, self.lit], self.lit)
        self.streak = np.where(both, self.streak + 1, np.where(one, self.streak, 0))
        return rewards, deserted

    def _thing_planes(self) -> np.ndarray:
        return np.asarray(self._eye[self.lit][:, None])

    def _more(self) -> np.ndarray:
        return np.asarray(np.minimum(self.streak / self.options.max_cycles, 1.0)[:, None], dtype=np.float32)

    def _thing_symbols(self) -> dict[int, str]:
        return {int(self.lit[0]): "*"}


def parallel_env(
    render_mode: str | None = None,
    size: int = 5,
    streak_reward: float = 1.0,
    desertion_penalty: float = 0.9,
    step_cost: float = 0.0,
    max_cycles: int = 50,
    clock: bool = False,
    team_reward: bool = False,
) -> CoreParallelEnv:
    """
    Make Escalation as a PettingZoo parallel environment; the module's docstring has the rules.

    :param render_mode: ``"human"``, ``"rgb_array"``, ``"ansi"`` or ``None``
    :param size: rows and columns of the grid, 3 to 10
    :param streak_reward: reward of each agent when both are on the lit cell
    :param desertion_penalty: punishment of the agent that is left alone, per step of the streak
    :param step_cost: reward of every step, for each agent
    :param max_cycles: steps after which the episode is truncated
    :param clock: append step / max_cycles to every agent's observation
    :param team_reward: give both agents the sum of their rewards
    :raises ValueError: if an option is invalid; the message says what is valid
    """
    options = EscalationOptions(
        size=size,
        streak_reward=streak_reward,
        desertion_penalty=desertion_penalty,
        step_cost=step_cost,
        max_cycles=max_cycles,
        clock=clock,
        team_reward=team_reward,
    )
    return CoreParallelEnv(EscalationCore(1, options), render_mode)


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make Escalation as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))
