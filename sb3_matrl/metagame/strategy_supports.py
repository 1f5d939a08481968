"""Enumeration for a few agents with K strategies: all pure equilibria, and mixed ones by their supports."""

import itertools

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import TOLERANCE, Array
from sb3_matrl.metagame.strategy_search import distinct, worst_regrets
from sb3_matrl.metagame.strategy_table import StrategyTable
from sb3_matrl.metagame.tangent import one_hot, settle, tangent_basis

#: Newton starts per support (the centre and random points), two for two agents, whose equations are linear in each agent's
#: weights; iterations from each; starts that are iterated together.
_STARTS = 8
_ITERATIONS = 25
_CHUNK = 2048

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def enumerate_pure_profiles(payoffs: StrategyTable) -> Array:
    """
    All pure equilibria, by comparing every pure profile with those that differ in one agent.

    :param payoffs: normalised payoffs
    :return: (k, n, K) all pure equilibria up to the tolerance; if there is none, (1, n, K): the profile of least summed regret
    """
    regret = payoffs.pure_regrets()
    found = np.flatnonzero(regret.max(axis=0) <= TOLERANCE)
    if len(found) == 0:
        found = np.array([regret.sum(axis=0).argmin()])
    choices = np.stack(np.unravel_index(found, (payoffs.n_strategies,) * payoffs.n_agents), axis=1)
    return one_hot(choices, payoffs.n_strategies)


def enumerate_strategy_supports(payoffs: StrategyTable, rng: np.random.Generator) -> Array:
    """
    Equilibria with the smallest supports.

    A support states for each agent which strategies have a positive weight. Payoffs must be equal within each agent's support:
    multilinear equations, solved by Newton's method. Supports are searched by the number of strategies in use beyond one per
    agent, all of one number together, and the search stops at the first number with an equilibrium: pure equilibria come
    first and fully mixed ones last. Supports with a strategy that is dominated while the others keep to theirs are skipped
    (Porter, Nudelman and Shoham 2008).

    :param payoffs: normalised payoffs of a few agents
    :param rng: source of the random starts
    :return: (k, n, K) the equilibria found; if there is none, (1, n, K): the candidate of least regret
    """
    subsets = _subsets(payoffs.n_strategies)
    numbers = np.argwhere(_possible(payoffs, subsets))
    supports = subsets[numbers]
    extra = supports.sum(axis=(1, 2)) - payoffs.n_agents
    points = enumerate_pure_profiles(payoffs)
    for size in range(payoffs.n_agents * (payoffs.n_strategies - 1) + 1):
        if size and np.any(extra == size):
            points = np.concatenate([points, _solve_supports(payoffs, supports[extra == size], rng)])
        worst = worst_regrets(payoffs, points)
        if worst.min() <= TOLERANCE:
            return distinct(points[worst <= TOLERANCE])
    return np.asarray(points[[worst.argmin()]])


def _subsets(n_strategies: int) -> Bools:
    """Non-empty sets of strategies, (2^K - 1, K)."""
    rows = list(itertools.product((False, True), repeat=n_strategies))[1:]
    return np.array(rows, dtype=np.bool_)


def _possible(payoffs: StrategyTable, subsets: Bools) -> Bools:
    """Supports (one axis per agent over ``subsets``) in which no strategy is dominated against those of the others."""
    n = payoffs.n_agents
    possible = np.ones((len(subsets),) * n, dtype=np.bool_)
    for i, row in enumerate(payoffs.table()):
        own = np.moveaxis(row, i, 0)
        advantage = own[:, None] - own[None, :]
        for axis in range(2, n + 1):
            advantage = np.stack([np.compress(chosen, advantage, axis).max(axis) for chosen in subsets], axis)
        undominated = advantage.min(axis=1) >= -TOLERANCE
        kept = np.stack([np.compress(chosen, undominated, 0).all(axis=0) for chosen in subsets])
        possible &= np.moveaxis(kept, 0, i)
    return possible


