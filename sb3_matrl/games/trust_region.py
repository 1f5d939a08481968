"""Trust-region MATRL (MATRL-TR): MATRL whose steps are measured from the game, so that nothing is tuned per game."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.exact_learner import Dynamics, Learner, check_positive
from sb3_matrl.games.exact_matrl import MATRLIteration, check_solver
from sb3_matrl.games.exact_metagames import DifferentiableMetaGame, SquareMetaGame
from sb3_matrl.games.gradient_views import FreeView, SquareView
from sb3_matrl.games.normal_form import GradientField, NormalFormGame
from sb3_matrl.games.payoff_arrays import Array


def contracting_step(predicted_step: float, look_ahead: float) -> float:
    """
    Best-response step that contracts a rotation the most after a prediction (:class:`TrustRegionMATRL`, 2.).

    :param predicted_step: step size of the prediction
    :param look_ahead: the same in units of 1 / L, L being the Lipschitz constant of the gradient
    :return: predicted_step / (1 + look_ahead^2)
    """
    return predicted_step / (1.0 + look_ahead**2)


@dataclass(frozen=True)
class TrustRegionMATRL(Learner[NormalFormGame]):
    """
    MATRL on 2x2 games with steps in the game's own units and a metric that adapts to the border of the strategy space.

    1. **Units.** Each player's payoffs are divided by m_i = max(|u_i|, |c_i|, |u_i + c_i|) (:func:`unit_field`), which leaves
       the equilibria as they are. The gradients and their Lipschitz constants are then at most 1, and every cyclic game
       becomes zero-sum: (p, q) rotates about the equilibrium with speed 1, however small its payoffs are.
    2. **Steps.** Predicted: gamma = ``look_ahead``. Best response: eta = gamma / (1 + gamma^2). Answering the predicted
       strategies multiplies the distance to the centre of such a rotation by |lambda|,
       |lambda|^2 = (1 - eta gamma)^2 + eta^2, which this eta minimises: 1 / (1 + gamma^2). At gamma = 1 these are the steps
       1 / L and 1 / (2 L) of EG+ (Diakonikolas, Daskalakis and Jordan 2021; "explore aggressively, update conservatively",
       Hsieh et al. 2020). Above 1, look-ahead alone misses equilibria of coordination games; the meta-game makes it possible.
    3. **Metric.** Player 1 multiplies its steps by w, player 2 by 1 / w. The dynamics of 2. depend on the product of the two
       alone, so any w is as stable, but near the border a bad one is slow: while one player is held at the border, the
       other's gradient may be as small as the equilibrium is near it. So w starts at 1 and, whenever one player was held by
       the border while the other moved, is multiplied (the first moved) or divided (the second moved) by ``balance``. This
       is the primal weight of primal-dual methods (Applegate et al. 2021), adapted by which player is held.

    The meta-game is solved as in :class:`~sb3_matrl.games.exact_matrl.MATRL`, and the best response starts from the current
    strategy.

    :param look_ahead: gamma, the predicted step
    :param balance: factor by which the metric adapts, at least 1; 1 keeps the metric fixed
    :param metagame: ``False`` answers the predicted strategies
    :param best_response: ``False`` ends with the mixtures
    :param seed: seed of the draws among equilibria
    """

    plays: ClassVar = (NormalFormGame,)
    look_ahead: float = 1.5
    balance: float = 2.0
    metagame: bool = True
    best_response: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("look_ahead", self.look_ahead)
        check_positive("balance", self.balance)
        if self.balance < 1.0:
            raise ValueError(f"balance must be at least 1, got {self.balance}")

    @property
    def best_response_step(self) -> float:
        """eta, the best-response step."""
        return contracting_step(self.look_ahead, self.look_ahead)

    def start(self, game: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics with the metric of every game and a random generator"""
        field = unit_field(game.field())
        metagame = SquareMetaGame(field, self.seed) if self.metagame else None
        return _MetricDynamics(self, MATRLIteration(SquareView(field), metagame, self.best_response), len(strategies))


class _MetricDynamics:
    def __init__(self, learner: TrustRegionMATRL, iteration: MATRLIteration, batch: int) -> None:
        self._learner = learner
        self._iteration = iteration
        self._weight = np.ones(batch)

    def step(self, strategies: Array) -> Array:
        metric = np.stack([self._weight, 1.0 / self._weight], axis=1)
        steps = self._learner.look_ahead * metric, self._learner.best_response_step * metric
        reached = self._iteration.step(strategies, *steps)
        if self._learner.best_response:
            self._weight *= self._learner.balance ** held_by_the_border(strategies, reached)
        return reached


