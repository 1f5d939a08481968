"""CMA-ES on the squared regrets: the paper's solver (Table 3)."""

from typing import Any

import numpy as np

from sb3_matrl.metagame.game import Payoffs
from sb3_matrl.metagame.incentives import TOLERANCE, Array, regrets

_RESTARTS = 4
_MAX_EVALUATIONS = 6000


def cmaes(payoffs: Payoffs, rng: np.random.Generator) -> Array:
    """
    Minimise sum_i sum_s max(0, u_i(s) - u_i)^2 over [0, 1]^n, on normalised payoffs.

    Only the better of the two strategies can exceed their mixture, so the inner sum is the squared regret. A run that ends
    in a local minimum that is no equilibrium is restarted with twice the population. NumPy's global generator is not used.

    :param payoffs: normalised payoffs of any number of agents
    :param rng: draws starts and samples
    :return: (1, n) the best point
    """
    best, best_value = np.full(payoffs.n_agents, 0.5), np.inf
    for restart in range(_RESTARTS):
        point, value = _run(payoffs, rng, 2**restart)
        if value < best_value:
            best, best_value = point, value
        if best_value <= TOLERANCE**2:
            break
    return best[None]


def _run(payoffs: Payoffs, rng: np.random.Generator, population_factor: int) -> tuple[Array, float]:
    import cma  # takes a second to import, and only this solver needs it

    n = payoffs.n_agents
    # CMA-ES needs two dimensions; a single agent gets an unused second one.
    start = rng.uniform(0.2, 0.8, size=max(n, 2))
    search = cma.CMAEvolutionStrategy(start, 0.3, _options(rng, len(start), population_factor))
    best, best_value = start[:n], np.inf
    while not search.stop():
        candidates = search.ask()
        # The boundary transformation sometimes ends outside the cube by a rounding error.
        rho = np.clip(np.asarray(candidates)[:, :n], 0.0, 1.0)
        values = np.sum(regrets(rho, payoffs.gradient(rho)) ** 2, axis=1)
        search.tell(candidates, values)
        if values.min() < best_value:
            best, best_value = rho[values.argmin()], float(values.min())
    return best, best_value


def _options(rng: np.random.Generator, dimension: int, population_factor: int) -> dict[str, Any]:
    return {
        "bounds": [0.0, 1.0],
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
