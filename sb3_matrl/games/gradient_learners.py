"""Learners that use first derivatives alone: gradient ascent, WoLF, and look-ahead along the own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.exact_learner import Dynamics, Game, Learner, Map, check_positive, or_default
from sb3_matrl.games.gradient_views import GradientView, SquareView, view_of
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoff_arrays import Array


def gradient_dynamics(view: GradientView, step_size: float) -> Dynamics:
    """
    :param view: gradients of the game
    :param step_size: step size of all players
    :return: dynamics of simultaneous gradient ascent
    """
    return Map(lambda strategies: view.ascend(strategies, step_size, view.gradient(strategies)))


def look_ahead_dynamics(view: GradientView, step_size: float, look_ahead: float, project: bool = True) -> Dynamics:
    """
    Ascent along the gradient at a forecast, which is one gradient step away.

    :param view: gradients of the game
    :param step_size: step size of all players
    :param look_ahead: step size of the forecast
    :param project: keep the forecast within the strategies
    :return: the dynamics
    """

    def step(strategies: Array) -> Array:
        gradient = view.gradient(strategies)
        forecast = view.ascend(strategies, look_ahead, gradient) if project else strategies + look_ahead * gradient
        return view.ascend(strategies, step_size, view.gradient(forecast))

    return Map(step)


@dataclass(frozen=True)
class IGA(Learner[NormalFormGame]):
    """
    Infinitesimal gradient ascent with a finite step: p' = P[p + lr (u_1 q + c_1)] (Singh, Kearns and Mansour 2000).

    :param step_size: lr; 0.02 in Table 1
    """

    plays: ClassVar = (NormalFormGame,)
    step_size: float = 0.02

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)

    def start(self, game: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics without memory"""
        return gradient_dynamics(view_of(game), self.step_size)


@dataclass(frozen=True)
class IGAPP(Learner[NormalFormGame]):
    """
    IGA with policy prediction (IGA-PP, the paper's IGA-LA): the gradient at the other's forecast q + gamma (u_2 p + c_2)
    (Zhang and Lesser 2010).

    The forecast may leave [0, 1]. Where a player is held at the border, its forecast then moves on beyond the border, and the
    other player turns earlier than at a projected forecast; elsewhere both readings give the same steps.

    :param step_size: lr; 0.02 in Table 1
    :param forecast_step: gamma; 0.01 in Table 1
    :param project_forecast: keep the forecast in [0, 1]
    """

    plays: ClassVar = (NormalFormGame,)
    step_size: float = 0.02
    forecast_step: float = 0.01
    project_forecast: bool = False

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_positive("forecast_step", self.forecast_step)

    def start(self, game: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics without memory"""
        return look_ahead_dynamics(view_of(game), self.step_size, self.forecast_step, self.project_forecast)


@dataclass(frozen=True)
class WoLFIGA(Learner[NormalFormGame]):
    """
    Win or learn fast: a small step when V_1(p, q) > V_1(p*, q), a large one otherwise (Bowling and Veloso 2002). As in the
    paper, the equilibrium (p*, q*) is given: the pure one nearest to the start, or the mixed one if no pure one exists.

    :param win_step: lr of a player who is winning; the paper's Table 2 prints 0.02
    :param lose_step: lr of a player who is not
    """

    plays: ClassVar = (NormalFormGame,)
    win_step: float = 0.01
    lose_step: float = 0.06

    def __post_init__(self) -> None:
        check_positive("win_step", self.win_step)
        check_positive("lose_step", self.lose_step)

    def start(self, game: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics without memory"""
        view, target = SquareView(game.field()), reference_equilibrium(game, strategies)

        def step(strategies: Array) -> Array:
            gradient = view.gradient(strategies)
            # V_i is linear in the own probability, so the lead over the equilibrium strategy is gradient times distance.
            winning = gradient * (strategies - target) > 0.0
            return view.ascend(strategies, np.where(winning, self.win_step, self.lose_step), gradient)

        return Map(step)


def reference_equilibrium(games: NormalFormGame, strategies: Array) -> Array:
    """
    :param games: batch of 2x2 games
    :param strategies: (batch, 2) probabilities of action 0
    :return: (batch, 2) equilibrium with the smallest sum of differences; a pure one if there is one
    """
    equilibria = games.equilibria()
    nearest = np.clip(strategies[:, None], equilibria.lower, equilibria.upper)
    corners = np.stack([nearest, equilibria.lower, equilibria.upper], axis=2).reshape(len(strategies), -1, 2)
    mixing = ((corners > 0.0) & (corners < 1.0)).any(axis=-1)
    rank = np.abs(corners - strategies[:, None]).sum(axis=-1) + 3.0 * mixing
    chosen = np.where(np.isnan(rank), np.inf, rank).argmin(axis=1)
    return np.asarray(corners[np.arange(len(corners)), chosen])


@dataclass(frozen=True)
class GradientDescent(Learner[Game]):
    """
    Simultaneous gradient descent on the losses (ascent on the payoffs): w <- w - learning_rate xi(w). On 2x2 games it equals
    :class:`IGA`.

    :param learning_rate: step size of all players
    """

    plays: ClassVar = (DifferentiableGame, NormalFormGame)
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)

    def start(self, game: Game, strategies: Array) -> Dynamics:
        """:return: dynamics without memory"""
        return gradient_dynamics(view_of(game), self.learning_rate)


@dataclass(frozen=True)
class Extragradient(Learner[Game]):
    """
    Extragradient (Korpelevich 1976): direction xi(w - look_ahead xi(w)). On 2x2 games it equals :class:`IGAPP` with
    ``project_forecast=True``.

    :param learning_rate: step size of all players
    :param look_ahead: step size of the forecast; ``None`` uses ``learning_rate``
    """

    plays: ClassVar = (DifferentiableGame, NormalFormGame)
    learning_rate: float = 0.02
    look_ahead: float | None = None

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("look_ahead", or_default(self.look_ahead, self.learning_rate))

    def start(self, game: Game, strategies: Array) -> Dynamics:
        """:return: dynamics without memory"""
        return look_ahead_dynamics(view_of(game), self.learning_rate, or_default(self.look_ahead, self.learning_rate))


@dataclass(frozen=True)
class OptimisticGradient(Learner[Game]):
    """
    Optimistic gradient descent (Daskalakis et al. 2018): direction 2 xi_t - xi_{t-1}; the first step is plain descent.

    :param learning_rate: step size of all players
    """

    plays: ClassVar = (DifferentiableGame, NormalFormGame)
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)

    def start(self, game: Game, strategies: Array) -> Dynamics:
        """:return: dynamics that remember the last gradient"""
        return _OptimisticDynamics(view_of(game), self.learning_rate)


class _OptimisticDynamics:
    def __init__(self, view: GradientView, learning_rate: float) -> None:
        self._view = view
        self._learning_rate = learning_rate
        self._previous: Array | None = None

    def step(self, strategies: Array) -> Array:
        gradient = self._view.gradient(strategies)
        previous = gradient if self._previous is None else self._previous
        self._previous = gradient
        return self._view.ascend(strategies, self._learning_rate, 2.0 * gradient - previous)
