"""
Normal-form games as environments: every agent picks an action, everyone is paid, nothing else changes.

Any number of players; the payoffs are an array of shape (n, A_1, ..., A_n) whose entry ``[i, a_1, ..., a_n]`` is what
player i gets when player j plays a_j. Every agent always sees the constant 1.0; the state is round / max_cycles.

With ``max_cycles=1`` the single round ends the game by its rules: it *terminates*. A repeated game (``max_cycles`` above 1)
is one of that known, finite length, so its last round terminates as well: nothing is truncated, and no value is
bootstrapped beyond the end. The world is deterministic; a seed changes nothing.

The named games are the usual ones of the literature; in ``"shapley"`` (after Shapley 1964, "Some topics in two-person games")
the row player is paid for matching the column player, who is paid for being one ahead, so that many learners cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.common.suggest import unknown
from sb3_matrl.envs.checks import check_flag, check_integer
from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv, CoreStep, discrete_actions

_PRISONERS_DILEMMA = ((3, 1), (4, 2))  # actions: cooperate, defect
_CHICKEN = ((3, 2), (4, 1))  # swerve, straight
_STAG_HUNT = ((4, 1), (3, 2))  # stag, hare
_COORDINATION = ((1, 0), (0, 1))
_MATCHING_PENNIES = ((1, -1), (-1, 1))  # heads, tails
_RPS = ((0, -1, 1), (1, 0, -1), (-1, 1, 0))  # rock, paper, scissors
_SHAPLEY_ROW = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_SHAPLEY_COLUMN = ((0, 1, 0), (0, 0, 1), (1, 0, 0))


def _symmetric(row_payoffs: ArrayLike) -> np.ndarray:
    row = np.asarray(row_payoffs, dtype=np.float64)
    return np.stack([row, row.T])


def _zero_sum(row_payoffs: ArrayLike) -> np.ndarray:
    row = np.asarray(row_payoffs, dtype=np.float64)
    return np.stack([row, 0.0 - row])


_GAMES = {
    "rps": _zero_sum(_RPS),
    "matching_pennies": _zero_sum(_MATCHING_PENNIES),
    "prisoners_dilemma": _symmetric(_PRISONERS_DILEMMA),
    "chicken": _symmetric(_CHICKEN),
    "stag_hunt": _symmetric(_STAG_HUNT),
    "coordination": _symmetric(_COORDINATION),
    "shapley": np.array([_SHAPLEY_ROW, _SHAPLEY_COLUMN], dtype=np.float64),
}


def game_names() -> list[str]:
    """Names that :func:`named_payoffs` and :func:`parallel_env` know."""
    return list(_GAMES)


def named_payoffs(game: str) -> np.ndarray:
    """
    Look up the payoffs of a named game.

    :param game: one of :func:`game_names`
    :return: float64, (2, A_1, A_2), a copy
    :raises ValueError: on an unknown name, with the nearest one
    """
    if game not in _GAMES:
        raise ValueError(unknown("game", game, _GAMES))
    return _GAMES[game].copy()


def check_payoffs(payoffs: ArrayLike) -> np.ndarray:
    """
    Check the payoffs of a normal-form game.

    :param payoffs: shape (n, A_1, ..., A_n)
    :return: float64 copy
    :raises ValueError: when the shape is another, or a payoff is not finite
    """
    try:
        array = np.array(payoffs, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"payoffs must be an array of numbers of shape (n, A_1, ..., A_n): {error}") from error
    if array.ndim < 2 or array.ndim != len(array) + 1 or array.size == 0:
        raise ValueError(
            f"payoffs must have shape (n, A_1, ..., A_n): first axis the n players, then one axis of actions per player; "
            f"got shape {array.shape}"
        )
    if not np.isfinite(array).all():
        where = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
        raise ValueError(f"payoffs must be finite, got {array[where]} at {where}")
    return array


def nash_conv(payoffs: ArrayLike, strategies: Sequence[ArrayLike]) -> float:
    """
    Distance of mixed strategies from a Nash equilibrium: the players' best gains by deviating alone, summed.

    NashConv(x) = sum_i (max_a u_i(a, x_-i) - u_i(x)), exact; 0 exactly at equilibria (Lanctot et al. 2017, Sec. 2).

    :param payoffs: shape (n, A_1, ..., A_n)
    :param strategies: n probability vectors, of shape (A_i,)
    :return: NashConv, at least 0 up to rounding
    :raises ValueError: on invalid payoffs, or a strategy that is no probability vector of the right length
    """
    game = check_payoffs(payoffs)
    mixed = _check_strategies(strategies, game.shape[1:])
    gain = 0.0
    for player, own in enumerate(mixed):
        values = game[player]
        for other in reversed(range(len(mixed))):  # from the last axis, so that the remaining ones keep their places
            if other != player:
                values = np.tensordot(values, mixed[other], axes=(other, 0))
        gain += float(values.max() - values @ own)
    return gain


def _check_strategies(strategies: Sequence[ArrayLike], counts: Sequence[int]) -> list[np.ndarray]:
    if len(strategies) != len(counts):
        raise ValueError(f"strategies must be one per player: expected {len(counts)}, got {len(strategies)}")
    mixed = [np.asarray(strategy, dtype=np.float64) for strategy in strategies]
    for player, (strategy, count) in enumerate(zip(mixed, counts, strict=True)):
        is_valid = strategy.shape == (count,) and (strategy >= -1e-9).all() and abs(strategy.sum() - 1) < 1e-6
        if not is_valid:
            raise ValueError(f"strategy of player {player} must be {count} probabilities that sum to 1, got {strategy}")
    return mixed


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixGameOptions:
    """
    Options of a matrix game.

    :param payoffs: shape (n, A_1, ..., A_n)
    :param max_cycles: rounds of an episode
    :param team_reward: whether every agent gets the sum of all payoffs
    """

    payoffs: np.ndarray
    max_cycles: int = 1
    team_reward: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "payoffs", check_payoffs(self.payoffs))
        check_integer("max_cycles", self.max_cycles, low=1)
        check_flag("team_reward", self.team_reward)


class MatrixGameCore(BatchedCore):
    """
    ``num_envs`` copies of a normal-form game; the rules are in the module's text.

    :param num_envs: number of copies
    :param options: the game
    """

    metadata = {  # noqa: RUF012 - PettingZoo's convention
        "name": "matrix_game_v0",
        "render_modes": ["ansi"],
        "is_parallelizable": True,
        "render_fps": 1,
    }

    def __init__(self, num_envs: int, options: MatrixGameOptions) -> None:
        check_integer("num_envs", num_envs, low=1)
        self.num_envs = num_envs
        self.options = options
        self._counts = np.array(options.payoffs.shape[1:])
        self.possible_agents = [f"agent_{agent}" for agent in range(len(self._counts))]
        self.observation_spaces = {agent: spaces.Box(0.0, 1.0, (1,), np.float32) for agent in self.possible_agents}
        self.action_spaces = {
            agent: spaces.Discrete(int(count)) for agent, count in zip(self.possible_agents, self._counts, strict=True)
        }
        self.state_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.alive = np.zeros((num_envs, len(self._counts)), dtype=bool)
        self._rounds = np.zeros(num_envs, dtype=np.int64)
        self._last_actions = np.zeros(self.alive.shape, dtype=np.int64)
        self._last_rewards = np.zeros(self.alive.shape)

    def replicate(self, num_envs: int) -> MatrixGameCore:
        """
        Build a fresh core of the same game.

        :param num_envs: number of copies of the new core
        """
        return type(self)(num_envs, self.options)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Does nothing: there is no randomness."""

    def reset(self, copies: np.ndarray | None = None) -> None:
        """
        Start a new episode.

        :param copies: bool mask (num_envs,) of the copies to reset; all when ``None``
        """
        chosen = np.ones(self.num_envs, dtype=bool) if copies is None else np.asarray(copies, dtype=bool)
        self._rounds = np.where(chosen, 0, self._rounds)
        self.alive = self.alive | chosen[:, None]

    def step(self, actions: np.ndarray) -> CoreStep:
        """
        Play one round in every copy whose game is not over.

        :param actions: (num_envs, n_agents), integers; rows of copies whose game is over are ignored
        :raises ValueError: on an invalid action of a live agent; names the agent and the value
        """
        alive = self.alive
        actions = discrete_actions(actions, self._counts, alive, self.possible_agents)
        self._rounds = self._rounds + alive[:, 0]
        payoffs = self.options.payoffs[:, *actions.T].T
        if self.options.team_reward:
            payoffs = np.broadcast_to(payoffs.sum(axis=1, keepdims=True), alive.shape)
        rewards = np.where(alive, payoffs, 0.0)
        over = (self._rounds >= self.options.max_cycles)[:, None]
        self.alive = alive & ~over
        self._last_actions, self._last_rewards = actions, rewards
        return CoreStep(rewards.copy(), alive & over, np.zeros_like(alive))

    def observations(self) -> dict[str, np.ndarray]:
        """The constant 1 for every agent: float32, (num_envs, 1)."""
        return {agent: np.ones((self.num_envs, 1), dtype=np.float32) for agent in self.possible_agents}

    def state(self) -> np.ndarray:
        """round / max_cycles: float32, (num_envs, 1)."""
        return (self._rounds / self.options.max_cycles).astype(np.float32)[:, None]

    def render(self, mode: str) -> np.ndarray | str:
        """
        Describe the last round of copy 0.

        :param mode: ``"ansi"``
        """
        if mode != "ansi":
            return super().render(mode)
        lines = [f"round {self._rounds[0]}/{self.options.max_cycles}"]
        if self._rounds[0]:
            last = zip(self.possible_agents, self._last_actions[0], self._last_rewards[0], strict=True)
            lines += [f"{agent} played {action}: {reward:g}" for agent, action, reward in last]
        return "\n".join(lines)


def parallel_env(
    game: str = "rps",
    payoffs: ArrayLike | None = None,
    max_cycles: int = 1,
    render_mode: str | None = None,
    team_reward: bool = False,
) -> CoreParallelEnv:
    """
    Make a normal-form game as a PettingZoo parallel environment. The rules are in the module's text.

    :param game: ``"rps"``, ``"matching_pennies"``, ``"prisoners_dilemma"``, ``"chicken"``, ``"stag_hunt"``,
        ``"coordination"`` or ``"shapley"``; ignored when ``payoffs`` are given
    :param payoffs: payoffs of another game, shape (n, A_1, ..., A_n) for n players
    :param max_cycles: rounds of an episode
    :param render_mode: ``"ansi"`` or ``None``
    :param team_reward: give every agent the sum of all payoffs
    :raises ValueError: on an invalid option; names it and says what is valid
    """
    table = named_payoffs(game) if payoffs is None else check_payoffs(payoffs)
    options = MatrixGameOptions(payoffs=table, max_cycles=max_cycles, team_reward=team_reward)
    return CoreParallelEnv(MatrixGameCore(1, options), render_mode)


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make a normal-form game as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))
