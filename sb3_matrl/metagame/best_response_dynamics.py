"""Solvers for any number of agents: pure best-response dynamics, and a semismooth Newton method for mixed equilibria."""

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.game import Payoffs
from sb3_matrl.metagame.homotopy import trace
from sb3_matrl.metagame.incentives import TOLERANCE, Array, regrets
from sb3_matrl.metagame.least_squares import levenberg_marquardt
from sb3_matrl.metagame.table_payoffs import MAX_DENSE_AGENTS

#: Number of best-response walks, number of failed walks after which to stop (if the first few cycle, the rest nearly always
#: do), and steps of a walk as a multiple of the number of agents.
_WALKS = 8
_FAILED_WALKS = 3
_STEPS_PER_AGENT = 6
#: Steps along the homotopy path; rounds and batch size of random Newton starts, for tables only.
_PATH_STEPS = 500
_ROUNDS = 8
_BATCH = 16


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
    Equilibria as zeros of the natural map, by Levenberg-Marquardt.

    The method is local and stalls in most large games from an arbitrary start, so the first start is the end of the homotopy
    path. Up to 12 agents, where evaluations are cheap, ``starts`` and rounds of random starts follow until an equilibrium is
    found.

    :param payoffs: normalised payoffs of any number of agents
    :param starts: (k, n) further starts
    :param rng: source of the random starts
    :return: (k, n) the equilibria found; if there is none, (1, n): the point of least regret
    """
    n = payoffs.n_agents
    equations, seen, batch = _CubeMap(payoffs), np.full((1, n), 0.5), trace(payoffs, _PATH_STEPS)[None]
    for attempt in range(_ROUNDS if n <= MAX_DENSE_AGENTS else 1):
        seen = np.concatenate([seen, batch, levenberg_marquardt(equations, batch)])
        worst = regrets(seen, payoffs.gradient(seen)).max(axis=1)
        if worst.min() <= TOLERANCE:
            return np.unique(seen[worst <= TOLERANCE], axis=0)
        batch = starts if attempt == 0 else rng.uniform(size=(_BATCH, n))
    return np.asarray(seen[[worst.argmin()]])


class _CubeMap:
    """
    Natural map R(rho) = rho - clip(rho + gradient(rho), 0, 1).

    Where the clip is active its Jacobian is the unit row, elsewhere minus the game's Hessian.

    :param payoffs: normalised payoffs of n agents
    """

    def __init__(self, payoffs: Payoffs) -> None:
        self._payoffs = payoffs
        self._identity = np.eye(payoffs.n_agents)

    def residual(self, points: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
        target = points + self._payoffs.gradient(points)
        return points - np.clip(target, 0.0, 1.0), (target >= 1.0) | (target <= 0.0)

    def jacobian(self, points: Array, active: npt.NDArray[np.bool_]) -> Array:
        return np.where(active[:, :, None], self._identity, -self._payoffs.jacobian(points))

    def restrict(self, points: Array) -> Array:
        return np.clip(points, 0.0, 1.0)
