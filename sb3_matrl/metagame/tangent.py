"""
Coordinates of mixed profiles of K strategies: tangent space of the simplex, projection onto it, regrets.

A profile sigma has shape (n, K), one distribution per agent. Its tangent coordinates y of shape (n, K-1) are defined by
sigma_i = 1/K + T y_i, where the columns of T are orthogonal, sum to zero and have the squared length 2. For K = 2, T = (1, -1)
and y differs from the weight on strategy 0 by a constant only: derivatives in y are then derivatives in rho.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import Array

_NEGLIGIBLE = 1e-10


@cache
def tangent_basis(n_strategies: int) -> Array:
    """
    Basis T of the directions in which a distribution can change (Helmert contrasts).

    :param n_strategies: K
    :return: (K, K-1), read-only; T'T = 2 I, columns sum to zero, T = (1, -1) for K = 2
    """
    basis = np.zeros((n_strategies, n_strategies - 1))
    for a in range(1, n_strategies):
        basis[:a, a - 1] = 1.0
        basis[a, a - 1] = -a
        basis[:, a - 1] *= np.sqrt(2.0 / (a * (a + 1)))
    basis.flags.writeable = False
    return basis


def to_tangent(sigma: Array) -> Array:
    """
    Tangent coordinates of profiles.

    :param sigma: (..., n, K)
    :return: (..., n (K-1))
    """
    coordinates = (sigma - 1.0 / sigma.shape[-1]) @ tangent_basis(sigma.shape[-1]) / 2.0
    return np.asarray(coordinates.reshape(*sigma.shape[:-2], -1))


def from_tangent(coordinates: Array, n_strategies: int) -> Array:
    """
    Profiles with given tangent coordinates; entries are negative if the point lies outside the simplex.

    :param coordinates: (..., n (K-1))
    :param n_strategies: K
    :return: (..., n, K)
    """
    rows = coordinates.reshape(*coordinates.shape[:-1], -1, n_strategies - 1)
    return np.asarray(rows @ tangent_basis(n_strategies).T + 1.0 / n_strategies)


def project_to_simplex(points: Array) -> Array:
    """
    Nearest distributions (Held, Wolfe and Crowder 1974): entries minus a threshold, cut at zero.

    :param points: (..., K) any finite numbers
    :return: (..., K) non-negative, summing to one
    """
    falling = -np.sort(-points, axis=-1)
    thresholds = (np.cumsum(falling, axis=-1) - 1.0) / np.arange(1, points.shape[-1] + 1)
    last = np.sum(falling > thresholds, axis=-1, keepdims=True) - 1
    cut = np.maximum(points - np.take_along_axis(thresholds, last, axis=-1), 0.0)
    # A sum that is one up to rounding becomes one, and a vertex exact.
    return np.asarray(cut / cut.sum(axis=-1, keepdims=True))


def settle(points: Array) -> Array:
    """
    Profiles of an iterative solver without the weights that it drove to zero.

    :param points: (..., n, K) non-negative
    :return: (..., n, K) weights below 1e-10 are zero, rows sum to one; a row with one weight left is an exact vertex
    """
    kept = np.where(points < _NEGLIGIBLE, 0.0, points)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


def one_hot(choices: npt.NDArray[np.int64], n_strategies: int) -> Array:
    """
    Pure profiles as distributions.

    :param choices: (..., n) strategies
    :param n_strategies: K
    :return: (..., n, K) zeros and ones
    """
    return np.asarray(np.eye(n_strategies)[choices])


def strategy_regrets(sigma: Array, payoffs: Array) -> Array:
    """
    Gains of the best deviations.

    :param sigma: (..., n, K) profiles
    :param payoffs: (..., n, K) payoffs of the strategies at ``sigma``, up to a constant per agent
    :return: (..., n) gain of each agent from its best deviation, >= 0 in floating point too
    """
    return np.asarray(np.sum(sigma * (payoffs.max(axis=-1, keepdims=True) - payoffs), axis=-1))
