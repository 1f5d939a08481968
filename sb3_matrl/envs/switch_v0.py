"""
Switch: agents on two sides of a corridor, one cell wide, must cross without blocking each other.

The map (row 0 at the top; ``#`` wall, ``0`` to ``3`` the agents, ``a`` to ``d`` their targets)::

    b 0 # # # 1 a        target of 0: a (0, 6)   of 1: b (0, 0)
    . . . . . . .
    d 2 # # # 3 c        target of 2: c (2, 6)   of 3: d (2, 0)

**Rules.** Actions: 0 DOWN, 1 LEFT, 2 UP, 3 RIGHT, 4 NOOP. Agents move one after another in id order; a move off the
grid, into a wall or into an occupied cell is cancelled. With fewer than four agents, those with the highest ids are
absent. An agent that has reached its target stays there, ignores its actions and continues to occupy that cell.

**Rewards.** ``step_cost`` at every step, but ``goal_reward`` in the step of arrival. With ``finished_agents="pay"`` (as in
the paper), an agent that has arrived continues to get ``step_cost``, and all agents terminate when the last one arrives.
With ``"leave"``, an agent terminates on arrival. Agents that are alive after ``max_cycles`` steps are truncated.

**Observation.** Own row / 2 and column / 6, rounded to two decimals.

**State.** These two numbers for every agent, whether each agent has arrived, and step / max_cycles: 3 n + 1 numbers.

The world is deterministic: the map and the start cells are fixed, and a seed has no effect. The best possible team return
(sum over agents and steps) with four agents is 14.40 in 15 steps ("pay") or 16.10 ("leave"); with two agents, 7.80 or 8.30.
Four agents that stay still get -20. Because agents observe only their own position, greedy policies block each other where
stochastic policies succeed: evaluate the sampled policy as well as the greedy one.

Source: the MATRL paper, Sec. 4 and App. E, after MA-Gym's Switch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.grid import NOOP, GridCore, GridOptions, next_cells, scaled_positions
from sb3_matrl.envs.option_checks import check_choice, check_integer, check_number

_FLOOR = ("b.###.a", ".......", "d.###.c")
_N_COLS = 7
_STARTS = (1, 5, 15, 19)  # (0, 1), (0, 5), (2, 1), (2, 5)
_TARGETS = tuple("".join(_FLOOR).index(letter) for letter in "abcd")
# Number of agents, and what those do that have arrived -> largest team return with the default rewards, and its steps.
_BEST = {
    (2, "pay"): (7.8, 12),
    (2, "leave"): (8.3, 12),
    (3, "pay"): (11.1, 14),
    (3, "leave"): (12.4, 14),
    (4, "pay"): (14.4, 15),
    (4, "leave"): (16.1, 15),
}
_POSITIONS = scaled_positions(len(_FLOOR), _N_COLS, row_scale=2, col_scale=6)


def _hide_targets(n_agents: int) -> tuple[str, ...]:
    """Remove the targets of absent agents from the floor."""
    absent = str.maketrans("abcd"[n_agents:], "." * (4 - n_agents))
    return tuple(row.translate(absent) for row in _FLOOR)


@dataclass(frozen=True, kw_only=True)
class SwitchOptions(GridOptions):
    """
    Options of Switch; see :class:`~sb3_matrl.envs.grid.GridOptions` for the others.

    :param n_agents: number of agents: 2, 3 or 4
    :param goal_reward: reward of the step of arrival, instead of the step cost
    :param finished_agents: ``"pay"`` or ``"leave"``
    """

    step_cost: float = -0.1
    max_cycles: int = 50
    n_agents: int = 4
    goal_reward: float = 5.0
    finished_agents: str = "pay"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("n_agents", self.n_agents, low=2, high=4)
        check_number("goal_reward", self.goal_reward)
        check_choice("finished_agents", self.finished_agents, ["pay", "leave"])


def _best_team_return(options: SwitchOptions) -> float | None:
    default, (best, steps) = SwitchOptions(), _BEST[options.n_agents, options.finished_agents]
    has_default_rewards = (options.step_cost, options.goal_reward) == (default.step_cost, default.goal_reward)
    # With team rewards, agents that leave early would get fewer sums.
    if not has_default_rewards or options.max_cycles < steps or (options.team_reward and options.finished_agents == "leave"):
        return None
    return best * (options.n_agents if options.team_reward else 1)


class SwitchCore(GridCore):
    """
    ``num_envs`` copies of Switch; the module's docstring has the rules.

    :param num_envs: number of copies
    :param options: options of the world; ``None`` for the defaults
    """

    changing = (*GridCore.changing, "_arrived")
    NEXT_CELL = next_cells(_FLOOR)
    metadata = {  # noqa: RUF012 - PettingZoo's convention
        "name": "switch_v0",
        "render_modes": ["human", "rgb_array", "ansi"],
        "is_parallelizable": True,
        "render_fps": 5,
    }

    def __init__(self, num_envs: int = 1, options: SwitchOptions | None = None) -> None:
        options = options or SwitchOptions()
        self._best_team_return = _best_team_return(options)
        n_agents = options.n_agents
        super().__init__(num_envs, options, _STARTS[:n_agents], view_high=np.ones(2), state_size=3 * n_agents + 1)
        self.floor = _hide_targets(n_agents)
        self._targets = np.array(_TARGETS[:n_agents])
        self._step_reward, self._goal_reward = float(options.step_cost), float(options.goal_reward)
        self._leave = options.finished_agents == "leave"
        self._arrived = np.zeros((num_envs, n_agents), dtype=bool)

    @property
    def best_team_return(self) -> float | None:
        """The best of the module's docstring with the default rewards, n times that with ``team_reward`` and "pay"."""
        return self._best_team_return

    def _start(self, copies: np.ndarray) -> None:
        self._arrived[copies] = False

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._move(np.where(self._arrived, NOOP, actions))
        arriving = (self.cells == self._targets) & ~self._arrived
        self._arrived |= arriving
        rewards = np.where(arriving, self._goal_reward, self._step_reward)
        all_arrived = np.logical_and.reduce(self._arrived, axis=1)[:, None]
        return rewards, arriving if self._leave else all_arrived

    def _write_views(self, out: np.ndarray) -> None:
        out[...] = _POSITIONS.take(self.cells.T, axis=0)

    def state(self) -> np.ndarray:
        """Global state: float32 (num_envs, 3 n_agents + 1)."""
        positions = _POSITIONS[self.cells].reshape(self.num_envs, -1)
        return np.concatenate([positions, self._arrived, self._clock()[:, None]], axis=1, dtype=np.float32)

    def _things(self) -> list[str]:
        agents = {cell: str(agent) for agent, cell in enumerate(self.cells[0].tolist())}
        return self._rows([agents.get(cell, ".") for cell in range(len(_POSITIONS))])


