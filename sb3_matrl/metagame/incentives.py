"""
Incentives and regrets: what an agent gains from its current strategy over its predicted one, and by its best deviation.

Multiplying one agent's payoffs by a positive constant, or adding anything that depends on the others alone, leaves the
equilibria unchanged. Normalised incentives make the solvers' tolerances invariant under both, so that raw payoffs of about
1e-3 do not trigger stopping rules early.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: A point is an equilibrium when no agent gains more than this by deviating, in units of its own largest incentive.
TOLERANCE = 1e-9
#: Incentives below this share of an agent's largest payoff are rounding errors: the agent is indifferent.
_ROUNDING = 1e-13


def regrets(rho: Array, gradient: Array) -> Array:
    """
    Gains of the best deviations.

    :param rho: (..., n) weights on current
    :param gradient: (..., n) current minus predicted at ``rho``
    :return: (..., n) gain of each agent from its best deviation, >= 0
    """
    return np.maximum((1.0 - rho) * gradient, -rho * gradient)


def normalise(difference: Array, largest_payoff: Array) -> Array:
    """
    Incentives in units of each agent's largest one; rounding errors become exact zeros.

    :param difference: (n, k, ...) each agent's gain from current over predicted at k profiles; further axes are a batch
    :param largest_payoff: (n, ...) each agent's largest |payoff|
    :return: (n, k, ...) within [-1, 1]
    """
    difference = np.where(np.abs(difference) <= _ROUNDING * largest_payoff[:, None], 0.0, difference)
    return in_units(difference, np.abs(difference).max(axis=1))


def in_units(values: Array, unit: Array) -> Array:
    """
    Divide each agent's values by its unit.

    :param values: (n, k, ...)
    :param unit: (n, ...) >= 0; where it is 0 the values stay
    :return: (n, k, ...)
    """
    return np.asarray(values / np.where(unit > 0.0, unit, 1.0)[:, None])
