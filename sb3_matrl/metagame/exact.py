"""Solvers that miss nothing: all pure equilibria by enumeration, all equilibria of two agents in closed form."""

import itertools

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import TOLERANCE, DenseIncentives, regrets
from sb3_matrl.metagame.payoffs import Array


def profiles(indices: npt.NDArray[np.int64], n_agents: int) -> Array:
    """
    :param indices: (k,) numbers of pure profiles; bit 0 is current, agent 0 is the most significant bit
    :param n_agents: n
    :return: (k, n) weights on current, zeros and ones
    """
    bits = (indices[:, None] >> np.arange(n_agents - 1, -1, -1)) & 1
    return 1.0 - bits.astype(np.float64)


def pure_regrets(incentives: DenseIncentives) -> Array:
    """
    :param incentives: of n agents
    :return: (n, 2^n) what each agent gains by leaving each pure profile
    """
    difference = incentives.difference
    signs = 2.0 * profiles(np.arange(difference.shape[1]), incentives.n_agents).T - 1.0
    return np.maximum(0.0, -signs * difference)


def enumerate_pure(incentives: DenseIncentives) -> Array:
    """
    All pure equilibria, by comparing every pure profile with its n neighbours at once.

    :param incentives: of n <= 12 agents
    :return: (k, n) all pure equilibria up to the tolerance; if there is none, (1, n): the profile of least summed regret
    """
    regret = pure_regrets(incentives)
    found = np.flatnonzero(regret.max(axis=0) <= TOLERANCE)
    if len(found) == 0:
        found = np.array([regret.sum(axis=0).argmin()])
    return profiles(found, incentives.n_agents)


def closed_form(incentives: DenseIncentives) -> Array:
    """
    All equilibria of at most two agents.

    Agent 1's incentive is linear in rho_2 and agent 2's in rho_1, so best responses change at 0, 1 and one root each.
    The set of equilibria is a union of products of the resulting intervals, all of whose corners are products of these break
    points. Checking the nine products therefore finds every isolated equilibrium and the end points of every continuum.

    :param incentives: of one or two agents
    :return: (k, n) isolated equilibria and end points of the components
    """
    if incentives.n_agents == 1:
        return enumerate_pure(incentives)
    first, second = incentives.difference[0, [0, 1]], incentives.difference[1, [0, 2]]
    candidates = np.array(list(itertools.product(_break_points(second), _break_points(first))))
    regret = regrets(candidates, incentives.gradient(candidates))
    return np.asarray(candidates[regret.max(axis=1) <= TOLERANCE])


def _break_points(incentive: Array) -> list[float]:
    """
    :param incentive: (2,) the other agent's incentive where this agent plays current and predicted
    :return: this agent's weights on current at which the other's best response changes, with 0 and 1
    """
    at_current, at_predicted = incentive
    points = [1.0, 0.0]
    if at_current * at_predicted < 0.0:
        root = float(at_predicted / (at_predicted - at_current))
        if TOLERANCE < root < 1.0 - TOLERANCE:
            points.append(root)
    return points
