"""Meta-games {current, predicted}^n with exact payoffs, and the mixtures that their equilibria stand for."""

from __future__ import annotations

import itertools
from typing import Protocol

import numpy as np

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.normal_form import GradientField
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.metagame import MetaGame, solve, solve_two_agents


class ExactMetaGame(Protocol):
    """Solves meta-games; draws among several equilibria come from its random generator."""

    def mixture(self, current: Array, predicted: Array) -> Array:
        """
        :param current: (batch, 2) or (d,)
        :param predicted: same shape
        :return: same shape; rho * current + (1 - rho) * predicted with the equilibrium's rho (Sec. 2.2)
        """
        ...


class SquareMetaGame:
    """
    Meta-games of a batch of 2x2 games: a random one of the pure equilibria, a mixed one only if there is no pure one.

    :param field: gradient field of the games
    :param seed: seed of the draws among equilibria
    """

    def __init__(self, field: GradientField, seed: int) -> None:
        self._field = field
        self._rng = np.random.default_rng(seed)

    def mixture(self, current: Array, predicted: Array) -> Array:
        """:return: (batch, 2)"""
        # Where nobody would move there is nothing to mix.
        mixed, moves = current.copy(), (current != predicted).any(axis=1)
        if not moves.any():
            return mixed
        field = GradientField(self._field.slope[moves], self._field.offset[moves], self._field.external[moves])
        before, after = current[moves], predicted[moves]
        mixed[moves] = _mix(solve_two_agents(square_metagame_payoffs(field, before, after), self._rng), before, after)
        return mixed


class DifferentiableMetaGame:
    """
    Meta-game of a differentiable game with at most 12 players (the payoff table has 2^n profiles).

    :param game: the game
    :param solver: method of :func:`sb3_matrl.metagame.solve`
    :param selection: choice among several equilibria: ``random``, ``welfare`` or ``progress``
    :param seed: seed of the draws among equilibria
    """

    def __init__(self, game: DifferentiableGame, solver: str = "auto", selection: str = "random", seed: int = 0) -> None:
        self._game = game
        self._solver, self._selection = solver, selection
        self._rng = np.random.default_rng(seed)

    def mixture(self, current: Array, predicted: Array) -> Array:
        """:return: (d,)"""
        return _mix(self.equilibrium(current, predicted)[self._game.owner], current, predicted)

    def equilibrium(self, current: Array, predicted: Array) -> Array:
        """
        :param current: (d,)
        :param predicted: (d,)
        :return: (n,) rho, the weights on the current strategies
        """
        metagame = MetaGame.from_payoffs(metagame_payoffs(self._game, current, predicted))
        return solve(metagame, self._solver, self._selection, self._rng).rho


def _mix(rho: Array, current: Array, predicted: Array) -> Array:
    return np.asarray(rho * current + (1.0 - rho) * predicted)


def square_metagame_payoffs(field: GradientField, current: Array, predicted: Array) -> Array:
    """
    Payoffs of the meta-games {current, predicted}^2: expected advantages over the current joint strategy (Eq. 3 and 5).

    :param field: gradient field of 2x2 games
    :param current: (batch, 2) probabilities of action 0
    :param predicted: (batch, 2)
    :return: (batch, 2, 2, 2) entry [b, i, x_1, x_2]; 0 is current, 1 is predicted; exactly 0 where both play current
    """
    payoffs = np.zeros((2, 2, 2, len(current)))
    for first, second in ((0, 1), (1, 0), (1, 1)):
        profile = np.where([first == 1, second == 1], predicted, current)
        payoffs[:, first, second] = field.advantage(current, profile).T
    return np.moveaxis(payoffs, -1, 0)


def metagame_payoffs(game: DifferentiableGame, current: Array, predicted: Array) -> Array:
    """
    Exact gains of Eq. 3: how far each player's loss falls when some players switch to their predicted strategies.

    :param game: the game
    :param current: (d,)
    :param predicted: (d,)
    :return: (n, 2, ..., 2); index 0 is current, 1 is predicted; all-current is 0
    :raises ValueError: above 12 players
    """
    n = game.n_players
    if n > 12:
        raise ValueError(f"the meta-game of {n} players has 2^{n} profiles; its table is built up to 12 players")
    table = np.zeros((*(2,) * n, n))
    losses = game.losses(current)
    for profile in itertools.product((0, 1), repeat=n):
        if any(profile):
            switched = np.where(np.array(profile)[game.owner] == 1, predicted, current)
            table[profile] = losses - game.losses(switched)
    return np.moveaxis(table, -1, 0)
