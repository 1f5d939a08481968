"""One-shot games by name, with any number of players and random payoffs, and their best welfare."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_matrl.games import named_games
from sb3_matrl.games.normal_form import NormalFormGame, check_strategies
from sb3_matrl.games.payoff_arrays import Array, check_payoffs
from sb3_matrl.utils.suggest import unknown

_MAX_ENTRIES = 10**7  # of a table of payoffs


class OneShotGame(ABC):
    """
    Normal-form game of n players, whose payoffs may be random.

    ``n_actions`` are the numbers of actions of the players. In a random game, a joint action a pays every player i
    mean_i(a) + spread_i(a) or mean_i(a) - spread_i(a), both with probability 1/2, with one coin for all players.
    """

    n_actions: tuple[int, ...]
    is_random: bool = False

    @property
    def n_players(self) -> int:
        """Number of players n."""
        return len(self.n_actions)

    @abstractmethod
    def payoffs(self, actions: np.ndarray) -> Array:
        """
        Look up expected payoffs.

        :param actions: int (batch, n), valid actions
        :return: float64 (batch, n)
        """

    def spreads(self, actions: np.ndarray) -> Array:
        """
        Look up half the distances of the two possible payoffs.

        :param actions: int (batch, n), valid actions
        :return: float64 (batch, n); zeros if the game is not random
        """
        return np.zeros(actions.shape)

    @abstractmethod
    def action_payoffs(self, strategies: Sequence[npt.ArrayLike]) -> list[Array]:
        """
        Compute each player's expected payoff for each of its actions against the others' strategies.

        :param strategies: n probability vectors of shape (A_i,)
        :return: n arrays (A_i,)
        :raises ValueError: if the strategies are no probability vectors of these lengths
        """

    @abstractmethod
    def best_welfare(self) -> float:
        """Largest sum of the players' expected payoffs, over all joint actions."""

    def expected_payoffs(self, strategies: Sequence[npt.ArrayLike]) -> Array:
        """
        :param strategies: n probability vectors of shape (A_i,)
        :return: (n,) expected payoffs of the players
        """
        mixed = check_strategies(strategies, self.n_actions)
        return np.array([value @ own for value, own in zip(self.action_payoffs(mixed), mixed, strict=True)])

    def nash_conv(self, strategies: Sequence[npt.ArrayLike]) -> float:
        """
        Sum the players' best gains from unilateral deviation, in expected payoffs; 0 exactly at equilibria.

        :param strategies: n probability vectors of shape (A_i,)
        """
        mixed = check_strategies(strategies, self.n_actions)
        values = self.action_payoffs(mixed)
        return float(sum(value.max() - value @ own for value, own in zip(values, mixed, strict=True)))

    def welfare_score(self, strategies: Sequence[npt.ArrayLike]) -> float:
        """
        Welfare (sum of the expected payoffs) on a scale where uniform play is 0 and the best joint action 1.

        :param strategies: n probability vectors of shape (A_i,)
        :return: (W - W_uniform) / (W_best - W_uniform), at most 1
        :raises ValueError: if every joint action has the same welfare, as in a zero-sum game
        """
        uniform = float(self.expected_payoffs([np.full(count, 1 / count) for count in self.n_actions]).sum())
        best = self.best_welfare()
        if best - uniform <= 1e-12 * max(1.0, abs(best)):
            raise ValueError("welfare_score() needs joint actions of different welfare, but uniform play is already the best")
        return (float(self.expected_payoffs(strategies).sum()) - uniform) / (best - uniform)


class TableGame(OneShotGame):
    """
    Game given by a table.

    :param payoffs: (n, A_1, ..., A_n) expected payoffs
    :param spread: (n, A_1, ..., A_n) half the distances of the two possible payoffs, at least 0; ``None``: not random
    :raises ValueError: on another shape, or a number that is not finite
    """

    def __init__(self, payoffs: npt.ArrayLike, spread: npt.ArrayLike | None = None) -> None:
        self.table = check_payoffs(payoffs)
        self._game = NormalFormGame(self.table, len(self.table))
        self.n_actions = self._game.n_actions
        self.is_random = spread is not None
        self._spread = np.zeros(self.table.shape) if spread is None else check_payoffs(spread)
        if self._spread.shape != self.table.shape or (self._spread < 0).any():
            raise ValueError(f"spread must be numbers of at least 0 in the shape of the payoffs, {self.table.shape}")

    def payoffs(self, actions: np.ndarray) -> Array:
        return np.asarray(self.table[:, *actions.T].T)

    def spreads(self, actions: np.ndarray) -> Array:
        return np.asarray(self._spread[:, *actions.T].T)

    def action_payoffs(self, strategies: Sequence[npt.ArrayLike]) -> list[Array]:
        return self._game.action_payoffs(strategies)

    def best_welfare(self) -> float:
        return float(self.table.sum(axis=0).max())

    def pure_equilibria(self) -> np.ndarray:
        """
        Find all pure Nash equilibria of the expected payoffs.

        :return: int (equilibria, n), joint actions in lexicographic order
        """
        best = [payoff >= payoff.max(axis=player, keepdims=True) for player, payoff in enumerate(self.table)]
        return np.argwhere(np.logical_and.reduce(best))


