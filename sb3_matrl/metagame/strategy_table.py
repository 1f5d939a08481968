"""Payoffs of games with K strategies per agent, given as a table over all K^n pure profiles."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import Array, in_units
from sb3_matrl.metagame.tangent import tangent_basis

#: Largest number of pure profiles for which a table is built: 12 agents with 2 strategies, 7 with 3, 6 with 4.
MAX_DENSE_PROFILES = 2**12
#: Differences below this share of an agent's largest payoff are rounding errors.
_ROUNDING = 1e-13


def profile_weights(points: Array) -> Array:
    """
    Probability of every pure profile when the agents mix independently.

    :param points: (b, n, K) profiles
    :return: (b, K^n); agent 0 is the most significant digit
    """
    weights = np.ones((len(points), 1))
    for agent in range(points.shape[1]):
        weights = (weights[:, :, None] * points[:, agent, None, :]).reshape(len(points), -1)
    return weights


def profile_weight_derivatives(weights: Array, n_agents: int, n_strategies: int) -> Array:
    """
    Derivative of :func:`profile_weights` in every agent's tangent coordinates.

    :param weights: (b, K^n) weights of pure profiles
    :param n_agents: n
    :param n_strategies: K
    :return: (b, n (K-1), K^n)
    """
    basis = tangent_basis(n_strategies)
    count = len(weights)
    derivatives = np.empty((count, n_agents, n_strategies - 1, weights.shape[1]))
    for j in range(n_agents):
        # Agent j's weights sum to one, so the sum over its digit is the weight of the others' profile.
        others = weights.reshape(count, n_strategies**j, n_strategies, -1).sum(axis=2)
        for a, direction in enumerate(basis.T):
            derivatives[:, j, a] = (others[:, :, None, :] * direction[:, None]).reshape(count, -1)
    return derivatives.reshape(count, n_agents * (n_strategies - 1), -1)


class StrategyTable:
    """
    Payoffs at every pure profile; evaluation is a matrix product with the probabilities of the profiles.

    :param table: (n, K, ..., K) payoffs of agent i (first index) at every pure profile
    """

    def __init__(self, table: Array) -> None:
        self.n_agents, self.n_strategies = table.shape[:2]
        self._table = table

    @cached_property
    def _own(self) -> Array:
        """
        Payoffs (n, K, K^n) of each own strategy against the others' strategies in every pure profile.

        They repeat over the agent's own digit, so that one vector of weights serves all agents.
        """
        n, k = self.n_agents, self.n_strategies
        rows = [row.reshape(k**i, k, 1, -1) for i, row in enumerate(self._table)]
        return np.stack([np.repeat(row, k, axis=2).swapaxes(0, 1).reshape(k, k**n) for row in rows])

    @cached_property
    def _gains(self) -> Array:
        """The same (n, K, K^n), less the payoff of strategy 0."""
        return self._own - self._own[:, :1]

    @cached_property
    def _slopes(self) -> Array:
        """Payoffs (n (K-1), K^n) differentiated in the own tangent coordinates."""
        slopes = np.einsum("ka,ikx->iax", tangent_basis(self.n_strategies), self._gains)
        return np.asarray(slopes.reshape(-1, slopes.shape[2]))

    def table(self) -> Array:
        """
        Table with one axis per agent.

        :return: (n, K, ..., K) a new array
        """
        return self._table.copy()

    def tabulated(self) -> StrategyTable:
        """These payoffs; the counterpart of :meth:`StrategySamples.tabulated`."""
        return self

    def normalised(self) -> StrategyTable:
        """
        Payoffs of an equivalent game: strategy 0 earns 0, the largest difference between two strategies is 1.

        :return: payoffs with the same equilibria; differences that are rounding errors are exact zeros
        """
        flat = np.stack([np.moveaxis(row, i, 0).reshape(self.n_strategies, -1) for i, row in enumerate(self._table)])
        gains = flat - flat[:, :1]
        gains = np.where(np.abs(gains) <= _ROUNDING * self.largest()[:, None, None], 0.0, gains)
        gains = in_units(gains, np.ptp(gains, axis=1).max(axis=1)[:, None])
        axes = (self.n_strategies,) * self.n_agents
        return StrategyTable(np.stack([np.moveaxis(row.reshape(axes), 0, i) for i, row in enumerate(gains)]))

    def largest(self) -> Array:
        """
        Each agent's largest |payoff|.

        :return: (n,)
        """
        return np.asarray(np.abs(self._table).reshape(self.n_agents, -1).max(axis=1))

    def pure_regrets(self) -> Array:
        """
        Gains from leaving every pure profile.

        :return: (n, K^n) regret of each agent at each pure profile
        """
        rows = [row.max(axis=i, keepdims=True) - row for i, row in enumerate(self._table)]
        return np.stack(rows).reshape(self.n_agents, -1)

    def strategy_payoffs(self, sigma: Array) -> Array:
        """
        Payoffs of every strategy against the others' profile.

        :param sigma: (n, K)
        :return: (n, K)
        """
        return np.asarray(self._own @ profile_weights(sigma[None])[0])

    def gains(self, points: Array) -> Array:
        """
        Payoffs of the strategies at b profiles, less the payoff of strategy 0.

        :param points: (b, n, K)
        :return: (b, n, K), column 0 is zero
        """
        return np.asarray(np.tensordot(profile_weights(points), self._gains, axes=(1, 2)))

    def jacobian(self, points: Array) -> Array:
        """
        Derivatives of the payoff gradients at b profiles, in tangent coordinates.

        :param points: (b, n, K)
        :return: (b, n (K-1), n (K-1)); an agent's own block is zero
        """
        derivatives = profile_weight_derivatives(profile_weights(points), self.n_agents, self.n_strategies)
        return without_own_blocks(np.swapaxes(derivatives @ self._slopes.T, 1, 2), self.n_agents)

    def pure_gains(self, choices: npt.NDArray[np.int64]) -> Array:
        """
        :meth:`gains` at one pure profile.

        :param choices: (n,) strategies
        :return: (n, K)
        """
        axes = (self.n_strategies,) * self.n_agents
        return np.asarray(self._gains[:, :, np.ravel_multi_index(tuple(choices), axes)])


def without_own_blocks(jacobian: Array, n_agents: int) -> Array:
    """
    Set the diagonal blocks to zero: a payoff gradient does not depend on the own weights.

    :param jacobian: (..., n (K-1), n (K-1)), changed in place if it is a plain array
    :param n_agents: n
    :return: the same shape
    """
    width = jacobian.shape[-1] // n_agents
    for start in range(0, jacobian.shape[-1], width):
        jacobian[..., start : start + width, start : start + width] = 0.0
    return jacobian
