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


def mixtures(field: GradientField, current: Array, predicted: Array, rng: np.random.Generator) -> Array:
    """
    Solve the meta-games and mix.

    :param field: of 2x2 games
    :param current: (batch, 2) probabilities of action 0
    :param predicted: (batch, 2)
    :param rng: draws among the equilibria
    :return: (batch, 2) the mixtures that the meta-games' equilibria stand for
    """
    # Where nobody would move there is nothing to mix.
    mixed, moves = current.copy(), (current != predicted).any(axis=1)
    if not moves.any():
        return mixed
    here = GradientField(field.slope[moves], field.offset[moves], field.external[moves])
    before, after = current[moves], predicted[moves]
    mixed[moves] = aggregate(solve_two_agents(metagame_payoffs(here, before, after), rng), before, after)
    return mixed


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
        return mixtures(self._field, strategies, predicted, self._rng) if self._learner.metagame else predicted


@dataclass(frozen=True)
class TrustRegionMATRL(Learner):
    """
    MATRL whose steps are in the game's own units, with a metric that adapts to the border of the strategy space.

    1. **Units.** Each player's payoffs are divided by m_i = max(|u_i|, |c_i|, |u_i + c_i|) (:func:`unit_field`), which leaves
       the equilibria as they are. The gradients and their Lipschitz constants are then at most 1, and every cyclic game
       becomes zero-sum: (p, q) rotates about the equilibrium with speed 1, however small its payoffs are.
    2. **Steps.** Predicted: gamma = ``look_ahead``. Best response: eta = gamma / (1 + gamma^2). Answering the predicted
       strategies multiplies the distance to the centre of such a rotation by |lambda|,
       |lambda|^2 = (1 - eta gamma)^2 + eta^2, which this eta makes least: 1 / (1 + gamma^2). At gamma = 1 these are the steps
       1 / L and 1 / (2 L) of EG+ (Diakonikolas, Daskalakis and Jordan 2021; "explore aggressively, update conservatively",
       Hsieh et al. 2020). Above 1, look-ahead alone misses equilibria of coordination games: the meta-game is what allows it.
    3. **Metric.** Player 1 takes its steps times w, player 2 times 1 / w. The dynamics of 2. depend on the product of the two
       alone, so any w is as stable, but near the border a bad one is slow: while one player is held at the border, the
       other's gradient may be as small as the equilibrium is near it. So w starts at 1 and, whenever one player was held by
       the border while the other moved, is multiplied (the first moved) or divided (the second moved) by ``balance``. This
       is the primal weight of primal-dual methods (Applegate et al. 2021), adapted by which player is held.

    The meta-game is solved as in :class:`MATRL`, and the best response starts from the current strategy.

    :param look_ahead: gamma, the predicted step
    :param balance: factor by which the metric adapts, at least 1; 1 keeps it
    :param metagame: ``False`` answers the predicted strategies
    :param best_response: ``False`` ends with the mixtures
    :param seed: of the draws among equilibria
    """

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
        return self.look_ahead / (1.0 + self.look_ahead**2)

    def start(self, games: NormalFormGame, strategies: Array) -> Dynamics:
        """:return: dynamics that hold the metric of every game and a generator"""
        return _TrustRegionDynamics(self, unit_field(games.field()), len(strategies))


class _TrustRegionDynamics:
    def __init__(self, learner: TrustRegionMATRL, field: GradientField, batch: int) -> None:
        self._learner = learner
        self._field = field
        self._rng = np.random.default_rng(learner.seed)
        self._weight = np.ones(batch)

    def step(self, strategies: Array) -> Array:
        metric = np.stack([self._weight, 1.0 / self._weight], axis=1)
        target = self._target(strategies, metric)
        if not self._learner.best_response:
            return target
        reached = ascend(strategies, self._learner.best_response_step * metric, self._field.gradient(target))
        self._weight *= self._learner.balance ** held_by_the_border(strategies, reached)
        return reached

    def _target(self, strategies: Array, metric: Array) -> Array:
        predicted = ascend(strategies, self._learner.look_ahead * metric, self._field.gradient(strategies))
        return mixtures(self._field, strategies, predicted, self._rng) if self._learner.metagame else predicted


def unit_field(field: GradientField) -> GradientField:
    """
    :param field: of 2x2 games
    :return: the field of the games with each player's payoffs divided by the largest of its |gradients| and |slope|; players
        whose payoffs depend on nothing of this keep them
    """
    largest = np.abs([field.slope, field.offset, field.slope + field.offset]).max(axis=0)
    unit = np.where(largest > 0.0, largest, 1.0)
    return GradientField(field.slope / unit, field.offset / unit, field.external / unit)


def held_by_the_border(before: Array, after: Array) -> Array:
    """
    Who alone moved in a step, because the other one stayed at a border of [0, 1].

    :param before: (batch, 2) probabilities of action 0
    :param after: (batch, 2) after the step
    :return: (batch,) 1 where the first player moved and the second was held, -1 the other way round, else 0
    """
    moved = before != after
    held = ~moved & ((after == 0.0) | (after == 1.0))
    return np.asarray(1.0 * (moved[:, 0] & held[:, 1]) - 1.0 * (moved[:, 1] & held[:, 0]))
