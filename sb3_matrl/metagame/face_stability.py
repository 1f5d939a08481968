"""Stability of mixed profiles of K strategies: the fixed-point types of Appendix C on the faces of the simplices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import Array
from sb3_matrl.metagame.tangent import tangent_basis

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Directions:
    """
    Directions in which a profile can move.

    :param moves: (q, n (K-1)) tangent coordinates of the directions
    :param inward: (q,) True for a direction from a face into the simplex, which only counts forwards; False for a direction
        within the face of the strategies in use, which counts both ways
    :param slopes: (q,) gain of the agent along the direction
    """

    moves: Array
    inward: Bools
    slopes: Array


def directions_at(sigma: Array, gradient: Array, tolerance: float) -> Directions:
    """
    Directions from a profile: within each agent's face, and towards each unused strategy.

    :param sigma: (n, K)
    :param gradient: (n (K-1),) from :meth:`MetaGame.gradient`, in units of the payoff scale
    :param tolerance: largest weight of a strategy that counts as unused
    :return: n (K-1) directions
    """
    n, k = sigma.shape
    slopes = gradient.reshape(n, k - 1)
    moves, inward = np.zeros((n, k - 1, n, k - 1)), np.zeros((n, k - 1), dtype=np.bool_)
    for i, row in enumerate(sigma):
        used = np.flatnonzero(row > tolerance)
        unused = np.flatnonzero(row <= tolerance)
        steps = np.zeros((k - 1, k))
        if len(used) > 1:
            steps[: len(used) - 1, used] = tangent_basis(len(used)).T
        for step, strategy in zip(steps[len(used) - 1 :], unused, strict=True):
            step[strategy], step[used] = 1.0, -1.0 / len(used)
        moves[i, :, i] = steps @ tangent_basis(k) / 2.0
        inward[i, len(used) - 1 :] = True
    flat = moves.reshape(n * (k - 1), n * (k - 1))
    return Directions(flat, inward.ravel(), flat @ slopes.ravel())


def released(drive: Array, inward: Bools, free: Bools, tolerance: float) -> Bools:
    """
    Free directions without those into the simplex that no feasible move along the other free ones makes profitable.

    :param drive: (q, q) change of the gain along one direction by a move along another
    :param inward: (q,) directions that only count forwards
    :param free: (q,) directions without gain or loss
    :param tolerance: largest change that counts as zero
    :return: (q,) the remaining free directions
    """
    towards = np.where(inward[None, :], drive, np.abs(drive))
    while True:
        pushed = np.any(towards[:, free] > tolerance, axis=1)
        remaining = free & (~inward | pushed)
        if np.array_equal(remaining, free):
            return free
        free = remaining


def modes(hessian: Array, directions: Directions, free: Bools, tolerance: float) -> tuple[bool, bool, bool]:
    """
    Whether some motion along the free directions grows, contracts, turns.

    :param hessian: (n (K-1), n (K-1)) in tangent coordinates
    :param directions: all q directions
    :param free: (q,) the free ones
    :param tolerance: largest real or imaginary part that counts as zero
    :return: three booleans
    """
    if not free.any():
        return False, False, False
    moves = directions.moves[free]
    frame, _ = np.linalg.qr(moves.T)
    values = np.linalg.eigvals(frame.T @ hessian @ frame)
    contracts = bool(np.any(values.real < -tolerance))
    if directions.inward[free].all():
        # At a corner only directions into the simplex count; they contract only where an entry pushes back.
        contracts = bool(np.any(moves @ hessian @ moves.T < -tolerance))
    return bool(np.any(values.real > tolerance)), contracts, bool(np.any(np.abs(values.imag) > tolerance))
