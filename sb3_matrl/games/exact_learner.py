"""
Learners with exact gradients: the protocol that all of them follow.

A learner is a frozen dataclass of options. :meth:`Learner.start` binds it to a game and returns *dynamics*, whose ``step``
maps the players' strategies to the next ones. The dynamics hold everything that changes from step to step (a random generator,
adaptive step sizes), so that a learner can be reused and every start repeats the same run.

Two kinds of games are played. In a :class:`~sb3_matrl.games.NormalFormGame` (a batch of 2x2 games) strategies are (batch, 2)
probabilities of action 0. In a :class:`~sb3_matrl.games.DifferentiableGame` they are one joint strategy (d,).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoff_arrays import Array

Game: TypeAlias = NormalFormGame | DifferentiableGame
G = TypeVar("G", contravariant=True)
#: One of the two kinds.
PlayedGame = TypeVar("PlayedGame", NormalFormGame, DifferentiableGame)


class Dynamics(Protocol):
    """A learner bound to a game."""

    def step(self, strategies: Array) -> Array:
        """
        :param strategies: (batch, 2) or (d,)
        :return: next strategies, same shape
        """
        ...


class Learner(ABC, Generic[G]):
    """A rule by which all players of a game learn at the same time."""

    #: Classes of the games that the learner plays.
    plays: ClassVar[tuple[type[Any], ...]]

    @abstractmethod
    def start(self, game: G, strategies: Array) -> Dynamics:
        """
        :param game: game to play; normal-form games are 2x2 with one batch axis
        :param strategies: (batch, 2) or (d,) start of the run
        :return: fresh dynamics on this game
        """


@dataclass(frozen=True)
class Map:
    """
    Dynamics without memory.

    :param function: map from strategies to the next strategies
    """

    function: Callable[[Array], Array]

    def step(self, strategies: Array) -> Array:
        """:return: next strategies"""
        return self.function(strategies)


def check_positive(name: str, value: object) -> None:
    """
    :param name: name of the option, for the message
    :param value: value of the option
    :raises ValueError: if it is not a finite number above zero
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def or_default(value: float | None, default: float) -> float:
    """
    :param value: value of an option
    :param default: value that ``None`` stands for
    :return: one of them
    """
    return default if value is None else value
