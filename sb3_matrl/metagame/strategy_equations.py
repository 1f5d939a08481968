"""Equilibria of games with K strategies per agent as zeros of equations: the homotopy path and the natural map."""

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.game import StrategyPayoffs
from sb3_matrl.metagame.homotopy import follow
from sb3_matrl.metagame.incentives import Array
from sb3_matrl.metagame.tangent import from_tangent, project_to_simplex, tangent_basis, to_tangent


def trace_strategies(payoffs: StrategyPayoffs, max_steps: int) -> Array:
    """
    Follow the equilibria of barrier-perturbed games from the centre to an equilibrium.

    :param payoffs: normalised payoffs of any number of agents
    :param max_steps: largest number of predictor steps
    :return: (n, K) the end of the curve; an intermediate point if ``max_steps`` was too small
    """
    end = follow(_SimplexPath(payoffs), max_steps)[:-1]
    return project_to_simplex(from_tangent(end, payoffs.n_strategies))


class _SimplexPath:
    """
    Barrier-perturbed games of K strategies.

    Agent i's payoff plus mu sum_k log sigma_ik has its maximum over the simplex where v_ik + mu / sigma_ik is the same for all
    k, v_ik the payoff of strategy k. Multiplied by sigma_ik and summed over k that constant is u_i + K mu, with u_i the payoff
    at sigma. With mu = (1-t)/t this is the polynomial system

        F_ik(sigma, t) = t sigma_ik (v_ik - u_i) + (1-t) (1 - K sigma_ik) = 0,

    whose rows sum to zero on the simplex; it is solved in tangent coordinates. For K = 2 it is the system of
    :func:`~sb3_matrl.metagame.homotopy.trace`.

    :param payoffs: normalised payoffs of n agents
    """

    def __init__(self, payoffs: StrategyPayoffs) -> None:
        self._payoffs = payoffs
        self._basis = tangent_basis(payoffs.n_strategies)

    def start(self) -> tuple[Array, Array]:
        n, k = self._payoffs.n_agents, self._payoffs.n_strategies
        gains = self._payoffs.gains(np.full((1, n, k), 1.0 / k))[0]
        # At t = 0: dF = -K d sigma + (v - mean v) / K dt = 0, and sigma = 1/K + T y with T'T = 2 I.
        direction = (gains @ self._basis).ravel() / (2.0 * k**2)
        return np.zeros(n * (k - 1) + 1), np.append(direction, 1.0)

    def system(self, point: Array) -> Array:
        sigma, t = from_tangent(point[:-1], self._payoffs.n_strategies), point[-1]
        excess = self._excess(sigma)
        value = t * sigma * excess + (1.0 - t) * (1.0 - self._payoffs.n_strategies * sigma)
        return np.asarray((value @ self._basis).ravel())

    def jacobian(self, point: Array) -> Array:
        n, k = self._payoffs.n_agents, self._payoffs.n_strategies
        sigma, t = from_tangent(point[:-1], k), point[-1]
        gains = self._payoffs.gains(sigma[None])[0]
        excess = gains - np.sum(sigma * gains, axis=1, keepdims=True)
        blocks = self._payoffs.jacobian(sigma[None])[0].reshape(n, k - 1, -1)
        # Derivatives (n, K, n (K-1)) of v up to a constant per agent, then of v - u through the others' weights.
        change = np.matmul(self._basis / 2.0, blocks)
        change -= np.matmul(sigma[:, None, :], change)
        in_others = (t * np.matmul(self._basis.T, sigma[:, :, None] * change)).reshape(n * (k - 1), -1)
        for i in range(n):
            rows = slice(i * (k - 1), (i + 1) * (k - 1))
            own = np.diag(t * excess[i] - (1.0 - t) * k) - t * np.outer(sigma[i], gains[i])
            in_others[rows, rows] = self._basis.T @ own @ self._basis
        in_t = (sigma * excess - (1.0 - k * sigma)) @ self._basis
        return np.column_stack([in_others, in_t.ravel()])

    def inside(self, point: Array) -> bool:
        return bool(np.all(from_tangent(point[:-1], self._payoffs.n_strategies) > 0.0))

    def _excess(self, sigma: Array) -> Array:
        """Payoffs (n, K) of the strategies less the payoff at sigma."""
        gains = self._payoffs.gains(sigma[None])[0]
        return np.asarray(gains - np.sum(sigma * gains, axis=1, keepdims=True))


class SimplexMap:
    """
    Natural map R(sigma) = sigma - P(sigma + v(sigma)) with P the projection onto the simplex, in tangent coordinates.

    Where the projection keeps the strategies S of an agent, its derivative is the orthogonal projection onto the directions
    within S.

    :param payoffs: normalised payoffs of n agents
    """

    def __init__(self, payoffs: StrategyPayoffs) -> None:
        self._payoffs = payoffs
        self._basis = tangent_basis(payoffs.n_strategies)

    def residual(self, points: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        sigma = from_tangent(points, self._payoffs.n_strategies)
        gains = self._payoffs.gains(sigma)
        projected = project_to_simplex(sigma + gains)
        return points - to_tangent(projected), (projected == 0.0).reshape(len(points), -1)

    def jacobian(self, points: Array, active: npt.NDArray[np.bool_]) -> Array:
        n, k = self._payoffs.n_agents, self._payoffs.n_strategies
        kept = 1.0 - active.reshape(-1, n, k)
        within = kept[..., :, None] * np.eye(k) - kept[..., :, None] * kept[..., None, :] / kept.sum(-1)[..., None, None]
        blocks = self._basis.T @ within @ self._basis / 2.0
        # v moves by T/2 J dy up to a constant per agent, sigma by T dy.
        slopes = self._payoffs.jacobian(from_tangent(points, k)).reshape(len(points), n, k - 1, -1) / 2.0
        slopes += np.eye(n * (k - 1)).reshape(n, k - 1, -1)
        moved = np.matmul(blocks, slopes).reshape(len(points), n * (k - 1), -1)
        return np.asarray(np.eye(n * (k - 1)) - moved)

    def restrict(self, points: Array) -> Array:
        return to_tangent(project_to_simplex(from_tangent(points, self._payoffs.n_strategies)))