def parallel_env(
    render_mode: str | None = None,
    n_agents: int = 4,
    step_cost: float = -0.1,
    goal_reward: float = 5.0,
    max_cycles: int = 50,
    finished_agents: str = "pay",
    clock: bool = False,
    full_observability: bool = False,
    team_reward: bool = False,
) -> CoreParallelEnv:
    """
    Make Switch as a PettingZoo parallel environment; the module's docstring has the rules.

    :param render_mode: ``"human"``, ``"rgb_array"``, ``"ansi"`` or ``None``
    :param n_agents: number of agents: 2, 3 or 4
    :param step_cost: reward of every step except that of arrival, for each agent
    :param goal_reward: reward of the step of arrival
    :param max_cycles: steps after which the episode is truncated
    :param finished_agents: ``"pay"``: agents at their target get ``step_cost`` until all have arrived; ``"leave"``: they
        terminate
    :param clock: append step / max_cycles to every agent's observation
    :param full_observability: give every agent the observations of all, in id order
    :param team_reward: give every live agent the sum of the live agents' rewards
    :raises ValueError: if an option is invalid; the message says what is valid
    """
    options = SwitchOptions(
        n_agents=n_agents,
        step_cost=step_cost,
        goal_reward=goal_reward,
        max_cycles=max_cycles,
        finished_agents=finished_agents,
        clock=clock,
        full_observability=full_observability,
        team_reward=team_reward,
    )
    return CoreParallelEnv(SwitchCore(1, options), render_mode)


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make Switch as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))