class CongestionGame(OneShotGame):
    """
    Congestion: every player chooses a resource, and is paid the less the more others choose the same one.

    A player on a resource with k players gets 1 - (k - 1) / (n - 1): 1 alone, 0 if all are there. This is the game of
    Rosenthal 1973 ("A class of games possessing pure-strategy Nash equilibria") with equal resources and linear delays.

    A joint action is a pure equilibrium exactly if the numbers of players on any two resources differ by at most 1, and
    these have the best welfare. All formulas are linear in the others' strategies: no table of payoffs is needed.

    :param n_agents: number of players n, at least 2
    :param n_resources: number of actions of each player, at least 2
    :raises ValueError: if a number is too small
    """

    def __init__(self, n_agents: int, n_resources: int) -> None:
        _check_count("n_agents", n_agents, low=2)
        _check_count("n_resources", n_resources, low=2)
        self.n_actions = (int(n_resources),) * int(n_agents)

    def payoffs(self, actions: np.ndarray) -> Array:
        together = np.zeros(actions.shape)
        for resource in range(self.n_actions[0]):
            chosen = actions == resource
            together += chosen * np.count_nonzero(chosen, axis=1)[:, None]
        return np.asarray(1.0 - (together - 1.0) / (self.n_players - 1))

    def action_payoffs(self, strategies: Sequence[npt.ArrayLike]) -> list[Array]:
        mixed = np.stack(check_strategies(strategies, self.n_actions))
        return list(1.0 - (mixed.sum(axis=0) - mixed) / (self.n_players - 1))

    def best_welfare(self) -> float:
        n_players, n_resources = self.n_players, self.n_actions[0]
        fewest, fuller = divmod(n_players, n_resources)
        pairs = fuller * (fewest + 1) * fewest + (n_resources - fuller) * fewest * (fewest - 1)  # ordered, on one resource
        return float(n_players - pairs / (n_players - 1))


def one_shot_names() -> list[str]:
    """Names that :func:`one_shot_game` knows."""
    return list(_MAKERS)


def one_shot_game(name: str, **options: Any) -> OneShotGame:
    """
    Make a one-shot game.

    - ``rps``, ``matching_pennies``, ``prisoners_dilemma``, ``chicken``, ``stag_hunt``, ``coordination``, ``shapley``: see
      :func:`~sb3_matrl.games.named_games.named_payoffs`; no options
    - ``climbing``, ``penalty`` (``k``): common payoffs, 3x3
    - ``climbing_partially_stochastic``, ``climbing_stochastic``: climbing with random payoffs of the same expectation
    - ``congestion`` (``n_agents``, ``n_resources``)
    - ``random_common_payoff``, ``random_general_sum`` (``n_agents``, ``n_actions``, ``seed``)

    :param name: one of :func:`one_shot_names`
    :param options: options of this game
    :raises ValueError: on an unknown name or option, with the nearest one, or an invalid value
    """
    if name not in _MAKERS:
        raise ValueError(unknown("game", name, _MAKERS))
    known = list(inspect.signature(_MAKERS[name]).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f"game {name!r}: {unknown('option', option, known)}")
    return _MAKERS[name](**options)


def climbing() -> TableGame:
    """
    Climbing game (Claus and Boutilier 1998, "The dynamics of reinforcement learning in cooperative multiagent systems").

    Both players get ((11, -30, 0), (-30, 7, 6), (0, 0, 5)). The pure equilibria are (0, 0), the best, and (1, 1); learners
    that explore prefer the third action, which is never punished.
    """
    return TableGame(_common(_CLIMBING))


def climbing_partially_stochastic() -> TableGame:
    """
    Climbing game in which (1, 1) pays 14 or 0 instead of 7, both with probability 1/2 (Kapetanakis and Kudenko 2002,
    "Reinforcement learning of coordination in cooperative multi-agent systems").
    """
    spread = np.zeros((3, 3))
    spread[1, 1] = 7.0
    return TableGame(_common(_CLIMBING), _common(spread))