def _solve_supports(payoffs: StrategyTable, supports: Bools, rng: np.random.Generator) -> Array:
    """
    Solutions of the indifference equations within the simplex, not yet checked for deviations.

    :param payoffs: normalised payoffs
    :param supports: (s, n, K), all with the same number of strategies in use
    :param rng: source of the random starts
    :return: (k, n, K)
    """
    count = 2 if payoffs.n_agents == 2 else _STARTS
    starts = supports[:, None] * rng.exponential(size=(len(supports), count, *supports.shape[1:]))
    starts[:, 0] = supports
    points = (starts / starts.sum(axis=-1, keepdims=True)).reshape(-1, *supports.shape[1:])
    repeated = np.repeat(supports, count, axis=0)
    ends = [_newton(payoffs, repeated[k : k + _CHUNK], points[k : k + _CHUNK]) for k in range(0, len(points), _CHUNK)]
    solved = np.concatenate(ends)
    inside = np.all(solved >= -TOLERANCE, axis=(1, 2))
    return settle(np.maximum(solved[inside], 0.0))


def _newton(payoffs: StrategyTable, supports: Bools, points: Array) -> Array:
    """
    Damped least-squares Newton, which also handles singular Jacobians (continua of equilibria).

    :param payoffs: normalised payoffs
    :param supports: (b, n, K), all with m strategies in use beyond one per agent
    :param points: (b, n, K) starts within the supports
    :return: (b, n, K) iterates, converged or not
    """
    rows, agents, extra, base = _extra_strategies(supports)
    directions = _directions(agents, extra, base, payoffs.n_agents, payoffs.n_strategies)
    weights = points[rows, agents, extra]
    identity = np.eye(weights.shape[1])
    for _ in range(_ITERATIONS):
        points = _profiles(weights, rows, agents, extra, supports)
        gains = payoffs.gains(points)
        value = gains[rows, agents, extra] - gains[rows, agents, base]
        jacobian = directions @ payoffs.jacobian(points) @ np.swapaxes(directions, 1, 2)
        transposed = np.swapaxes(jacobian, 1, 2)
        damping = np.minimum(np.sum(value**2, axis=1), 1e-2) + 1e-14
        normal = transposed @ jacobian + damping[:, None, None] * identity
        step = np.linalg.solve(normal, transposed @ value[:, :, None])[:, :, 0]
        weights = np.clip(weights - step, -1.0, 2.0)
    return _profiles(weights, rows, agents, extra, supports)


def _extra_strategies(supports: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """
    Strategies in use beyond the first of each agent, the base strategy.

    :param supports: (b, n, K)
    :return: indices (b, m) of the batch, agents, extra strategies and their agents' base strategies
    """
    count = len(supports)
    first = supports.argmax(axis=2)
    others = supports.copy()
    np.put_along_axis(others, first[:, :, None], False, axis=2)
    rows, agents, extra = (index.reshape(count, -1) for index in np.nonzero(others))
    return rows, agents, extra, np.take_along_axis(first, agents, axis=1)


def _directions(agents: Ints, extra: Ints, base: Ints, n_agents: int, n_strategies: int) -> Array:
    """Tangent coordinates (b, m, n (K-1)) of the moves of weight from base to extra strategies."""
    moves = np.zeros((*agents.shape, n_agents, n_strategies - 1))
    basis = tangent_basis(n_strategies)
    np.put_along_axis(moves, agents[:, :, None, None], (basis[extra] - basis[base])[:, :, None] / 2.0, axis=2)
    return moves.reshape(*agents.shape, -1)


def _profiles(weights: Array, rows: Ints, agents: Ints, extra: Ints, supports: Bools) -> Array:
    """Profiles (b, n, K) with the given weights (b, m) on the extra strategies; the base strategies take the rest."""
    points = np.zeros(supports.shape)
    points[rows, agents, extra] = weights
    np.put_along_axis(points, supports.argmax(axis=2)[:, :, None], 1.0 - points.sum(axis=2, keepdims=True), axis=2)
    return points