def unit_field(field: GradientField) -> GradientField:
    """
    :param field: gradient field of 2x2 games
    :return: field of the games with each player's payoffs divided by its largest absolute gradient or slope; players
        whose gradient is zero everywhere keep their payoffs
    """
    largest = np.abs([field.slope, field.offset, field.slope + field.offset]).max(axis=0)
    unit = np.where(largest > 0.0, largest, 1.0)
    return GradientField(field.slope / unit, field.offset / unit, field.external / unit)


def held_by_the_border(before: Array, after: Array) -> Array:
    """
    Find which player moved alone in a step because the other one stayed at a border of [0, 1].

    :param before: (batch, 2) probabilities of action 0
    :param after: (batch, 2) after the step
    :return: (batch,) 1 where the first player moved and the second was held, -1 the other way round, else 0
    """
    moved = before != after
    held = ~moved & ((after == 0.0) | (after == 1.0))
    return np.asarray(1.0 * (moved[:, 0] & held[:, 1]) - 1.0 * (moved[:, 1] & held[:, 0]))


@dataclass(frozen=True)
class DifferentiableTrustRegionMATRL(Learner[DifferentiableGame]):
    """
    MATRL on differentiable games with steps measured from the game.

    - Predicted step: tau = ``look_ahead`` / L, L = |xi(w - tau xi(w)) - xi(w)| / |tau xi(w)| being the Lipschitz constant of
      the gradient over the very step that is predicted. It is found by backtracking (Khobotov 1987): the first candidate is
      ten times the last step (``learning_rate`` at first), every further one the step that the L just measured allows.
    - Best-response step: tau / (1 + look_ahead^2), which contracts a rotation the most after such a prediction; see
      :class:`TrustRegionMATRL` for the reasons and the sources.

    L is measured along the gradient only. Where L differs much between directions (ill-conditioned losses), steps that fit
    the present direction are now and then too long for another one, as with Barzilai-Borwein steps.

    :param learning_rate: first candidate of the predicted step
    :param look_ahead: predicted step in units of 1 / L
    :param metagame: ``False`` answers the predicted strategies
    :param best_response: ``False`` ends with the mixed strategies
    :param solver: method of :func:`sb3_matrl.metagame.solve`
    :param selection: choice among several equilibria: ``random``, ``welfare`` or ``progress``
    :param seed: seed of the draws among equilibria
    """

    plays: ClassVar = (DifferentiableGame,)
    learning_rate: float = 0.02
    look_ahead: float = 1.5
    metagame: bool = True
    best_response: bool = True
    solver: str = "auto"
    selection: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("look_ahead", self.look_ahead)
        check_solver(self.solver, self.selection)

    def start(self, game: DifferentiableGame, strategies: Array) -> MeasuredStepDynamics:
        """:return: dynamics with the last step and a random generator"""
        metagame = DifferentiableMetaGame(game, self.solver, self.selection, self.seed) if self.metagame else None
        iteration = MATRLIteration(FreeView(game), metagame, self.best_response)
        return MeasuredStepDynamics(iteration, self.look_ahead, self.learning_rate)


class MeasuredStepDynamics:
    """
    MATRL with a predicted step that is measured before every iteration.

    :param iteration: MATRL on the game
    :param look_ahead: predicted step in units of 1 / L
    :param candidate: first candidate of the predicted step
    """

    def __init__(self, iteration: MATRLIteration, look_ahead: float, candidate: float) -> None:
        self._iteration = iteration
        self._look_ahead = look_ahead
        self._candidate = candidate
        #: Predicted step of the last iteration.
        self.predicted_step = candidate

    def step(self, strategies: Array) -> Array:
        """:return: (d,) next joint strategy"""
        gradient = self._iteration.view.gradient(strategies)
        if not gradient.any():
            return strategies  # A step cannot be measured here, and candidates would grow without end.
        self.predicted_step = self._trusted_step(strategies, gradient)
        self._candidate = 10.0 * self.predicted_step
        best_response_step = contracting_step(self.predicted_step, self._look_ahead)
        return self._iteration.step(strategies, self.predicted_step, best_response_step)

    def _trusted_step(self, joint: Array, gradient: Array) -> float:
        """:return: tau; every rejected candidate is at least a tenth longer than the next one, so the search ends"""
        tau = self._candidate
        while tau * (lipschitz := self._lipschitz(joint, gradient, tau)) > 1.1 * self._look_ahead:
            tau = self._look_ahead / lipschitz if lipschitz < np.inf else 0.1 * tau
        return tau

    def _lipschitz(self, joint: Array, gradient: Array, tau: float) -> float:
        """:return: L over the step tau along the gradient; infinite where the gradient overflows there, 0 without a move"""
        predicted = self._iteration.view.ascend(joint, tau, gradient)
        moved = float(np.linalg.norm(predicted - joint))
        change = float(np.linalg.norm(self._iteration.view.gradient(predicted) - gradient))
        if not np.isfinite(change):
            return float("inf")
        return change / moved if moved > 0.0 else 0.0
