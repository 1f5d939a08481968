"""
Normal-form games as environments: in every round each agent chooses an action and gets a payoff.

The number of players is arbitrary. Payoffs are an array of shape (n, A_1, ..., A_n) whose entry ``[i, a_1, ..., a_n]`` is
the payoff of player i when every player j plays a_j. Every agent observes the constant 1.0; the state is
round / max_cycles.

The last of ``max_cycles`` rounds *terminates* the game: a repeated game has a known, finite length, so it is never
truncated, and no value is bootstrapped beyond its end. A seed has an effect only in games with random payoffs, where one coin
per round decides for all players.

The named games are the usual ones of the literature: two-player games such as chicken, the climbing and penalty games with
common payoffs, congestion with any number of players, and random games; see :mod:`sb3_matrl.games.one_shot_games` for their
payoffs, sources and best welfare. In ``"shapley"`` (after Shapley 1964, "Some topics in two-person
games") the row player is paid for matching the column player, who is paid for being one ahead, so that many learners cycle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import parallel_to_aec

from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv, CoreStep, discrete_actions
from sb3_matrl.envs.matrix_game_tables import MatrixGameTables
from sb3_matrl.envs.option_checks import check_flag, check_integer
from sb3_matrl.envs.random_streams import SeededCore
from sb3_matrl.games.named_games import named_payoffs
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.one_shot_games import OneShotGame, TableGame, one_shot_game
from sb3_matrl.games.one_shot_games import one_shot_names as game_names
from sb3_matrl.games.payoff_arrays import check_payoffs

__all__ = [
    "MatrixGameCore",
    "MatrixGameOptions",
    "MatrixGameParallelEnv",
    "RandomMatrixGameCore",
    "check_payoffs",
    "env",
    "game_names",
    "named_payoffs",
    "nash_conv",
    "one_shot_game",
    "parallel_env",
]


def nash_conv(payoffs: ArrayLike, strategies: Sequence[ArrayLike]) -> float:
    """
    Distance of mixed strategies from a Nash equilibrium: sum of the players' best gains from unilateral deviation.

    NashConv(x) = sum_i (max_a u_i(a, x_-i) - u_i(x)), exact; 0 exactly at equilibria (Lanctot et al. 2017, Sec. 2).

    :param payoffs: shape (n, A_1, ..., A_n)
    :param strategies: n probability vectors of shape (A_i,)
    :return: NashConv, at least 0 up to rounding
    :raises ValueError: if the payoffs are invalid, or a strategy is no probability vector of the right length
    """
    table = check_payoffs(payoffs)
    for player, strategy in enumerate(strategies):
        if np.ndim(strategy) != 1:
            count = table.shape[1:][player] if player < len(table) else "A_i"
            raise ValueError(f"strategy of player {player} must be {count} probabilities that sum to 1, got {strategy}")
    return float(NormalFormGame(table, len(table)).nash_conv(strategies))


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixGameOptions:
    """
    Options of a matrix game.

    :param payoffs: the game, or its payoffs, shape (n, A_1, ..., A_n), which become a game
    :param max_cycles: number of rounds of an episode
    :param team_reward: whether every agent gets the sum of all payoffs
    """

    payoffs: ArrayLike | OneShotGame
    max_cycles: int = 1
    team_reward: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.payoffs, OneShotGame):
            object.__setattr__(self, "payoffs", TableGame(self.payoffs))
        check_integer("max_cycles", self.max_cycles, low=1)
        check_flag("team_reward", self.team_reward)

    @property
    def game(self) -> OneShotGame:
        """The game that is played."""
        assert isinstance(self.payoffs, OneShotGame)
        return self.payoffs


class MatrixGameCore(BatchedCore):
    """
    ``num_envs`` copies of a normal-form game; the module's docstring has the rules.

    :param num_envs: number of copies
    :param options: options of the game
    """

    changing: ClassVar[tuple[str, ...]] = ("alive", "_rounds", "_last_actions", "_last_rewards")
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
        self._counts = np.array(options.game.n_actions)
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
        Create a new core of the same game.

        :param num_envs: number of copies of the new core
        """
        return type(self)(num_envs, self.options)

    @property
    def best_team_return(self) -> float | None:
        """Largest sum of the players' expected payoffs, times the number of rounds, n times that with ``team_reward``."""
        options = self.options
        return options.game.best_welfare() * options.max_cycles * (options.game.n_players if options.team_reward else 1)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Do nothing: there is no randomness."""

    def reset(self, copies: np.ndarray | None = None) -> None:
        """
        Start a new episode.

        :param copies: bool (num_envs,), copies to reset; ``None`` for all
        """
        chosen = np.ones(self.num_envs, dtype=bool) if copies is None else np.asarray(copies, dtype=bool)
        self._rounds = np.where(chosen, 0, self._rounds)
        self.alive = self.alive | chosen[:, None]

    def step(self, actions: np.ndarray) -> CoreStep:
        """
        Play one round in every copy whose game is not over.

        :param actions: (num_envs, n_agents), integers; rows of copies whose game is over are ignored
        :raises ValueError: if the action of a live agent is invalid; names the agent and the value
        """
        alive = self.alive
        actions = discrete_actions(actions, self._counts, alive, self.possible_agents)
        self._rounds = self._rounds + alive[:, 0]
        payoffs = self._payoffs(actions)
        if self.options.team_reward:
            payoffs = np.broadcast_to(payoffs.sum(axis=1, keepdims=True), alive.shape)
        rewards = np.where(alive, payoffs, 0.0)
        over = (self._rounds >= self.options.max_cycles)[:, None]
        self.alive = alive & ~over
        self._last_actions, self._last_rewards = actions, rewards
        return CoreStep(rewards.copy(), alive & over, np.zeros_like(alive))

    def _payoffs(self, actions: np.ndarray) -> np.ndarray:
        """Payoffs of one round: (num_envs, n_agents)."""
        return self.options.game.payoffs(actions)

    def observations(self) -> dict[str, np.ndarray]:
        """Constant 1 for every agent: float32 (num_envs, 1)."""
        return {agent: np.ones((self.num_envs, 1), dtype=np.float32) for agent in self.possible_agents}

    def state(self) -> np.ndarray:
        """Global state, round / max_cycles: float32 (num_envs, 1)."""
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


class RandomMatrixGameCore(SeededCore, MatrixGameCore):
    """
    ``num_envs`` copies of a normal-form game with random payoffs, one random stream per copy.

    :param num_envs: number of copies
    :param options: options of the game
    """

    changing = (*MatrixGameCore.changing, "streams")

    def __init__(self, num_envs: int, options: MatrixGameOptions) -> None:
        super().__init__(num_envs, options)
        self._open_streams(num_envs)

    def _payoffs(self, actions: np.ndarray) -> np.ndarray:
        coins = self._uniform(1, self.alive[:, 0])
        game = self.options.game
        return np.asarray(game.payoffs(actions) + np.where(coins < 0.5, 1.0, -1.0) * game.spreads(actions))


class MatrixGameParallelEnv(CoreParallelEnv):
    """
    PettingZoo view of a matrix game, which knows its whole game.

    :param core: core with one copy
    :param render_mode: ``"ansi"`` or ``None``
    :raises ValueError: if the render mode is unknown
    """

    _core: MatrixGameCore

    def __init__(self, core: MatrixGameCore, render_mode: str | None = None) -> None:
        super().__init__(core, render_mode)

    def exact_game(self, max_histories: int) -> MatrixGameTables:
        """
        The game, in which policies are evaluated exactly.

        :param max_histories: largest number of joint actions of a game that is given by a table
        :raises ValueError: if the table has more
        """
        options = self._core.options
        game = options.game
        if isinstance(game, TableGame) and game.table[0].size > max_histories:
            raise ValueError(f"the game has {game.table[0].size} joint actions, more than max_histories={max_histories}")
        return MatrixGameTables(self.possible_agents, game, options.max_cycles, options.team_reward)


def parallel_env(
    game: str = "rps",
    payoffs: ArrayLike | None = None,
    max_cycles: int = 1,
    render_mode: str | None = None,
    team_reward: bool = False,
    game_kwargs: Mapping[str, Any] | None = None,
) -> MatrixGameParallelEnv:
    """
    Make a normal-form game as a PettingZoo parallel environment; the module's docstring has the rules.

    :param game: ``"rps"``, ``"matching_pennies"``, ``"prisoners_dilemma"``, ``"chicken"``, ``"stag_hunt"``,
        ``"coordination"``, ``"shapley"``, ``"climbing"``, ``"climbing_partially_stochastic"``, ``"climbing_stochastic"``,
        ``"penalty"``, ``"congestion"``, ``"random_common_payoff"`` or ``"random_general_sum"``; ignored if ``payoffs`` are
        given
    :param payoffs: payoffs of another game, shape (n, A_1, ..., A_n) for n players
    :param max_cycles: number of rounds of an episode
    :param render_mode: ``"ansi"`` or ``None``
    :param team_reward: give every agent the sum of all payoffs
    :param game_kwargs: options of the named game, such as ``{"n_agents": 8, "n_resources": 8}`` for ``"congestion"``,
        ``{"k": -100}`` for ``"penalty"`` or ``{"seed": 7}`` for the random ones; see
        :func:`~sb3_matrl.games.one_shot_games.one_shot_game`
    :raises ValueError: if an option is invalid; the message says what is valid
    """
    if payoffs is None:
        played = one_shot_game(game, **_checked_kwargs(game_kwargs))
    elif game_kwargs:
        raise ValueError("give payoffs, or a game with game_kwargs, not both")
    else:
        played = TableGame(payoffs)
    options = MatrixGameOptions(payoffs=played, max_cycles=max_cycles, team_reward=team_reward)
    core = RandomMatrixGameCore if played.is_random else MatrixGameCore
    return MatrixGameParallelEnv(core(1, options), render_mode)


def _checked_kwargs(game_kwargs: Any) -> dict[str, Any]:
    if game_kwargs is not None and not isinstance(game_kwargs, Mapping):
        raise ValueError(f"game_kwargs must map options of the game to their values, got {game_kwargs!r}")
    return {str(name): value for name, value in (game_kwargs or {}).items()}


def env(**options: Any) -> AECEnv[str, np.ndarray, Any]:
    """Make a normal-form game as a PettingZoo AEC environment; options as for :func:`parallel_env`."""
    return parallel_to_aec(parallel_env(**options))
