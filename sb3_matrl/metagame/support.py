"""Support enumeration: mixed equilibria of a few agents by Newton's method on the indifference equations."""

import itertools

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.exact import enumerate_pure, profiles
from sb3_matrl.metagame.incentives import TOLERANCE, Array, regrets
from sb3_matrl.metagame.table_payoffs import TablePayoffs, joint_weight_derivatives, joint_weights

#: Newton starts per support (the centre and random points), and iterations from each.
_STARTS = 8
_ITERATIONS = 25


def enumerate_supports(payoffs: TablePayoffs, rng: np.random.Generator) -> Array:
    """
    Equilibria with the fewest mixing agents.

    A support states for each agent whether it plays current, predicted or mixes. With k agents mixing, their k indifference
    equations are multilinear in their k weights; Newton's Jacobian comes from the same joint weights. Supports are searched
    by k = 0, 1, ..., n, all of one k in a batch, and the search stops at the first k with an equilibrium: pure equilibria
    come first and fully mixed ones last.

    :param payoffs: normalised payoffs of n <= 8 agents
    :param rng: source of the random starts
    :return: (k, n) the equilibria found; if there is none, (1, n): the candidate of least regret
    """
    points = enumerate_pure(payoffs)
    for n_mixing in range(payoffs.n_agents + 1):
        if n_mixing:
            points = np.concatenate([points, _solve_supports(payoffs, n_mixing, rng)])
        worst = regrets(points, payoffs.gradient(points)).max(axis=1)
        if worst.min() <= TOLERANCE:
            return _distinct(points[worst <= TOLERANCE])
    return np.asarray(points[[worst.argmin()]])


def _distinct(points: Array) -> Array:
    _, first = np.unique(np.round(points, 7), axis=0, return_index=True)
    return np.asarray(points[np.sort(first)])


def _solve_supports(payoffs: TablePayoffs, n_mixing: int, rng: np.random.Generator) -> Array:
    """Solutions (k, n) of the indifference equations within [0, 1], not yet checked for deviations."""
    mixers, corners = _supports(payoffs.n_agents, n_mixing)
    equations = _equations(payoffs, mixers, corners)
    # Indifference needs an incentive that changes sign over the mixers' cube (or is zero all over it).
    possible = np.all((equations.min(axis=2) <= TOLERANCE) & (equations.max(axis=2) >= -TOLERANCE), axis=1)
    if not possible.any():
        return np.empty((0, payoffs.n_agents))
    mixers, corners, equations = mixers[possible], corners[possible], equations[possible]
    starts = rng.uniform(0.02, 0.98, size=(len(mixers), _STARTS, n_mixing))
    starts[:, 0] = 0.5
    mixed = _newton(np.repeat(equations, _STARTS, axis=0), starts.reshape(-1, n_mixing))
    points = np.repeat(profiles(corners[:, 0], payoffs.n_agents), _STARTS, axis=0)
    np.put_along_axis(points, np.repeat(mixers, _STARTS, axis=0), mixed, axis=1)
    inside = np.all((points >= -TOLERANCE) & (points <= 1.0 + TOLERANCE), axis=1)
    return np.clip(points[inside], 0.0, 1.0)


def _supports(n_agents: int, n_mixing: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Mixing agents (K, k), and numbers (K, 2^k) of the pure profiles that they mix over."""
    mixers, corners = [], []
    inner = profiles(np.arange(2**n_mixing), n_mixing) == 0.0
    for chosen in itertools.combinations(range(n_agents), n_mixing):
        bits = np.array([2 ** (n_agents - 1 - agent) for agent in range(n_agents)])
        fixed = [agent for agent in range(n_agents) if agent not in chosen]
        outer = profiles(np.arange(2 ** len(fixed)), len(fixed)) == 0.0
        corners.append((outer @ bits[fixed])[:, None] + (inner @ bits[list(chosen)])[None, :])
        mixers.append(np.tile(chosen, (len(outer), 1)))
    return np.concatenate(mixers), np.concatenate(corners).astype(np.int64)


def _equations(payoffs: TablePayoffs, mixers: npt.NDArray[np.int64], corners: npt.NDArray[np.int64]) -> Array:
    """Incentives (K, k, 2^k) of the mixers at the corners of their cube."""
    return np.asarray(payoffs.difference[mixers[:, :, None], corners[:, None, :]])


def _newton(equations: Array, rho: Array) -> Array:
    """
    Damped least-squares Newton, which also handles singular Jacobians (continua of equilibria).

    :param equations: (K, k, 2^k) incentives of the mixers at the corners of their cube
    :param rho: (K, k) starts
    :return: (K, k) iterates, converged or not
    """
    n_mixing = rho.shape[1]
    identity = np.eye(n_mixing)
    for _ in range(_ITERATIONS):
        weights = joint_weights(rho)
        value = np.einsum("kas,ks->ka", equations, weights)
        jacobian = equations @ np.swapaxes(joint_weight_derivatives(weights, n_mixing), 1, 2)
        damping = np.minimum(np.sum(value**2, axis=1), 1e-2) + 1e-14
        normal = np.swapaxes(jacobian, 1, 2) @ jacobian + damping[:, None, None] * identity
        right = np.einsum("kab,ka->kb", jacobian, value)
        rho = np.clip(rho - np.linalg.solve(normal, right[:, :, None])[:, :, 0], -1.0, 2.0)
    return rho
