"""
All Nash equilibria of 2x2 games, degenerate families included, and distances to them.

A player's incentive is linear in the other player's probability. Its root, if there is one, cuts [0, 1] into points (0, the
root, 1) and the open intervals between them. On every product of two such cells all incentives keep their signs, so that all
its points are equilibria or none is; its closure consists of equilibria if one inner point is one. The points are those of the
meta-game's closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.metagame.exact import break_points, two_agent_incentives, two_agent_regrets
from sb3_matrl.metagame.incentives import TOLERANCE


@dataclass(frozen=True, eq=False)
class Equilibria:
    """
    Equilibria of a batch of 2x2 games as k closed boxes per game; isolated equilibria are boxes of size zero.

    Coordinates are the players' probabilities of action 0. The union of the valid boxes is the whole set of equilibria, and
    no box contains another. Two boxes may share a corner where a family turns.

    :param lower: (..., k, 2) lower corners, NaN where not valid
    :param upper: (..., k, 2) upper corners, NaN where not valid
    :param valid: (..., k) True for boxes that exist, at least one per game
    """

    lower: Array
    upper: Array
    valid: npt.NDArray[np.bool_]

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """(...) number of boxes per game."""
        return np.asarray(self.valid.sum(axis=-1))

    @property
    def is_isolated(self) -> npt.NDArray[np.bool_]:
        """(..., k) True where a box is a single point."""
        return np.asarray(self.valid & (self.lower == self.upper).all(axis=-1))

    @property
    def is_mixed(self) -> npt.NDArray[np.bool_]:
        """(..., k) True where a box is a single point at which both players mix."""
        return np.asarray(self.is_isolated & ((self.lower > 0.0) & (self.lower < 1.0)).all(axis=-1))

    def distance(self, strategies: npt.ArrayLike) -> Array:
        """
        Compute the distance to the nearest equilibrium: the largest difference of a probability.

        :param strategies: (..., 2) probabilities of action 0; leading axes broadcast against the batch
        :return: (...)
        """
        points = np.asarray(strategies, dtype=np.float64)
        nearest: Array | None = None
        for k in range(self.valid.shape[-1]):
            outside = np.maximum(self.lower[..., k, :] - points, points - self.upper[..., k, :])
            distance = np.maximum(outside[..., 0], outside[..., 1])
            nearest = distance if nearest is None else np.fmin(nearest, distance)
        assert nearest is not None
        return np.maximum(nearest, 0.0)


def two_by_two_equilibria(payoffs: Array) -> Equilibria:
    """
    Find all equilibria. A point is an equilibrium if no player gains more than 1e-9 by deviating, in units of that player's
    largest difference between its two actions; smaller differences are ties.

    :param payoffs: (B, 2, 2, 2) finite
    :return: all equilibria; k is the largest number of boxes among these games
    """
    incentives = two_agent_incentives(np.moveaxis(payoffs, 0, -1))
    first, second = _cells(incentives[1]), _cells(incentives[0])
    # Signs are constant inside a cell, so its middle stands for all of it.
    middle, other_middle = first.mean(axis=1)[:, None], second.mean(axis=1)[None]
    found = two_agent_regrets(incentives, middle, other_middle) <= TOLERANCE
    lower, upper = (_products(first[:, end], second[:, end]) for end in (0, 1))
    valid = found.reshape(-1, len(payoffs)).T
    return _compact(lower, upper, valid & ~_contained(lower, upper, valid))


def _cells(incentive: Array) -> Array:
    """
    :param incentive: (2, B) the other player's incentive if this one plays action 0 and 1
    :return: (6, 2, B) closed intervals: three points and the intervals between them; NaN if there is no root
    """
    one, zero, root = break_points(incentive)
    whole = np.where(np.isnan(root), one, np.nan)
    return np.array([(zero, zero), (root, root), (one, one), (zero, root), (root, one), (zero, whole)])


def _products(first: Array, second: Array) -> Array:
    """:return: (B, 36, 2) all pairs of the (6, B) numbers"""
    pairs = np.stack(np.broadcast_arrays(first[:, None], second[None]), axis=-1)
    return np.moveaxis(pairs.reshape(36, -1, 2), 0, 1)


def _contained(lower: Array, upper: Array, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """:return: (B, K) True where another valid box contains this one; no two boxes are equal"""
    contained = np.zeros(valid.shape, dtype=np.bool_)
    for k in np.flatnonzero(valid.any(axis=0)):
        inside = np.all((lower >= lower[:, k, None]) & (upper <= upper[:, k, None]), axis=-1)
        inside[:, k] = False
        contained |= inside & valid[:, k, None]
    return contained


def _compact(lower: Array, upper: Array, valid: npt.NDArray[np.bool_]) -> Equilibria:
    """Move the valid boxes to the front and drop the columns that no game needs."""
    order = np.argsort(~valid, axis=1, kind="stable")[:, : max(int(valid.sum(axis=1).max(initial=1)), 1)]
    kept = np.take_along_axis(valid, order, axis=1)
    low, high = (np.where(kept[..., None], np.take_along_axis(x, order[..., None], axis=1), np.nan) for x in (lower, upper))
    return Equilibria(low, high, kept)