def climbing_stochastic() -> TableGame:
    """
    Climbing game in which every joint action pays one of two amounts, both with probability 1/2 (Kapetanakis and Kudenko
    2002): ((10/12, 5/-65, 8/-8), (5/-65, 14/0, 12/0), (5/-5, 5/-5, 10/0)). The expected payoffs are those of climbing, but
    the largest amount, 14, belongs to (1, 1) and not to the best joint action (0, 0): optimism misleads.
    """
    high, low = np.array(_CLIMBING_HIGH), np.array(_CLIMBING_LOW)
    return TableGame(_common((high + low) / 2), _common((high - low) / 2))


def penalty(k: float = -100.0) -> TableGame:
    """
    Penalty game (Claus and Boutilier 1998): both players get ((10, 0, k), (0, 2, 0), (k, 0, 10)).

    The pure equilibria are (0, 0), (2, 2), the best, and (1, 1). The larger the penalty, the safer is action 1.

    :param k: payoff of miscoordination, at most 0
    :raises ValueError: if k is no finite number or positive
    """
    if isinstance(k, bool) or not isinstance(k, (int, float, np.number)) or not np.isfinite(k) or k > 0:
        raise ValueError(f"k must be a finite number of at most 0, got {k!r}")
    return TableGame(_common([[10.0, 0.0, k], [0.0, 2.0, 0.0], [k, 0.0, 10.0]]))


def congestion(n_agents: int = 4, n_resources: int = 4) -> CongestionGame:
    """See :class:`CongestionGame`."""
    return CongestionGame(n_agents, n_resources)


def random_common_payoff(n_agents: int = 2, n_actions: int = 5, seed: int = 0) -> TableGame:
    """
    Game in which all players get the same payoff, drawn uniformly from [0, 1) for every joint action.

    :param n_agents: number of players, at least 1
    :param n_actions: number of actions of each player, at least 1
    :param seed: seed of the draws; the same seed gives the same game
    :raises ValueError: if a number is invalid, or the table would be too large
    """
    rng, shape = _generator_and_shape(n_agents, n_actions, seed)
    return TableGame(np.broadcast_to(rng.random(shape), (n_agents, *shape)))


def random_general_sum(n_agents: int = 2, n_actions: int = 3, seed: int = 0) -> TableGame:
    """
    Game with independent payoffs, drawn uniformly from [0, 1) for every player and joint action.

    :param n_agents: number of players, at least 1
    :param n_actions: number of actions of each player, at least 1
    :param seed: seed of the draws; the same seed gives the same game
    :raises ValueError: if a number is invalid, or the table would be too large
    """
    rng, shape = _generator_and_shape(n_agents, n_actions, seed)
    return TableGame(rng.random((n_agents, *shape)))


def _generator_and_shape(n_agents: int, n_actions: int, seed: int) -> tuple[np.random.Generator, tuple[int, ...]]:
    _check_count("n_agents", n_agents, low=1)
    _check_count("n_actions", n_actions, low=1)
    _check_count("seed", seed, low=0)
    if n_agents > 20 or n_agents * int(n_actions) ** int(n_agents) > _MAX_ENTRIES:
        raise ValueError(
            f"a table for {n_agents} players with {n_actions} actions each is too large: at most 20 players and "
            f"{_MAX_ENTRIES} payoffs; choose fewer of them"
        )
    return np.random.default_rng(seed), (int(n_actions),) * int(n_agents)


def _check_count(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")


def _common(payoffs: npt.ArrayLike) -> Array:
    """Give both players the same payoffs: (2, A_1, A_2)."""
    table = np.asarray(payoffs, dtype=np.float64)
    return np.stack([table, table])


def _named(name: str) -> TableGame:
    return TableGame(named_games.named_payoffs(name))


_CLIMBING = ((11, -30, 0), (-30, 7, 6), (0, 0, 5))
_CLIMBING_HIGH = ((12, 5, 8), (5, 14, 12), (5, 5, 10))
_CLIMBING_LOW = ((10, -65, -8), (-65, 0, 0), (-5, -5, 0))
_MAKERS: dict[str, Callable[..., OneShotGame]] = {
    **{name: partial(_named, name) for name in named_games.game_names()},
    "climbing": climbing,
    "climbing_partially_stochastic": climbing_partially_stochastic,
    "climbing_stochastic": climbing_stochastic,
    "penalty": penalty,
    "congestion": congestion,
    "random_common_payoff": random_common_payoff,
    "random_general_sum": random_general_sum,
}
