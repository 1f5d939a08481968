"""CMA-ES on the squared regrets: the paper's solver (Table 3)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sb3_matrl.metagame.game import Payoffs, StrategyPayoffs
from sb3_matrl.metagame.incentives import TOLERANCE, Array, regrets
from sb3_matrl.metagame.tangent import from_tangent, project_to_simplex, settle

_RESTARTS = 4
_MAX_EVALUATIONS = 6000

#: Candidates (b, d) to profiles (b, ...), their values (b,) and penalties (b,).
_Evaluation = Callable[[Array], tuple[Array, Array, Array]]


def cmaes(payoffs: Payoffs, rng: np.random.Generator) -> Array:
    """
    Minimise sum_i sum_s max(0, u_i(s) - u_i)^2 over [0, 1]^n, on normalised payoffs.

    Only the better of the two strategies can exceed their mixture, so the inner sum is the squared regret. A run that ends
    in a local minimum that is no equilibrium is restarted with twice the population. NumPy's global generator is not used.

    :param payoffs: normalised payoffs of any number of agents
    :param rng: draws starts and samples
    :return: (1, n) the best point
    """
    n = payoffs.n_agents

    def evaluate(candidates: Array) -> tuple[Array, Array, Array]:
        # The boundary transformation sometimes ends outside the cube by a rounding error.
        rho = np.clip(candidates[:, :n], 0.0, 1.0)
        return rho, np.sum(regrets(rho, payoffs.gradient(rho)) ** 2, axis=1), np.zeros(len(rho))

    # CMA-ES needs two dimensions; a single agent gets an unused second one.
    return _minimise(evaluate, max(n, 2), (0.2, 0.8), [0.0, 1.0], rng)


def cmaes_strategies(payoffs: StrategyPayoffs, rng: np.random.Generator) -> Array:
    """
    Minimise sum_i sum_k max(0, u_i(k) - u_i)^2 over profiles of K strategies, on normalised payoffs.

    The sum over all strategies is differentiable where the best ones change, unlike the largest regret. The search is over
    tangent coordinates without bounds; a candidate stands for the nearest profile, so that vertices and faces are reached
    exactly. Candidates further than 1 from the simplex are penalised, which keeps the search near it.

    :param payoffs: normalised payoffs of any number of agents
    :param rng: draws starts and samples
    :return: (1, n, K) the best point
    """
    k = payoffs.n_strategies

    def evaluate(candidates: Array) -> tuple[Array, Array, Array]:
        raw = from_tangent(candidates, k)
        sigma = settle(project_to_simplex(raw))
        distance = np.linalg.norm(raw - sigma, axis=2)
        penalty = np.sum(np.maximum(distance - 1.0, 0.0) ** 2, axis=1)
        gains = payoffs.gains(sigma)
        excess = np.maximum(gains - np.sum(sigma * gains, axis=2, keepdims=True), 0.0)
        return sigma, np.sum(excess**2, axis=(1, 2)), penalty

    return _minimise(evaluate, payoffs.n_agents * (k - 1), (-0.3, 0.3), [None, None], rng)


def _minimise(
    evaluate: _Evaluation, dimension: int, start: tuple[float, float], bounds: list[float | None], rng: np.random.Generator
) -> Array:
    """Best profile (1, ...) of the runs."""
    best, best_value = None, np.inf
    for restart in range(_RESTARTS):
        options = _options(rng, dimension, 2**restart) | {"bounds": bounds}
        point, value = _run(evaluate, rng.uniform(*start, size=dimension), options)
        if best is None or value < best_value:
            best, best_value = point, value
        if best_value <= TOLERANCE**2:
            break
    assert best is not None
    return best[None]


def _run(evaluate: _Evaluation, start: Array, options: dict[str, Any]) -> tuple[Array, float]:
    import cma  # takes a second to import, and only this solver needs it

    search = cma.CMAEvolutionStrategy(start, 0.3, options)
    best, best_value = evaluate(start[None])[0][0], np.inf
    while not search.stop():
        candidates = search.ask()
        points, values, penalties = evaluate(np.asarray(candidates))
        search.tell(candidates, values + penalties)
        if values.min() < best_value:
            best, best_value = points[values.argmin()], float(values.min())
    return best, best_value


def _options(rng: np.random.Generator, dimension: int, population_factor: int) -> dict[str, Any]:
    return {
        "popsize": population_factor * (4 + int(3 * np.log(dimension))),
        "ftarget": TOLERANCE**2,
        "tolfun": 1e-22,
        "tolfunhist": 1e-24,
        "tolx": 1e-14,
        "maxfevals": _MAX_EVALUATIONS,
        "seed": np.nan,
        "randn": lambda *shape: rng.standard_normal(shape),
        "verbose": -9,
        "verb_log": 0,
    }
