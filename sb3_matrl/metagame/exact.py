"""Exact solvers: all pure equilibria by enumeration, all equilibria of two agents in closed form."""

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import TOLERANCE, Array, normalise, regrets
from sb3_matrl.metagame.table_payoffs import TablePayoffs


def profiles(indices: npt.NDArray[np.int64], n_agents: int) -> Array:
    """
    Pure profiles from their numbers.

    :param indices: (k,) numbers of pure profiles; bit 0 is current, agent 0 is the most significant bit
    :param n_agents: n
    :return: (k, n) weights on current, zeros and ones
    """
    bits = (indices[:, None] >> np.arange(n_agents - 1, -1, -1)) & 1
    return 1.0 - bits.astype(np.float64)


def pure_regrets(payoffs: TablePayoffs) -> Array:
    """
    Gains from leaving every pure profile.

    :param payoffs: payoffs of n agents
    :return: (n, 2^n) regret of each agent at each pure profile
    """
    difference = payoffs.difference
    signs = 2.0 * profiles(np.arange(difference.shape[1]), payoffs.n_agents).T - 1.0
    return np.maximum(0.0, -signs * difference)


def enumerate_pure(payoffs: TablePayoffs) -> Array:
    """
    All pure equilibria, by comparing every pure profile with its n neighbours at once.

    :param payoffs: normalised payoffs of n <= 12 agents
    :return: (k, n) all pure equilibria up to the tolerance; if there is none, (1, n): the profile of least summed regret
    """
    regret = pure_regrets(payoffs)
    found = np.flatnonzero(regret.max(axis=0) <= TOLERANCE)
    if len(found) == 0:
        found = np.array([regret.sum(axis=0).argmin()])
    return profiles(found, payoffs.n_agents)


def closed_form(payoffs: TablePayoffs) -> Array:
    """
    All equilibria of at most two agents, by :func:`two_agent_points`.

    :param payoffs: normalised payoffs of one or two agents
    :return: (k, n) isolated equilibria and end points of the components
    """
    if payoffs.n_agents == 1:
        return enumerate_pure(payoffs)
    points, regret = two_agent_points(payoffs.difference[[[0, 0], [1, 1]], [[0, 1], [0, 2]]][:, :, None])
    return np.asarray(points[:, regret[:, 0] <= TOLERANCE, 0].T)


# The batch of games is the last axis below: NumPy's inner loops then run over games, which is several times faster.


def two_agent_incentives(tables: Array) -> Array:
    """
    Normalised incentives of a batch of games of two agents.

    :param tables: (2, 2, 2, B) payoffs of agent i (first index) at every pure profile; 0 is current, 1 is predicted
    :return: (2, 2, B) entry [i, s]: gain of agent i from current over predicted while the other plays s
    """
    difference = np.stack([tables[0, 0] - tables[0, 1], tables[1, :, 0] - tables[1, :, 1]])
    return normalise(difference, np.abs(tables).max(axis=(1, 2)))


def two_agent_points(incentives: Array) -> tuple[Array, Array]:
    """
    Nine candidate points of two agents, which include all their equilibria, for a batch of games.

    Agent 1's incentive is linear in rho_2 and agent 2's in rho_1, so best responses change at 0, 1 and one root each.
    The set of equilibria is a union of products of the resulting intervals, and the corners of these products are pairs of
    break points. Checking the nine pairs therefore finds every isolated equilibrium and the end points of every continuum.

    :param incentives: (2, 2, B) from :func:`two_agent_incentives`
    :return: (2, 9, B) points, weights on current, and (9, B) the larger of the two agents' regrets there; infinite where a
        root does not exist. The pure profiles are at 0 (both current), 1, 3 and 4 (both predicted).
    """
    first, second = break_points(incentives[1])[:, None], break_points(incentives[0])[None]
    regret = two_agent_regrets(incentives, first, second)
    points = np.stack(np.broadcast_arrays(first, second))
    shape = (9, points.shape[-1])
    return points.reshape(2, *shape), np.where(np.isnan(regret), np.inf, regret).reshape(shape)


def two_agent_regrets(incentives: Array, first: Array, second: Array) -> Array:
    """
    Regrets on a grid of weights.

    :param incentives: (2, 2, B) from :func:`two_agent_incentives`
    :param first: (k, 1, B) weights on current of agent 1
    :param second: (1, m, B) weights on current of agent 2
    :return: (k, m, B) the larger of the two agents' regrets
    """
    own, other = incentives
    one = regrets(first, own[1] + second * (own[0] - own[1]))
    two = regrets(second, other[1] + first * (other[0] - other[1]))
    return np.maximum(one, two)


def break_points(incentive: Array) -> Array:
    """
    Weights on current at which the other agent's best response changes.

    :param incentive: (2, B) the other agent's incentive where this agent plays current and predicted
    :return: (3, B) weights on current: 1, 0, and the root inside, or NaN if there is none
    """
    at_current, at_predicted = incentive
    changes = at_current * at_predicted < 0.0
    root = at_predicted / np.where(changes, at_predicted - at_current, 1.0)
    root = np.where(changes & (root > TOLERANCE) & (root < 1.0 - TOLERANCE), root, np.nan)
    return np.stack([np.ones_like(root), np.zeros_like(root), root])
