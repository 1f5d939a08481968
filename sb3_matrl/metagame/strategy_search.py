"""Solvers for any number of agents with K strategies: pure best-response dynamics, then mixed equilibria."""

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.game import StrategyPayoffs
from sb3_matrl.metagame.incentives import TOLERANCE, Array
from sb3_matrl.metagame.least_squares import levenberg_marquardt
from sb3_matrl.metagame.strategy_equations import SimplexMap, trace_strategies
from sb3_matrl.metagame.strategy_table import StrategyTable
from sb3_matrl.metagame.tangent import from_tangent, one_hot, settle, strategy_regrets, to_tangent

#: As for two strategies: walks, failed walks after which to stop, steps per agent and further strategy; steps along the path,
#: rounds and batch size of random Newton starts.
_WALKS = 8
_FAILED_WALKS = 3
_STEPS_PER_AGENT = 6
_PATH_STEPS = 500
_ROUNDS = 8
_BATCH = 16


def worst_regrets(payoffs: StrategyPayoffs, points: Array) -> Array:
    """
    Largest regret of any agent.

    :param payoffs: normalised payoffs
    :param points: (b, n, K)
    :return: (b,)
    """
    return np.asarray(strategy_regrets(points, payoffs.gains(points)).max(axis=1))


def distinct(points: Array) -> Array:
    """
    Points without those that differ from an earlier one by rounding errors.

    :param points: (b, n, K)
    :return: (k, n, K) in the order of ``points``
    """
    _, first = np.unique(np.round(points, 7), axis=0, return_index=True)
    return np.asarray(points[np.sort(first)])


def best_response_strategies(payoffs: StrategyPayoffs, rng: np.random.Generator) -> Array:
    """
    Pure best-response dynamics from several starts; if they cycle, mixed equilibria by :func:`mixed_equilibria`.

    :param payoffs: normalised payoffs of any number of agents
    :param rng: source of the starts and of the order of moves
    :return: (k, n, K) the equilibria found; if there is none, (1, n, K): the point of least regret
    """
    n, k = payoffs.n_agents, payoffs.n_strategies
    alike = np.arange(k)[:, None].repeat(n, axis=1)
    starts = np.concatenate([alike, rng.integers(0, k, size=(max(_WALKS - k, 2), n))])
    ends: list[npt.NDArray[np.int64]] = []
    averages: list[Array] = []
    for start in starts:
        end, average = _walk(payoffs, start, rng)
        if end is not None:
            ends.append(end)
        averages.append(average)
        if not ends and len(averages) == _FAILED_WALKS:
            return mixed_equilibria(payoffs, np.stack(averages), rng)
    pure = one_hot(np.unique(np.stack(ends), axis=0), k)
    found = worst_regrets(payoffs, pure) <= TOLERANCE
    return np.asarray(pure[found]) if found.any() else mixed_equilibria(payoffs, np.stack(averages), rng)


def _walk(
    payoffs: StrategyPayoffs, start: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64] | None, Array]:
    """
    Let one agent after another move to its best strategy.

    :return: (n,) pure equilibrium, or ``None`` if the walk reached none, and the average (n, K) of the profiles visited
    """
    n, k = payoffs.n_agents, payoffs.n_strategies
    choices, agents = start.copy(), np.arange(n)
    visits = np.zeros((n, k))
    for _ in range(_STEPS_PER_AGENT * n * (k - 1)):
        gains = payoffs.pure_gains(choices)
        visits[agents, choices] += 1.0
        improving = np.flatnonzero(gains.max(axis=1) - gains[agents, choices] > TOLERANCE)
        if len(improving) == 0:
            return choices, visits / visits.sum(axis=1, keepdims=True)
        agent = int(rng.choice(improving))
        choices[agent] = gains[agent].argmax()
    return None, visits / visits.sum(axis=1, keepdims=True)


def mixed_equilibria(payoffs: StrategyPayoffs, starts: Array, rng: np.random.Generator) -> Array:
    """
    Equilibria as zeros of the natural map, by Levenberg-Marquardt.

    The first start is the end of the homotopy path. For tables, where evaluations are cheap, ``starts`` and rounds of random
    starts follow until an equilibrium is found.

    :param payoffs: normalised payoffs of any number of agents
    :param starts: (k, n, K) further starts
    :param rng: source of the random starts
    :return: (k, n, K) the equilibria found; if there is none, (1, n, K): the point of least regret
    """
    n, k = payoffs.n_agents, payoffs.n_strategies
    equations, batch = SimplexMap(payoffs), trace_strategies(payoffs, _PATH_STEPS)[None]
    seen = np.full((1, n, k), 1.0 / k)
    for attempt in range(_ROUNDS if isinstance(payoffs, StrategyTable) else 1):
        ends = from_tangent(levenberg_marquardt(equations, to_tangent(batch)), k)
        seen = np.concatenate([seen, batch, settle(np.maximum(ends, 0.0))])
        worst = worst_regrets(payoffs, seen)
        if worst.min() <= TOLERANCE:
            return distinct(seen[worst <= TOLERANCE])
        batch = starts if attempt == 0 else rng.dirichlet(np.ones(k), size=(_BATCH, n))
    return np.asarray(seen[[worst.argmin()]])
