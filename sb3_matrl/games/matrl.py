"""MATRL on 2x2 games with exact gradients, its two ablations, and the trust-region variant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_matrl.games.checks import check_positive
from sb3_matrl.games.learners import Dynamics, Learner, ascend
from sb3_matrl.games.normal_form import GradientField, NormalFormGame
from sb3_matrl.games.payoffs import Array
from sb3_matrl.metagame import solve_two_agents


def metagame_payoffs(field: GradientField, current: Array, predicted: Array) -> Array:
    """
    The payoffs of the meta-game {current, predicted}^2: expected advantages over the current joint strategy (Eq. 3 and 5).

    :param field: of 2x2 games
    :param current: (batch, 2) probabilities of action 0
    :param predicted: (batch, 2)
    :return: (batch, 2, 2, 2) entry [b, i, x_1, x_2]; 0 is current, 1 is predicted; exactly 0 where both play current
    """
    payoffs = np.zeros((2, 2, 2, len(current)))
    for first, second in ((0, 1), (1, 0), (1, 1)):
        profile = np.where([first == 1, second == 1], predicted, current)
        payoffs[:, first, second] = field.advantage(current, profile).T
    return np.moveaxis(payoffs, -1, 0)


def aggregate(rho: Array, current: Array, predicted: Array) -> Array:
    """
    The mixture rho * current + (1 - rho) * predicted (Sec. 2.2).

    :param rho: (batch, 2) weights on current
    :param current: (batch, 2)
    :param predicted: (batch, 2)
    :return: (batch, 2)
    """
    return np.asarray(rho * current + (1.0 - rho) * predicted)


@dataclass(frozen=True)
class MATRL(Learner):
    """
    MATRL with exact gradients (Algorithm 1): an IGA step predicts; the meta-game between current and predicted strategies is
    solved, at random among its pure equilibria (a mixed one only where there is no pure one); the best response is a gradient
    step against the others' mixtures. It starts from the CURRENT strategy, as in Theorem 2's iteration.

    :param predicted_step: step size of the prediction; 0.02 in Table 1
    :param best_response_step: step size of the best response; 0.03 in Table 1
    :param metagame: ``False`` takes the predicted strategies (IL-LA)
    :param best_response: ``False`` ends with the mixtures (MATRL w/o BR)
    :param seed: of the draws among equilibria
    """

    predicted_step: float = 0.02
    best_response_step: float = 0.03
    metagame: bool = True
    best_response: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("predicted_step", self.predicted_step)
        check_positive("best_response_step", self.best_response_step)

    def start(self, games: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics that hold a generator, seeded anew at every start"""
        return _MATRLDynamics(self, games.field())


class _MATRLDynamics:
    def __init__(self, learner: MATRL, field: GradientField) -> None:
        self._learner = learner
        self._field = field
        self._rng = np.random.default_rng(learner.seed)

    def step(self, strategies: Array) -> Array:
        target = self.target(strategies)
        if not self._learner.best_response:
            return target
        return ascend(strategies, self._learner.best_response_step, self._field.gradient(target))

    def target(self, strategies: Array) -> Array:
        """:return: (batch, 2) the mixtures that the best response answers"""
        predicted = ascend(strategies, self._learner.predicted_step, self._field.gradient(strategies))
        if not self._learner.metagame:
            return predicted
        rho = solve_two_agents(metagame_payoffs(self._field, strategies, predicted), self._rng)
        return aggregate(rho, strategies, predicted)


@dataclass(frozen=True)
class TrustRegionMATRL(Learner):
    """
    MATRL with a large predicted step and an adaptive best-response step.

    Gradients are divided by each player's largest possible one, so that steps are in units of probability and the rule does
    not depend on the scale of the payoffs. The meta-game is solved as in :class:`MATRL`; the best response starts from the
    current strategy. In each game the best-response step is halved when either player's direction differs in sign from its
    last one (the dynamics turn: the step was too large), and grows slowly otherwise.

    :param predicted_step: size of the prediction
    :param initial_step: first best-response step
    :param shrink: factor when a direction flips, below 1
    :param growth: factor otherwise, above 1
    :param largest_step: bound of the best-response step
    :param metagame: ``False`` takes the predicted strategies
    :param seed: of the draws among equilibria
    """

    predicted_step: float = 0.5
    initial_step: float = 0.5
    shrink: float = 0.5
    growth: float = 1.02
    largest_step: float = 2.0
    metagame: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("predicted_step", "initial_step", "shrink", "growth", "largest_step"):
            check_positive(name, getattr(self, name))
        if self.shrink >= 1.0 or self.growth < 1.0:
            raise ValueError(f"shrink must be below 1 and growth at least 1, got {self.shrink} and {self.growth}")

    def start(self, games: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics that hold the steps, the last directions and a generator"""
        return _TrustRegionDynamics(self, normalised_field(games.field()), len(strategies))


class _TrustRegionDynamics:
    def __init__(self, learner: TrustRegionMATRL, field: GradientField, batch: int) -> None:
        inner = MATRL(predicted_step=learner.predicted_step, metagame=learner.metagame, seed=learner.seed)
        self._target = _MATRLDynamics(inner, field).target
        self._learner = learner
        self._field = field
        self._step = np.full((batch, 1), learner.initial_step)
        self._last = np.zeros((batch, 2))

    def step(self, strategies: Array) -> Array:
        direction = self._field.gradient(self._target(strategies))
        flipped = (direction * self._last < 0.0).any(axis=1, keepdims=True)
        grown = np.minimum(self._step * self._learner.growth, self._learner.largest_step)
        self._step = np.where(flipped, self._step * self._learner.shrink, grown)
        self._last = direction
        return ascend(strategies, self._step, direction)


def normalised_field(field: GradientField) -> GradientField:
    """
    :param field: of 2x2 games
    :return: the field of the games with each player's payoffs divided by its largest possible |gradient|
    """
    largest = np.maximum(np.abs(field.offset), np.abs(field.slope + field.offset))
    unit = np.where(largest > 0.0, largest, 1.0)
    return GradientField(field.slope / unit, field.offset / unit, field.external / unit)
