"""Payoffs estimated from the samples of one rollout, in O(B n) for any number of agents."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import Array, in_units
from sb3_matrl.metagame.table_payoffs import TablePayoffs
from sb3_matrl.metagame.walk import DividingWalk, Walk

#: Smallest mixed ratio that serves as a divisor; below it the leave-two-out products are formed without division.
_SAFE_DIVISOR = 1e-2
#: Number of samples evaluated together: the intermediate arrays of a hundred agents then stay in the processor's cache.
_BLOCK = 1000


class SamplePayoffs:
    """
    Payoffs as weighted sums of joint ratios: g_i(x) = sum_b w_ib (prod_j m_jb - 1).

    The subtracted one changes nothing in exact arithmetic, because the weights of an agent sum to zero. In floating point it
    makes the all-current payoff exactly zero and saves digits, because ratios are near one.

    :param ratios: (n, B) clipped ratios, 1 where masked
    :param weights: (n, B) centred advantages divided by the number of live samples, 0 where masked
    """

    #: Number of strategies; :class:`StrategySamples` has any number.
    n_strategies = 2

    def __init__(self, ratios: Array, weights: Array) -> None:
        self.n_agents = len(ratios)
        self.ratios = ratios
        self.weights = weights
        self.excess = ratios - 1.0

    def tabulated(self) -> TablePayoffs:
        """
        Payoffs of all pure profiles at once.

        The joint ratio is the outer product of two halves' joint ratios, so one matrix product per agent contracts the
        samples. With a = P - 1 and b = Q - 1, PQ - 1 = ab + a + b, which keeps all-current exactly zero.

        :return: the same payoffs as a table
        """
        n = self.n_agents
        first = _joint_excess(self.excess[: n // 2])
        second = _joint_excess(self.excess[n // 2 :])
        first_sums, second_sums = first @ self.weights.T, second @ self.weights.T
        table = np.empty((n, len(first), len(second)))
        for i, weight in enumerate(self.weights):
            table[i] = (first * weight) @ second.T + first_sums[:, i, None] + second_sums[None, :, i]
        return TablePayoffs.from_table(table.reshape((n, *(2,) * n)))

    def normalised(self) -> SamplePayoffs:
        """
        Payoffs in units of each agent's incentive, estimated at three profiles: all-current, all-predicted, halfway.

        :return: payoffs with the same equilibria
        """
        probes = self.gradient(np.repeat([[0.0], [0.5], [1.0]], self.n_agents, axis=1))
        return SamplePayoffs(self.ratios, in_units(self.weights, np.abs(probes).max(axis=0)))

    def strategy_payoffs(self, rho: Array) -> Array:
        """
        Payoffs of both strategies against the others' weights.

        :param rho: (n,) weights on current
        :return: (n, 2) payoffs of current and of predicted
        """
        others = leave_one_out(self._mixed_ratios(rho))
        current = np.einsum("ib,ib->i", self.weights, others - 1.0)
        predicted = np.einsum("ib,ib->i", self.weights, others * self.ratios - 1.0)
        return np.stack([current, predicted], axis=1)

    def gradient(self, rho: Array) -> Array:
        """
        Incentives at K profiles, without the cancellation of a difference of payoffs.

        :param rho: (K, n) weights on current
        :return: (K, n) current minus predicted
        """
        return np.stack([self._gradient(row) for row in rho])

    def hessian(self, rho: Array) -> Array:
        """
        Derivative of the gradient at one profile.

        :param rho: (n,) weights on current
        :return: (n, n) with zero diagonal
        """
        if self._divisible:
            hessian = np.zeros((self.n_agents, self.n_agents))
            for weights, excess in self._blocks:
                mixed = 1.0 + (1.0 - rho)[:, None] * excess
                slopes = excess / mixed
                hessian += (weights * slopes * mixed.prod(axis=0)) @ slopes.T
        else:
            mixed = self._mixed_ratios(rho)
            hessian = np.stack([self._hessian_row(mixed, i) for i in range(self.n_agents)])
        np.fill_diagonal(hessian, 0.0)
        return np.asarray(hessian)

    def jacobian(self, rho: Array) -> Array:
        """
        Derivatives of the gradient at K profiles.

        :param rho: (K, n) weights on current
        :return: (K, n, n) with zero diagonals
        """
        return np.stack([self.hessian(row) for row in rho])

    def linearised(self, rho: Array) -> tuple[Array, Array]:
        """
        Gradient and its derivative at one profile in one pass, in single precision: enough for the direction of a Newton step.

        :param rho: (n,) weights on current
        :return: (n,) and (n, n)
        """
        if not self._divisible:
            return self._gradient(rho), self.hessian(rho)
        gradient = np.zeros(self.n_agents)
        hessian = np.zeros((self.n_agents, self.n_agents))
        predicted = (1.0 - rho).astype(np.float32)[:, None]
        for weights, excess in self._single_blocks:
            mixed = predicted * excess
            mixed += 1.0
            joint = mixed.prod(axis=0)
            slopes = np.divide(excess, mixed, out=mixed)
            weighted = weights * slopes
            gradient -= weighted @ joint
            weighted *= joint
            hessian += weighted @ slopes.T
        np.fill_diagonal(hessian, 0.0)
        return gradient, hessian

    def walk(self, profile: Array) -> Walk:
        """
        Walk over pure profiles.

        :param profile: (n,) zeros and ones, the start
        :return: the walk
        """
        return DividingWalk(self.ratios, self.weights, profile) if self._divisible else Walk(self._gradient, profile)

    @cached_property
    def _divisible(self) -> bool:
        return divisible(self.ratios)

    @cached_property
    def _blocks(self) -> list[tuple[Array, Array]]:
        """Weights and excess of at most ``_BLOCK`` samples each."""
        cuts = range(_BLOCK, self.ratios.shape[1], _BLOCK)
        pairs = zip(np.split(self.weights, cuts, axis=1), np.split(self.excess, cuts, axis=1), strict=True)
        return [(np.ascontiguousarray(weights), np.ascontiguousarray(excess)) for weights, excess in pairs]

    @cached_property
    def _single_blocks(self) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Blocks in single precision."""
        return [(weights.astype(np.float32), excess.astype(np.float32)) for weights, excess in self._blocks]

    def _mixed_ratios(self, rho: Array) -> Array:
        return 1.0 + (1.0 - rho)[:, None] * self.excess

    def _gradient(self, rho: Array) -> Array:
        if not self._divisible:
            others = leave_one_out(self._mixed_ratios(rho))
            return np.asarray(-np.einsum("ib,ib,ib->i", self.weights, others, self.excess))
        gradient = np.zeros(self.n_agents)
        for weights, excess in self._blocks:
            mixed = 1.0 + (1.0 - rho)[:, None] * excess
            gradient -= (weights * excess / mixed) @ mixed.prod(axis=0)
        return gradient

    def _hessian_row(self, mixed: Array, agent: int) -> Array:
        without = mixed.copy()
        without[agent] = 1.0
        others = leave_one_out(without) * self.excess
        return np.asarray(others @ (self.weights[agent] * self.excess[agent]))


def divisible(ratios: Array) -> bool:
    """
    Whether products of mixed ratios may be divided by their factors without loss.

    :param ratios: (n, ...) ratios of n agents
    """
    smallest = min(1.0, float(ratios.min()))
    return smallest > _SAFE_DIVISOR and bool(len(ratios) * np.log10(smallest) > -200.0)


def leave_one_out(factors: Array) -> Array:
    """
    Products of all rows but one, by prefix and suffix products (no division, so zeros are allowed).

    :param factors: (n, B)
    :return: (n, B); row i is the product of all other rows
    """
    products = np.ones_like(factors)
    np.cumprod(factors[:-1], axis=0, out=products[1:])
    suffix = factors[-1].copy()
    for i in range(len(factors) - 2, -1, -1):
        products[i] *= suffix
        suffix *= factors[i]
    return products


def _joint_excess(excess: Array) -> Array:
    """
    Joint ratio minus one for every profile of some agents.

    :param excess: (k, B) ratios minus one
    :return: (2^k, B)
    """
    joint = np.zeros((1, excess.shape[1]))
    for row in excess:
        joint = np.stack([joint, joint * (1.0 + row) + row], axis=1).reshape(-1, len(row))
    return joint
