"""
Learners with exact gradients on 2x2 games: the interface, and those without a meta-game.

A learner is a frozen set of options. :meth:`Learner.start` binds it to a batch of games and returns *dynamics*, whose
``step(strategies) -> strategies`` maps one point per game to the next; whatever is remembered from step to step (a random
generator, an adaptive step per game) lives in the dynamics, so that every start begins anew and the learner can be reused.
Strategies are (batch, 2) probabilities of action 0; the projection P of gradient ascent clips to [0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sb3_matrl.games.checks import check_positive
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoffs import Array


class Dynamics(Protocol):
    """A learner bound to games."""

    def step(self, strategies: Array) -> Array:
        """
        :param strategies: (batch, 2) probabilities of action 0
        :return: (batch, 2) the next ones
        """
        ...


class Learner(ABC):
    """A rule by which both players of a 2x2 game learn at the same time."""

    @abstractmethod
    def start(self, games: NormalFormGame, strategies: Array) -> Dynamics:
        """
        :param games: 2x2, one batch axis
        :param strategies: (batch, 2) where the run starts
        :return: fresh dynamics on these games
        :raises ValueError: for games of another size
        """


@dataclass(frozen=True)
class Map:
    """
    Dynamics without a memory.

    :param function: (batch, 2) to (batch, 2)
    """

    function: Callable[[Array], Array]

    def step(self, strategies: Array) -> Array:
        """:return: (batch, 2) the next strategies"""
        return self.function(strategies)


def ascend(strategies: Array, step: Array | float, gradient: Array) -> Array:
    """
    Projected gradient ascent, P[x + step * gradient].

    :param strategies: (batch, 2)
    :param step: scalar or (batch, 2)
    :param gradient: (batch, 2)
    :return: (batch, 2) in [0, 1]
    """
    return np.asarray(np.minimum(np.maximum(strategies + step * gradient, 0.0), 1.0))


@dataclass(frozen=True)
class IGA(Learner):
    """
    Infinitesimal gradient ascent with a finite step: p' = P[p + lr (u_1 q + c_1)] (Singh, Kearns and Mansour 2000).

    :param step_size: lr; 0.02 in Table 1
    """

    step_size: float = 0.02

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)

    def start(self, games: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics without a memory"""
        field = games.field()
        return Map(lambda strategies: ascend(strategies, self.step_size, field.gradient(strategies)))


@dataclass(frozen=True)
class IGAPP(Learner):
    """
    IGA with policy prediction (IGA-PP, the paper's IGA-LA): the gradient at the other's forecast q + gamma (u_2 p + c_2)
    (Zhang and Lesser 2010).

    The forecast may leave [0, 1]. Where a player is held at the border it then goes on beyond it, and the other turns
    earlier than at a projected forecast; elsewhere the two readings are the same.

    :param step_size: lr; 0.02 in Table 1
    :param forecast_step: gamma; 0.01 in Table 1
    :param project_forecast: keep the forecast in [0, 1]
    """

    step_size: float = 0.02
    forecast_step: float = 0.01
    project_forecast: bool = False

    def __post_init__(self) -> None:
        check_positive("step_size", self.step_size)
        check_positive("forecast_step", self.forecast_step)

    def start(self, games: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics without a memory"""
        field = games.field()

        def step(strategies: Array) -> Array:
            forecast = strategies + self.forecast_step * field.gradient(strategies)
            if self.project_forecast:
                forecast = np.clip(forecast, 0.0, 1.0)
            return ascend(strategies, self.step_size, field.gradient(forecast))

        return Map(step)


@dataclass(frozen=True)
class WoLFIGA(Learner):
    """
    Win or learn fast: a small step when V_1(p, q) > V_1(p*, q), a large one otherwise (Bowling and Veloso 2002). As in the
    paper, the equilibrium (p*, q*) is given: the pure one nearest to the start, or the mixed one where no pure one exists.

    :param win_step: lr of a player who is winning; the paper's Table 2 prints 0.02
    :param lose_step: lr of a player who is not
    """

    win_step: float = 0.01
    lose_step: float = 0.06

    def __post_init__(self) -> None:
        check_positive("win_step", self.win_step)
        check_positive("lose_step", self.lose_step)

    def start(self, games: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics without a memory"""
        field, target = games.field(), reference_equilibrium(games, strategies)

        def step(strategies: Array) -> Array:
            gradient = field.gradient(strategies)
            # V_i is linear in the own probability, so the lead over the equilibrium strategy is gradient times distance.
            winning = gradient * (strategies - target) > 0.0
            return ascend(strategies, np.where(winning, self.win_step, self.lose_step), gradient)

        return Map(step)


def reference_equilibrium(games: NormalFormGame, strategies: Array) -> Array:
    """
    :param games: 2x2
    :param strategies: (batch, 2) probabilities of action 0
    :return: (batch, 2) the equilibrium nearest to them, in the sum of differences, a pure one where there is one
    """
    equilibria = games.equilibria()
    nearest = np.clip(strategies[:, None], equilibria.lower, equilibria.upper)
    corners = np.stack([nearest, equilibria.lower, equilibria.upper], axis=2).reshape(len(strategies), -1, 2)
    mixing = ((corners > 0.0) & (corners < 1.0)).any(axis=-1)
    rank = np.abs(corners - strategies[:, None]).sum(axis=-1) + 3.0 * mixing
    chosen = np.where(np.isnan(rank), np.inf, rank).argmin(axis=1)
    return np.asarray(corners[np.arange(len(corners)), chosen])
