"""Solvers for any number of agents: pure best-response dynamics and a semismooth Newton method for mixed equilibria."""

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.homotopy import trace
from sb3_matrl.metagame.incentives import TOLERANCE, DenseIncentives, Incentives, regrets
from sb3_matrl.metagame.payoffs import Array

#: Best-response walks, after how many without a pure equilibrium to give up (where the first two cycle, the rest nearly
#: always do), and the steps of one as a multiple of the number of agents.
_WALKS = 8
_FAILED_WALKS = 3
_STEPS_PER_AGENT = 6
#: Steps along the homotopy path, and rounds and size of the batches of random Newton starts, small games only.
_PATH_STEPS = 500
_ROUNDS = 8
_BATCH = 16
_ITERATIONS = 60


def best_response(incentives: Incentives, rng: np.random.Generator) -> Array:
    """
    Pure best-response dynamics from several starts; where they cycle, mixed equilibria by :func:`complementarity`.

    :param incentives: of any number of agents
    :param rng: draws starts and the order of moves
    :return: (k, n) the equilibria found; if there is none, (1, n): the point of least regret
    """
    n = incentives.n_agents
    starts = np.concatenate([np.zeros((1, n)), np.ones((1, n)), rng.integers(0, 2, size=(_WALKS - 2, n)).astype(np.float64)])
    ends: list[Array] = []
    averages: list[Array] = []
    for start in starts:
        end, average = _walk(incentives, start, rng)
        if end is not None:
            ends.append(end)
        averages.append(average)
        if not ends and len(averages) == _FAILED_WALKS:
            return complementarity(incentives, np.stack(averages), rng)
    pure = np.unique(np.stack(ends), axis=0)
    found = regrets(pure, incentives.gradient(pure)).max(axis=1) <= TOLERANCE
    return np.asarray(pure[found]) if found.any() else complementarity(incentives, np.stack(averages), rng)


def _walk(incentives: Incentives, start: Array, rng: np.random.Generator) -> tuple[Array | None, Array]:
    """:return: (n,) the pure equilibrium where it ended, or ``None``, and (n,) the average of the profiles visited"""
    walk = incentives.walk(start)
    total, visited = np.zeros(len(start)), 0
    for _ in range(_STEPS_PER_AGENT * len(start)):
        regret = regrets(walk.profile, walk.gradient)
        improving = np.flatnonzero(regret > TOLERANCE)
        total, visited = total + walk.profile, visited + 1
        if len(improving) == 0:
            return walk.profile, total / visited
        walk.flip(int(rng.choice(improving)))
    return None, total / visited


def complementarity(incentives: Incentives, starts: Array, rng: np.random.Generator) -> Array:
    """
    Equilibria as zeros of the natural map R(rho) = rho - clip(rho + gradient(rho), 0, 1), by Levenberg-Marquardt.

    R is piecewise smooth; where the clip is active its Jacobian is the unit row, elsewhere minus the game's Hessian. R = 0
    exactly at the Nash equilibria, pure, mixed or degenerate, so no support has to be guessed. The method is local and
    stalls in most large games from an arbitrary start, hence the first start is the end of the homotopy path; then come
    ``starts`` and, where the dense game makes them cheap, random ones, in rounds, until an equilibrium is found.

    :param incentives: of any number of agents
    :param starts: (k, n) further starts
    :param rng: draws the random starts
    :return: (k, n) the equilibria found; if there is none, (1, n): the point of least regret
    """
    n = incentives.n_agents
    seen, batch = np.full((1, n), 0.5), trace(incentives, _PATH_STEPS)[None]
    for attempt in range(_ROUNDS if isinstance(incentives, DenseIncentives) else 1):
        seen = np.concatenate([seen, batch, _levenberg_marquardt(incentives, batch)])
        worst = regrets(seen, incentives.gradient(seen)).max(axis=1)
        if worst.min() <= TOLERANCE:
            return np.unique(seen[worst <= TOLERANCE], axis=0)
        batch = starts if attempt == 0 else rng.uniform(size=(_BATCH, n))
    return np.asarray(seen[[worst.argmin()]])


def _levenberg_marquardt(incentives: Incentives, rho: Array) -> Array:
    """
    :param incentives: of n agents
    :param rho: (K, n) starts
    :return: (K, n) end points; returns as soon as one of them has converged
    """
    identity = np.eye(incentives.n_agents)
    residual, active = _natural_map(incentives, rho)
    value = np.sum(residual**2, axis=1)
    damping = np.full(len(rho), 1e-2)
    for _ in range(_ITERATIONS):
        if value.min() <= (0.1 * TOLERANCE) ** 2:
            break
        jacobian = np.where(active[:, :, None], identity, -incentives.jacobian(rho))
        transposed = np.swapaxes(jacobian, 1, 2)
        weight = np.minimum(damping * np.sqrt(value), 1e3) + 1e-14
        normal = transposed @ jacobian + weight[:, None, None] * identity
        step = np.linalg.solve(normal, transposed @ residual[:, :, None])[:, :, 0]
        trial = np.clip(rho - step, 0.0, 1.0)
        trial_residual, trial_active = _natural_map(incentives, trial)
        trial_value = np.sum(trial_residual**2, axis=1)
        better = trial_value < value
        rho, residual = np.where(better[:, None], trial, rho), np.where(better[:, None], trial_residual, residual)
        active, value = np.where(better[:, None], trial_active, active), np.where(better, trial_value, value)
        damping = np.clip(damping * np.where(better, 0.2, 6.0), 1e-8, 1e8)
    return rho


def _natural_map(incentives: Incentives, rho: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """:return: (K, n) residual, and (K, n) where the clip is active"""
    target = rho + incentives.gradient(rho)
    return rho - np.clip(target, 0.0, 1.0), (target >= 1.0) | (target <= 0.0)
