"""Payoffs given as a table over all pure profiles; for few agents, because the table has 2^n entries per agent."""

from __future__ import annotations

import numpy as np

from sb3_matrl.metagame.incentives import Array, normalise
from sb3_matrl.metagame.walk import Walk

#: Largest number of agents for which the table of pure profiles is built.
MAX_DENSE_AGENTS = 12


def joint_weights(rho: Array) -> Array:
    """
    Probability of every pure profile when the agents mix independently.

    :param rho: (K, n) weights on current
    :return: (K, 2^n); agent 0 is the most significant bit, bit 0 is current
    """
    weights = np.ones((len(rho), 1))
    for column in rho.T:
        pair = np.stack([column, 1.0 - column], axis=1)
        weights = (weights[:, :, None] * pair[:, None, :]).reshape(len(rho), -1)
    return weights


def joint_weight_derivatives(weights: Array, n_agents: int) -> Array:
    """
    Derivative of :func:`joint_weights` in every agent's weight.

    :param weights: (K, 2^n) joint weights
    :param n_agents: n
    :return: (K, n, 2^n)
    """
    count = len(weights)
    derivatives = np.empty((count, n_agents, 2**n_agents))
    for j in range(n_agents):
        # The two probabilities of agent j sum to one, so the sum over its axis is the probability of the others' profile.
        others = weights.reshape(count, 2**j, 2, -1).sum(axis=2)
        derivatives[:, j] = np.stack([others, -others], axis=2).reshape(count, -1)
    return derivatives


class TablePayoffs:
    """
    Payoffs at every pure profile; evaluation is a matrix product with the probabilities of the profiles.

    Row i of each array repeats over agent i's own strategy, so that one vector of joint weights serves all agents.

    :param current: (n, 2^n) each agent's payoff from current against the others' strategies in every pure profile
        (bit 0 is current, agent 0 is the most significant bit)
    :param predicted: (n, 2^n) each agent's payoff from predicted
    """

    #: Number of strategies; :class:`StrategyTable` has any number.
    n_strategies = 2

    def __init__(self, current: Array, predicted: Array) -> None:
        self.n_agents = len(current)
        self.current = current
        self.predicted = predicted
        #: (n, 2^n) the agents' incentives: current minus predicted
        self.difference = current - predicted

    @classmethod
    def from_table(cls, table: Array) -> TablePayoffs:
        """
        Payoffs from a table with one axis per agent.

        :param table: (n, 2, ..., 2), index 0 is current, 1 is predicted
        :return: the same payoffs
        """
        own_second = [row.reshape(2**i, 2, -1) for i, row in enumerate(table)]
        current = np.stack([np.repeat(row[:, :1], 2, axis=1).ravel() for row in own_second])
        predicted = np.stack([np.repeat(row[:, 1:], 2, axis=1).ravel() for row in own_second])
        return cls(current, predicted)

    def table(self) -> Array:
        """
        Table with one axis per agent.

        :return: (n, 2, ..., 2) a new array
        """
        n = self.n_agents
        own_bit = np.stack([(np.arange(2**n) >> (n - 1 - i)) & 1 for i in range(n)])
        return np.where(own_bit == 0, self.current, self.predicted).reshape((n, *(2,) * n))

    def tabulated(self) -> TablePayoffs:
        """These payoffs; the counterpart of :meth:`SamplePayoffs.tabulated`."""
        return self

    def normalised(self) -> TablePayoffs:
        """
        Payoffs of an equivalent game: predicted earns 0, current the incentive in units of the agent's largest.

        :return: payoffs with ``difference`` in [-1, 1] and the same equilibria
        """
        return TablePayoffs(normalise(self.difference, self.largest()), np.zeros_like(self.difference))

    def largest(self) -> Array:
        """
        Each agent's largest |payoff|.

        :return: (n,)
        """
        return np.asarray(np.maximum(np.abs(self.current), np.abs(self.predicted)).max(axis=1))

    def strategy_payoffs(self, rho: Array) -> Array:
        """
        Payoffs of both strategies against the others' weights.

        :param rho: (n,) weights on current
        :return: (n, 2) payoffs of current and of predicted
        """
        weights = joint_weights(rho[None])[0]
        return np.stack([self.current @ weights, self.predicted @ weights], axis=1)

    def gradient(self, rho: Array) -> Array:
        """
        Incentives at K profiles.

        :param rho: (K, n) weights on current
        :return: (K, n) current minus predicted
        """
        return joint_weights(rho) @ self.difference.T

    def hessian(self, rho: Array) -> Array:
        """
        Derivative of the gradient at one profile.

        :param rho: (n,) weights on current
        :return: (n, n) with zero diagonal
        """
        derivatives = joint_weight_derivatives(joint_weights(rho[None]), self.n_agents)[0]
        hessian = self.difference @ derivatives.T
        np.fill_diagonal(hessian, 0.0)
        return np.asarray(hessian)

    def jacobian(self, rho: Array) -> Array:
        """
        Derivatives of the gradient at K profiles in one product.

        :param rho: (K, n) weights on current
        :return: (K, n, n), the diagonal is zero up to rounding
        """
        derivatives = joint_weight_derivatives(joint_weights(rho), self.n_agents)
        return np.asarray(np.swapaxes(derivatives @ self.difference.T, 1, 2))

    def linearised(self, rho: Array) -> tuple[Array, Array]:
        """
        Gradient and its derivative at one profile.

        :param rho: (n,) weights on current
        :return: (n,) and (n, n)
        """
        return self.gradient(rho[None])[0], self.jacobian(rho[None])[0]

    def walk(self, profile: Array) -> Walk:
        """
        Walk over pure profiles; the gradient is a column of ``difference``.

        :param profile: (n,) zeros and ones, the start
        :return: the walk
        """
        # In reversed order bit 1 is current, as in the profile.
        columns, bits = self.difference.T[::-1], 2.0 ** np.arange(self.n_agents - 1, -1, -1)
        return Walk(lambda pure: columns[int(bits @ pure)], profile)
