"""Payoffs of games with K strategies per agent, estimated from the samples of one rollout in O(B n K)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import Array
from sb3_matrl.metagame.sample_payoffs import divisible, leave_one_out
from sb3_matrl.metagame.strategy_table import StrategyTable, without_own_blocks
from sb3_matrl.metagame.tangent import one_hot, tangent_basis


class StrategySamples:
    """
    Payoffs as weighted sums of joint ratios: g_i(x) = sum_b w_ib (prod_j r_{j x_j b} - 1), with r_j0 = 1.

    At a mixed profile each factor is m_jb = sum_k sigma_jk r_jkb. The subtracted one changes nothing in exact arithmetic,
    because the weights of an agent sum to zero; in floating point it makes the all-current payoff exactly zero.

    :param ratios: (n, K-1, B) clipped ratios of strategies 1 to K-1 over strategy 0, 1 where masked
    :param weights: (n, B) centred advantages divided by the number of live samples, 0 where masked
    """

    def __init__(self, ratios: Array, weights: Array) -> None:
        self.n_agents = len(ratios)
        self.n_strategies = ratios.shape[1] + 1
        self.ratios = ratios
        self.weights = weights
        self.excess = ratios - 1.0

    def tabulated(self) -> StrategyTable:
        """
        Payoffs of all pure profiles at once; see :meth:`SamplePayoffs.tabulated` for the product of two halves.

        :return: the same payoffs as a table
        """
        n = self.n_agents
        first = _joint_excess(self.excess[: n // 2])
        second = _joint_excess(self.excess[n // 2 :])
        first_sums, second_sums = first @ self.weights.T, second @ self.weights.T
        table = np.empty((n, len(first), len(second)))
        for i, weight in enumerate(self.weights):
            table[i] = (first * weight) @ second.T + first_sums[:, i, None] + second_sums[None, :, i]
        return StrategyTable(table.reshape((n, *(self.n_strategies,) * n)))

    def normalised(self) -> StrategySamples:
        """
        Payoffs in units of each agent's largest difference between two strategies.

        The unit is estimated at K + 1 profiles: all agents on the same strategy, and all mixing evenly.

        :return: payoffs with the same equilibria
        """
        k = self.n_strategies
        probes = np.concatenate([np.eye(k), np.full((1, k), 1.0 / k)])[:, None].repeat(self.n_agents, axis=1)
        unit = np.ptp(self.gains(probes), axis=2).max(axis=0)
        return StrategySamples(self.ratios, self.weights / np.where(unit > 0.0, unit, 1.0)[:, None])

    def strategy_payoffs(self, sigma: Array) -> Array:
        """
        Payoffs of every strategy against the others' profile.

        :param sigma: (n, K)
        :return: (n, K)
        """
        others = leave_one_out(self._mixed_ratios(sigma))
        current = np.einsum("ib,ib->i", self.weights, others - 1.0)
        return np.asarray(current[:, None] + self._differences(self.weights * others))

    def gains(self, points: Array) -> Array:
        """
        Payoffs of the strategies at b profiles less the payoff of strategy 0, without the cancellation of a difference.

        :param points: (b, n, K)
        :return: (b, n, K), column 0 is zero
        """
        return np.stack([self._differences(self._others(self._mixed_ratios(sigma))) for sigma in points])

    def pure_gains(self, choices: npt.NDArray[np.int64]) -> Array:
        """
        :meth:`gains` at one pure profile.

        :param choices: (n,) strategies
        :return: (n, K)
        """
        return self._differences(self._others(self._mixed_ratios(one_hot(choices, self.n_strategies))))

    def jacobian(self, points: Array) -> Array:
        """
        Derivatives of the payoff gradients at b profiles, in tangent coordinates.

        :param points: (b, n, K)
        :return: (b, n (K-1), n (K-1)); an agent's own block is zero
        """
        return np.stack([self._jacobian(self._mixed_ratios(sigma)) for sigma in points])

    @cached_property
    def _divisible(self) -> bool:
        return divisible(self.ratios)

    @cached_property
    def _slopes(self) -> Array:
        """Ratios (n, K-1, B) differentiated in the tangent coordinates."""
        return np.asarray(np.einsum("ka,ikb->iab", tangent_basis(self.n_strategies)[1:], self.excess))

    def _mixed_ratios(self, sigma: Array) -> Array:
        """Density ratio (n, B) of the mixtures to strategy 0."""
        return np.asarray(1.0 + np.matmul(sigma[:, None, 1:], self.excess)[:, 0])

    def _others(self, mixed: Array) -> Array:
        """Sample weights (n, B) times the others' joint ratio."""
        if self._divisible:
            return np.asarray(self.weights * (mixed.prod(axis=0) / mixed))
        return self.weights * leave_one_out(mixed)

    def _differences(self, weighted: Array) -> Array:
        gains = np.zeros((self.n_agents, self.n_strategies))
        gains[:, 1:] = np.matmul(self.excess, weighted[:, :, None])[:, :, 0]
        return gains

    def _jacobian(self, mixed: Array) -> Array:
        samples = mixed.shape[1]
        if self._divisible:
            slopes = self._slopes / mixed[:, None]
            weighted = slopes * (self.weights * mixed.prod(axis=0))[:, None]
            jacobian = weighted.reshape(-1, samples) @ slopes.reshape(-1, samples).T
        else:
            jacobian = np.concatenate([self._jacobian_rows(mixed, i) for i in range(self.n_agents)])
        return without_own_blocks(jacobian, self.n_agents)

    def _jacobian_rows(self, mixed: Array, agent: int) -> Array:
        without = mixed.copy()
        without[agent] = 1.0
        others = (leave_one_out(without)[:, None] * self._slopes).reshape(-1, mixed.shape[1])
        return np.asarray((self._slopes[agent] * self.weights[agent]) @ others.T)


def _joint_excess(excess: Array) -> Array:
    """
    Joint ratio minus one for every profile of some agents.

    :param excess: (k, K-1, B) ratios minus one
    :return: (K^k, B)
    """
    joint = np.zeros((1, excess.shape[2]))
    for rows in excess:
        step = np.concatenate([np.zeros_like(rows[:1]), rows])
        joint = (joint[:, None] * (1.0 + step) + step).reshape(-1, joint.shape[1])
    return joint
