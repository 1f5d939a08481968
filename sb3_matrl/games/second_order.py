"""Learners of differentiable games that use second derivatives: LookAhead, LOLA, SOS, SGA and consensus optimisation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.exact_learner import Dynamics, Learner, Map, check_positive, or_default
from sb3_matrl.games.payoff_arrays import Array


@dataclass(frozen=True)
class SecondOrderLearner(Learner[DifferentiableGame]):
    """
    All players' strategies move along one direction: w <- w - learning_rate * direction(w).

    xi is the simultaneous gradient of the losses, H its derivative, Ho the part of H off the players' own blocks.

    :param learning_rate: step size of all players
    """

    plays: ClassVar = (DifferentiableGame,)
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)

    def start(self, game: DifferentiableGame, strategies: Array) -> Dynamics:
        """:return: dynamics without memory"""
        return Map(lambda joint: joint - self.learning_rate * self.direction(game, joint))

    @abstractmethod
    def direction(self, game: DifferentiableGame, joint: Array) -> Array:
        """
        :param game: game to play
        :param joint: (d,) joint strategy
        :return: (d,) direction to subtract, before the step size
        """


@dataclass(frozen=True)
class LookAhead(SecondOrderLearner):
    """
    LookAhead (Zhang and Lesser 2010; Letcher et al. 2019): direction (I - look_ahead Ho) xi.

    :param learning_rate: step size of all players
    :param look_ahead: the opponents' anticipated step size; ``None`` uses ``learning_rate``
    """

    look_ahead: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("look_ahead", self.anticipated_step)

    @property
    def anticipated_step(self) -> float:
        """The opponents' anticipated step size."""
        return or_default(self.look_ahead, self.learning_rate)

    def direction(self, game: DifferentiableGame, joint: Array) -> Array:
        """:return: (d,)"""
        gradient = game.gradient(joint)
        return np.asarray(gradient - self.anticipated_step * game.off_diagonal(game.jacobian(joint)) @ gradient)


def shaping(game: DifferentiableGame, joint: Array) -> Array:
    """
    LOLA's shaping term chi = diag(Ho^T grad L): chi_i = sum_{j != i} (d xi_j / d w_i)^T dL_i / dw_j, the effect of player i's
    strategy on the opponents' steps.

    :param game: game to play
    :param joint: (d,) joint strategy
    :return: (d,)
    """
    mixed = game.off_diagonal(game.jacobian(joint))
    products = game.loss_gradients(joint) @ mixed
    return np.asarray(products[game.owner, np.arange(game.size)])


@dataclass(frozen=True)
class LOLA(LookAhead):
    """
    LOLA (Foerster et al. 2018): direction (I - look_ahead Ho) xi - look_ahead chi, chi being :func:`shaping`.

    :param learning_rate: step size of all players
    :param look_ahead: the opponents' anticipated step size; ``None`` uses ``learning_rate``
    """

    def direction(self, game: DifferentiableGame, joint: Array) -> Array:
        """:return: (d,)"""
        return np.asarray(super().direction(game, joint) - self.anticipated_step * shaping(game, joint))


@dataclass(frozen=True)
class SOS(LookAhead):
    """
    Stable opponent shaping (Letcher et al. 2019): LookAhead's direction minus p * look_ahead * chi, p = min(p1, p2). p1 keeps
    the angle to LookAhead's direction below 90 degrees, p2 removes the shaping near fixed points.

    :param learning_rate: step size of all players
    :param look_ahead: the opponents' anticipated step size; ``None`` uses ``learning_rate``
    :param a: share of LookAhead's direction that shaping must leave, in (0, 1)
    :param b: norm of xi below which p <= |xi|^2, in (0, 1)
    """

    a: float = 0.5
    b: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("a", self.a), ("b", self.b)):
            if not 0.0 < value < 1.0:
                raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")

    def direction(self, game: DifferentiableGame, joint: Array) -> Array:
        """:return: (d,)"""
        stable = super().direction(game, joint)
        shaped = -self.anticipated_step * shaping(game, joint)
        product = float(shaped @ stable)
        alignment = 1.0 if product >= 0.0 else min(1.0, -self.a * float(stable @ stable) / product)
        squared = float(np.sum(game.gradient(joint) ** 2))
        nearness = squared if squared < self.b**2 else 1.0
        return np.asarray(stable + min(alignment, nearness) * shaped)


@dataclass(frozen=True)
class SGA(SecondOrderLearner):
    """
    Symplectic gradient adjustment (Balduzzi et al. 2018): direction xi + s adjustment A^T xi, A = (H - H^T) / 2. Alignment
    chooses the sign s: s = sign(<xi, H^T xi> <A^T xi, H^T xi> / d + 0.1), and s = 1 for ``align=False``.

    The authors' weight is 1, made for H of order one and small steps: with learning rate 0.02 it diverges on the rotational
    game, where |A|^2 = 100. The default is therefore the learning rate, with which the adjustment is as long as LookAhead's.

    :param learning_rate: step size of all players
    :param adjustment: |lambda|, the weight of the adjustment; ``None`` uses ``learning_rate``
    :param align: whether alignment chooses the sign
    """

    adjustment: float | None = None
    align: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("adjustment", or_default(self.adjustment, self.learning_rate))

    def direction(self, game: DifferentiableGame, joint: Array) -> Array:
        """:return: (d,)"""
        gradient, jacobian = game.gradient(joint), game.jacobian(joint)
        adjusted = 0.5 * (jacobian.T - jacobian) @ gradient
        descent = jacobian.T @ gradient
        alignment = float(gradient @ descent) * float(adjusted @ descent) / len(joint)
        sign = -1.0 if self.align and alignment + 0.1 < 0.0 else 1.0
        return np.asarray(gradient + sign * or_default(self.adjustment, self.learning_rate) * adjusted)


@dataclass(frozen=True)
class ConsensusOptimization(SecondOrderLearner):
    """
    Consensus optimisation (Mescheder et al. 2017): direction xi + gamma H^T xi; the second term descends |xi|^2 / 2.

    :param learning_rate: step size of all players
    :param gamma: weight of the consensus term; ``None`` uses ``learning_rate`` (see :class:`SGA`; the weight 1 diverges on the
        rotational game with learning rate 0.02)
    """

    gamma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("gamma", or_default(self.gamma, self.learning_rate))

    def direction(self, game: DifferentiableGame, joint: Array) -> Array:
        """:return: (d,)"""
        gradient = game.gradient(joint)
        return np.asarray(gradient + or_default(self.gamma, self.learning_rate) * game.jacobian(joint).T @ gradient)
