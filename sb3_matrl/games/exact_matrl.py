"""MATRL with exact gradients on 2x2 and on differentiable games, and its ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.exact_learner import Dynamics, Learner, Map, check_positive, or_default
from sb3_matrl.games.exact_metagames import DifferentiableMetaGame, ExactMetaGame, SquareMetaGame
from sb3_matrl.games.gradient_views import FreeView, GradientView, SquareView
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.metagame import METHODS, SELECTIONS
from sb3_matrl.utils.suggest import unknown


@dataclass(frozen=True)
class MATRLIteration:
    """
    One iteration of Algorithm 1: every player predicts a gradient step against the others' current strategies; the meta-game
    between current and predicted strategies is solved; the best response is a gradient step against the others' mixtures. It
    starts from the CURRENT strategy, as in Theorem 2's iteration.

    :param view: gradients of the game
    :param metagame: solver of the meta-games; ``None`` takes the predicted strategies
    :param best_response: ``False`` ends with the mixtures
    :param predicted_steps: number of gradient steps of the prediction
    """

    view: GradientView
    metagame: ExactMetaGame | None
    best_response: bool = True
    predicted_steps: int = 1

    def step(self, current: Array, predicted_step: Array | float, best_response_step: Array | float) -> Array:
        """
        :param current: (batch, 2) or (d,)
        :param predicted_step: step size of the prediction
        :param best_response_step: step size of the best response
        :return: next strategies
        """
        predicted = self.predict(current, predicted_step)
        target = predicted if self.metagame is None else self.metagame.mixture(current, predicted)
        if not self.best_response:
            return target
        return self.view.ascend(current, best_response_step, self.view.own_gradient(current, target))

    def predict(self, current: Array, step: Array | float) -> Array:
        """
        Every player ascends alone, the others stay.

        :param current: (batch, 2) or (d,)
        :param step: step size
        :return: predicted strategies
        """
        predicted = self.view.ascend(current, step, self.view.gradient(current))
        for _ in range(self.predicted_steps - 1):
            predicted = self.view.ascend(predicted, step, self.view.own_gradient(predicted, current))
        return predicted


@dataclass(frozen=True)
class MATRL(Learner[NormalFormGame]):
    """
    MATRL on 2x2 games (:class:`MATRLIteration`). Of several equilibria of the meta-game it takes a random pure one, or a mixed
    one if there is no pure one.

    :param predicted_step: step size of the prediction; 0.02 in Table 1
    :param best_response_step: step size of the best response; 0.03 in Table 1
    :param metagame: ``False`` takes the predicted strategies (IL-LA)
    :param best_response: ``False`` ends with the mixtures (MATRL w/o BR)
    :param seed: seed of the draws among equilibria
    """

    plays: ClassVar = (NormalFormGame,)
    predicted_step: float = 0.02
    best_response_step: float = 0.03
    metagame: bool = True
    best_response: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("predicted_step", self.predicted_step)
        check_positive("best_response_step", self.best_response_step)

    def start(self, game: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics with a random generator"""
        field = game.field()
        metagame = SquareMetaGame(field, self.seed) if self.metagame else None
        iteration = MATRLIteration(SquareView(field), metagame, self.best_response)
        return Map(lambda current: iteration.step(current, self.predicted_step, self.best_response_step))


@dataclass(frozen=True)
class DifferentiableMATRL(Learner[DifferentiableGame]):
    """
    MATRL on differentiable games with at most 12 players (:class:`MATRLIteration`).

    :param learning_rate: step size of the best response
    :param predicted_learning_rate: step size of the prediction; ``None`` uses ``learning_rate``
    :param predicted_steps: number of gradient steps of the prediction, at least 1
    :param solver: method of :func:`sb3_matrl.metagame.solve`
    :param selection: choice among several equilibria: ``random``, ``welfare`` or ``progress``
    :param seed: seed of the draws among equilibria
    """

    plays: ClassVar = (DifferentiableGame,)
    learning_rate: float = 0.02
    predicted_learning_rate: float | None = None
    predicted_steps: int = 1
    solver: str = "auto"
    selection: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("predicted_learning_rate", or_default(self.predicted_learning_rate, self.learning_rate))
        if int(self.predicted_steps) != self.predicted_steps or self.predicted_steps < 1:
            raise ValueError(f"predicted_steps must be a whole number >= 1, got {self.predicted_steps}")
        check_solver(self.solver, self.selection)

    def start(self, game: DifferentiableGame, strategies: Array) -> Dynamics:
        """:return: dynamics with a random generator"""
        metagame = DifferentiableMetaGame(game, self.solver, self.selection, self.seed)
        iteration = MATRLIteration(FreeView(game), metagame, predicted_steps=int(self.predicted_steps))
        predicted_step = or_default(self.predicted_learning_rate, self.learning_rate)
        return Map(lambda current: iteration.step(current, predicted_step, self.learning_rate))


def check_solver(solver: str, selection: str) -> None:
    """
    :param solver: method of :func:`sb3_matrl.metagame.solve`
    :param selection: choice among several equilibria
    :raises ValueError: on an unknown name, with the nearest one
    """
    for kind, value, known in (("solver", solver, METHODS), ("selection", selection, SELECTIONS)):
        if value not in known:
            raise ValueError(unknown(kind, value, known))
