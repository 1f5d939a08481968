"""Solvers for any number of agents: pure best-response dynamics, and a semismooth Newton method for mixed equilibria."""

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.game import Payoffs
from sb3_matrl.metagame.homotopy import trace
from sb3_matrl.metagame.incentives import TOLERANCE, Array, regrets
from sb3_matrl.metagame.table_payoffs import MAX_DENSE_AGENTS

#: Number of best-response walks, number of failed walks after which to stop (if the first few cycle, the rest nearly always
#: do), and steps of a walk as a multiple of the number of agents.
_WALKS = 8
_FAILED_WALKS = 3
_STEPS_PER_AGENT = 6
#: Steps along the homotopy path; rounds and batch size of random Newton starts, for tables only; Newton iterations.
_PATH_STEPS = 500
_ROUNDS = 8
_BATCH = 16
_ITERATIONS = 60


def best_response(payoffs: Payoffs, rng: np.random.Generator) -> Array:
    """
    Pure best-response dynamics from several starts; if they cycle, mixed equilibria by :func:`complementarity`.

    :param payoffs: normalised payoffs of any number of agents
    :param rng: source of the starts and of the order of moves
    :return: (k, n) the equilibria found; if there is none, (1, n): the point of least regret
    """
    n = payoffs.n_agents
    starts = np.concatenate([np.zeros((1, n)), np.ones((1, n)), rng.integers(0, 2, size=(_WALKS - 2, n)).astype(np.float64)])
    ends: list[Array] = []
    averages: list[Array] = []
    for start in starts:
        end, average = _best_responses(payoffs, start, rng)
        if end is not None:
            ends.append(end)
        averages.append(average)
        if not ends and len(averages) == _FAILED_WALKS:
            return complementarity(payoffs, np.stack(averages), rng)
    pure = np.unique(np.stack(ends), axis=0)
    found = regrets(pure, payoffs.gradient(pure)).max(axis=1) <= TOLERANCE
    return np.asarray(pure[found]) if found.any() else complementarity(payoffs, np.stack(averages), rng)


def _best_responses(payoffs: Payoffs, start: Array, rng: np.random.Generator) -> tuple[Array | None, Array]:
    """Final pure equilibrium (n,), or ``None`` if the walk reached none, and average (n,) of the profiles visited."""
    walk = payoffs.walk(start)
    total, visited = np.zeros(len(start)), 0
    for _ in range(_STEPS_PER_AGENT * len(start)):
        regret = regrets(walk.profile, walk.gradient)
        improving = np.flatnonzero(regret > TOLERANCE)
        total, visited = total + walk.profile, visited + 1
        if len(improving) == 0:
            return walk.profile, total / visited
        walk.flip(int(rng.choice(improving)))
    return None, total / visited


def complementarity(payoffs: Payoffs, starts: Array, rng: np.random.Generator) -> Array:
    """
    Equilibria as zeros of the natural map R(rho) = rho - clip(rho + gradient(rho), 0, 1), by Levenberg-Marquardt.

    R is piecewise smooth; where the clip is active its Jacobian is the unit row, elsewhere minus the game's Hessian. R = 0
    exactly at the Nash equilibria, pure, mixed or degenerate, so no support has to be guessed. The method is local and
    stalls in most large games from an arbitrary start, so the first start is the end of the homotopy path. Up to 12 agents,
    where evaluations are cheap, ``starts`` and rounds of random starts follow until an equilibrium is found.

    :param payoffs: normalised payoffs of any number of agents
    :param starts: (k, n) further starts
    :param rng: source of the random starts
    :return: (k, n) the equilibria found; if there is none, (1, n): the point of least regret
    """
    n = payoffs.n_agents
    seen, batch = np.full((1, n), 0.5), trace(payoffs, _PATH_STEPS)[None]
    for attempt in range(_ROUNDS if n <= MAX_DENSE_AGENTS else 1):
        seen = np.concatenate([seen, batch, _levenberg_marquardt(payoffs, batch)])
        worst = regrets(seen, payoffs.gradient(seen)).max(axis=1)
        if worst.min() <= TOLERANCE:
            return np.unique(seen[worst <= TOLERANCE], axis=0)
        batch = starts if attempt == 0 else rng.uniform(size=(_BATCH, n))
    return np.asarray(seen[[worst.argmin()]])


def _levenberg_marquardt(payoffs: Payoffs, rho: Array) -> Array:
    """
    Zeros of the natural map from K starts; stops as soon as one of them has converged.

    :param payoffs: normalised payoffs of n agents
    :param rho: (K, n) starts
    :return: (K, n) end points
    """
    identity = np.eye(payoffs.n_agents)
    residual, active = _natural_map(payoffs, rho)
    value = np.sum(residual**2, axis=1)
    damping = np.full(len(rho), 1e-2)
    for _ in range(_ITERATIONS):
        if value.min() <= (0.1 * TOLERANCE) ** 2:
            break
        jacobian = np.where(active[:, :, None], identity, -payoffs.jacobian(rho))
        transposed = np.swapaxes(jacobian, 1, 2)
        weight = np.minimum(damping * np.sqrt(value), 1e3) + 1e-14
        normal = transposed @ jacobian + weight[:, None, None] * identity
        step = np.linalg.solve(normal, transposed @ residual[:, :, None])[:, :, 0]
        trial = np.clip(rho - step, 0.0, 1.0)
        trial_residual, trial_active = _natural_map(payoffs, trial)
        trial_value = np.sum(trial_residual**2, axis=1)
        better = trial_value < value
        rho, residual = np.where(better[:, None], trial, rho), np.where(better[:, None], trial_residual, residual)
        active, value = np.where(better[:, None], trial_active, active), np.where(better, trial_value, value)
        damping = np.clip(damping * np.where(better, 0.2, 6.0), 1e-8, 1e8)
    return rho


def _natural_map(payoffs: Payoffs, rho: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Residual (K, n), and True (K, n) where the clip is active."""
    target = rho + payoffs.gradient(rho)
    return rho - np.clip(target, 0.0, 1.0), (target >= 1.0) | (target <= 0.0)
