"""Levenberg-Marquardt on the natural map, whose zeros are the Nash equilibria."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import TOLERANCE, Array

_ITERATIONS = 60


class NaturalMap(Protocol):
    """
    Residual R(x) = x - P(x + gradient(x)) with P the projection onto the set of mixed profiles.

    R is piecewise smooth, and R = 0 exactly at the Nash equilibria, pure, mixed or degenerate, so no support has to be
    guessed.
    """

    def residual(self, points: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        """
        :param points: (b, d) coordinates of profiles
        :return: residuals (b, d), and the constraints (b, c) that are active in the projections
        """
        ...

    def jacobian(self, points: Array, active: npt.NDArray[np.bool_]) -> Array:
        """
        :param points: (b, d)
        :param active: (b, c) from :meth:`residual`
        :return: (b, d, d) derivatives of the residuals
        """
        ...

    def restrict(self, points: Array) -> Array:
        """
        :param points: (b, d) any numbers
        :return: (b, d) coordinates of nearby profiles
        """
        ...


def levenberg_marquardt(equations: NaturalMap, points: Array) -> Array:
    """
    Zeros of the natural map from b starts; stops as soon as one of them has converged.

    :param equations: natural map of a game
    :param points: (b, d) starts
    :return: (b, d) end points
    """
    identity = np.eye(points.shape[1])
    residual, active = equations.residual(points)
    value = np.sum(residual**2, axis=1)
    damping = np.full(len(points), 1e-2)
    for _ in range(_ITERATIONS):
        if value.min() <= (0.1 * TOLERANCE) ** 2:
            break
        jacobian = equations.jacobian(points, active)
        transposed = np.swapaxes(jacobian, 1, 2)
        weight = np.minimum(damping * np.sqrt(value), 1e3) + 1e-14
        normal = transposed @ jacobian + weight[:, None, None] * identity
        step = np.linalg.solve(normal, transposed @ residual[:, :, None])[:, :, 0]
        trial = equations.restrict(points - step)
        trial_residual, trial_active = equations.residual(trial)
        trial_value = np.sum(trial_residual**2, axis=1)
        better = trial_value < value
        points, residual = np.where(better[:, None], trial, points), np.where(better[:, None], trial_residual, residual)
        active, value = np.where(better[:, None], trial_active, active), np.where(better, trial_value, value)
        damping = np.clip(damping * np.where(better, 0.2, 6.0), 1e-8, 1e8)
    return points
