"""
Views of games for gradient learners: gradients of the players' own payoffs, and steps that stay within the strategies.

Both kinds of games have the same interface here. 2x2 games are a batch of points on the square [0, 1]^2 with projected steps;
a differentiable game is one unconstrained point, and its payoffs are the negative losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.exact_learner import Game
from sb3_matrl.games.normal_form import GradientField, NormalFormGame
from sb3_matrl.games.payoff_arrays import Array


class GradientView(Protocol):
    """Exact gradients of a game, and ascent along them; strategies are (batch, 2) or (d,)."""

    def gradient(self, strategies: Array) -> Array:
        """:return: every player's payoff differentiated in its own strategy, shape of the strategies"""
        ...

    def own_gradient(self, own: Array, others: Array) -> Array:
        """:return: every player's gradient if it plays its part of ``own`` and the others play theirs of ``others``"""
        ...

    def ascend(self, strategies: Array, step: Array | float, gradient: Array) -> Array:
        """:return: strategies after a step along the gradient"""
        ...


@dataclass(frozen=True)
class SquareView:
    """
    A batch of 2x2 games: probabilities of action 0, projected to [0, 1] after every step.

    :param field: gradient field of the games
    """

    field: GradientField

    def gradient(self, strategies: Array) -> Array:
        """:return: (batch, 2)"""
        return self.field.gradient(strategies)

    def own_gradient(self, own: Array, others: Array) -> Array:
        """:return: (batch, 2); payoffs are linear in the own probability, which therefore does not matter"""
        return self.field.gradient(others)

    def ascend(self, strategies: Array, step: Array | float, gradient: Array) -> Array:
        """:return: (batch, 2) in [0, 1]: P[x + step * gradient]"""
        return np.asarray(np.minimum(np.maximum(strategies + step * gradient, 0.0), 1.0))


@dataclass(frozen=True)
class FreeView:
    """
    A differentiable game: the payoff is the negative loss, steps are not constrained.

    :param game: the game
    """

    game: DifferentiableGame

    def gradient(self, strategies: Array) -> Array:
        """:return: (d,) minus the simultaneous gradient"""
        return -self.game.gradient(strategies)

    def own_gradient(self, own: Array, others: Array) -> Array:
        """:return: (d,) one evaluation of the gradient per player"""
        gradient = np.empty(self.game.size)
        for player in range(self.game.n_players):
            mine = self.game.owner == player
            gradient[mine] = self.gradient(np.where(mine, own, others))[mine]
        return gradient

    def ascend(self, strategies: Array, step: Array | float, gradient: Array) -> Array:
        """:return: (d,) w + step * gradient"""
        return np.asarray(strategies + step * gradient)


def view_of(game: Game) -> GradientView:
    """
    :param game: batch of 2x2 games, or a differentiable game
    :return: its gradients and steps
    :raises ValueError: for normal-form games of another size
    """
    return SquareView(game.field()) if isinstance(game, NormalFormGame) else FreeView(game)
