"""Ratings of players by the games that they won against each other: the Bradley-Terry model on Elo's scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Rating points by which a player leads that wins 10 of 11 games.
ELO_SCALE = 400.0
_NORMAL_QUANTILE = 1.959963984540054
_MAX_STEPS = 100


@dataclass(frozen=True, eq=False)
class EloRatings:
    """
    Ratings with mean zero.

    :param values: (K,) rating of each player
    :param low: (K,) lower ends of the 95 % intervals
    :param high: (K,) upper ends
    """

    values: Array
    low: Array
    high: Array

    def expected_scores(self) -> Array:
        """
        Expected score of the row player against the column player, 1 / (1 + 10^((R_j - R_i) / 400)).

        :return: (K, K)
        """
        return _logistic((self.values[:, None] - self.values[None]) * math.log(10.0) / ELO_SCALE)


def bradley_terry(wins: npt.ArrayLike, virtual_draws: float = 1.0) -> EloRatings:
    """
    Fit ratings by maximum likelihood: P(i beats j) = 1 / (1 + exp(s_j - s_i)), with rating R_i = 400 s_i / ln 10.

    Newton's method on the concave log likelihood (Hunter 2004, "MM algorithms for generalized Bradley-Terry models", Eqs. 1
    and 2). Intervals are those of the normal approximation with the inverse of the Fisher information; they suppose that the
    model is right, so that they say nothing about players that beat each other in a circle.

    :param wins: (K, K) games that the row player won against the column player; a draw counts as half a game for each
    :param virtual_draws: draws that are added between every two players, so that ratings stay finite if a player won or lost
        all its games; 0 for plain maximum likelihood
    :return: ratings with intervals
    :raises ValueError: if ``wins`` is no such table, or ratings are not determined without virtual draws
    """
    won = np.array(wins, dtype=np.float64)
    if won.ndim != 2 or won.shape[0] != won.shape[1] or not np.isfinite(won).all() or (won < 0).any():
        raise ValueError(f"wins must be a square table of numbers of games, got shape {won.shape}")
    won += virtual_draws / 2.0
    np.fill_diagonal(won, 0.0)
    if not _is_strongly_connected(won > 0.0):
        raise ValueError("some players won or lost all games against the others: ratings need virtual_draws > 0")
    strengths = _maximise(won)
    covariance = _pseudo_inverse(_information(won, strengths))
    unit = ELO_SCALE / math.log(10.0)
    half = _NORMAL_QUANTILE * unit * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    values = unit * strengths
    return EloRatings(values, values - half, values + half)


def _maximise(won: Array) -> Array:
    """Strengths with mean zero at the maximum of the likelihood."""
    strengths = np.zeros(len(won))
    games = won + won.T
    for _ in range(_MAX_STEPS):
        chances = _logistic(strengths[:, None] - strengths[None])
        gradient = (won - games * chances).sum(axis=1)
        step = _pseudo_inverse(_information(won, strengths)) @ gradient
        # Far from the maximum the quadratic model is too flat: no step beyond a factor of e^2 in the odds.
        largest = abs(step).max(initial=0.0)
        strengths = strengths + step * min(1.0, 2.0 / max(largest, 1e-300))
        strengths -= strengths.mean()
        if largest < 1e-10:
            break
    return strengths


def _information(won: Array, strengths: Array) -> Array:
    """Fisher information of the strengths, (K, K)."""
    chances = _logistic(strengths[:, None] - strengths[None])
    weights = (won + won.T) * chances * (1.0 - chances)
    return np.asarray(np.diag(weights.sum(axis=1)) - weights)


def _pseudo_inverse(information: Array) -> Array:
    """Inverse on the strengths whose sum is zero: the information has rank K - 1, because only differences count."""
    count = len(information)
    scale = np.trace(information) / count
    level = np.full_like(information, 1.0 / count)
    return np.asarray(np.linalg.inv(information + scale * level) - level / scale)


def _logistic(values: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


def _is_strongly_connected(edges: npt.NDArray[np.bool_]) -> bool:
    """Whether every player leads to every other one along edges."""
    reached = edges | np.eye(len(edges), dtype=bool)
    for _ in range(max(len(edges), 2).bit_length()):
        reached = (reached.astype(np.int64) @ reached.astype(np.int64)) > 0
    return bool(reached.all())
