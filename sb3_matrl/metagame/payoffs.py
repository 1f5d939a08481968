"""How a meta-game's payoffs are stored and evaluated: from samples in O(B n), or from a dense table.

Both backends answer the same three questions (payoffs of the two pure strategies, second derivatives, the dense table),
so everything above them is written once. All arrays are float64.
"""

from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Largest number of agents for which the 2^n table of pure profiles is built.
MAX_DENSE_AGENTS = 12
#: Smallest mixed ratio by which the products are divided; below it the leave-two-out products are formed without division.
SAFE_DIVISOR = 1e-2
#: Samples that are evaluated together: the intermediate arrays of a hundred agents then stay in the processor's cache.
_BLOCK = 1000


class Payoffs(Protocol):
    """What :class:`~sb3_matrl.metagame.game.MetaGame` needs to know about its payoffs."""

    n_agents: int

    def strategy_payoffs(self, rho: Array) -> Array:
        """:return: (n, 2), payoff of current and of predicted against the others' ``rho``"""
        ...

    def gradient(self, rho: Array) -> Array:
        """:return: (n,), derivative of every agent's payoff in its own weight: current minus predicted"""
        ...

    def hessian(self, rho: Array) -> Array:
        """:return: (n, n), derivative of ``gradient`` in the weights, zero diagonal"""
        ...

    def dense(self) -> Array:
        """:return: (n, 2, ..., 2), payoffs of all pure profiles"""
        ...


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


class DensePayoffs:
    """
    Payoffs given as a table; evaluation is one matrix product with the probabilities of the profiles.

    :param table: (n, 2, ..., 2), index 0 is current, 1 is predicted
    """

    def __init__(self, table: Array) -> None:
        self.n_agents = n = len(table)
        self._table = table
        # (n, 2^n) each: row i repeats agent i's payoff along its own axis, so that one vector of joint weights serves all.
        self._current = np.stack([np.repeat(t[:, :1], 2, axis=1).ravel() for t in self._own_axis_second(table)])
        self._predicted = np.stack([np.repeat(t[:, 1:], 2, axis=1).ravel() for t in self._own_axis_second(table)])
        self.difference = self._current - self._predicted
        assert self.difference.shape == (n, 2**n)

    @staticmethod
    def _own_axis_second(table: Array) -> list[Array]:
        return [table[i].reshape(2**i, 2, -1) for i in range(len(table))]

    def strategy_payoffs(self, rho: Array) -> Array:
        """:return: (n, 2), payoff of current and of predicted against the others' ``rho``"""
        weights = joint_weights(rho[None])[0]
        return np.stack([self._current @ weights, self._predicted @ weights], axis=1)

    def gradient(self, rho: Array) -> Array:
        """:return: (n,), current minus predicted"""
        return np.asarray(self.difference @ joint_weights(rho[None])[0])

    def hessian(self, rho: Array) -> Array:
        """:return: (n, n)"""
        derivatives = joint_weight_derivatives(joint_weights(rho[None]), self.n_agents)[0]
        hessian = self.difference @ derivatives.T
        np.fill_diagonal(hessian, 0.0)
        return np.asarray(hessian)

    def dense(self) -> Array:
        """:return: (n, 2, ..., 2), a copy of the table"""
        return self._table.copy()


class SamplePayoffs:
    """
    Payoffs estimated from one rollout: g_i(x) = sum_b w_ib (prod_j m_jb - 1).

    The subtracted one changes nothing in exact arithmetic, because the weights of an agent sum to zero. In floating point it
    makes the all-current payoff exactly zero and saves digits, because ratios are near one.

    :param ratios: (n, B) clipped ratios, 1 where masked
    :param weights: (n, B) centred advantages divided by the number of live samples, 0 where masked
    """

    def __init__(self, ratios: Array, weights: Array) -> None:
        self.n_agents = len(ratios)
        self.ratios = ratios
        self.weights = weights
        self.excess = ratios - 1.0

    @cached_property
    def divisible(self) -> bool:
        """Whether all products may be divided by their factors without loss."""
        smallest = min(1.0, float(self.ratios.min()))
        return smallest > SAFE_DIVISOR and self.n_agents * np.log10(smallest) > -200.0

    def _mixed_ratios(self, rho: Array) -> Array:
        return 1.0 + (1.0 - rho)[:, None] * self.excess

    @cached_property
    def _blocks(self) -> list[tuple[Array, Array]]:
        """Weights and excess of at most ``_BLOCK`` samples each."""
        cuts = range(_BLOCK, self.ratios.shape[1], _BLOCK)
        pairs = zip(np.split(self.weights, cuts, axis=1), np.split(self.excess, cuts, axis=1), strict=True)
        return [(np.ascontiguousarray(weights), np.ascontiguousarray(excess)) for weights, excess in pairs]

    @cached_property
    def _single_blocks(self) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        return [(weights.astype(np.float32), excess.astype(np.float32)) for weights, excess in self._blocks]

    def linearised(self, rho: Array) -> tuple[Array, Array]:
        """
        Gradient and Hessian in one pass, in single precision: enough for the direction of a Newton step.

        :return: (n,) and (n, n)
        """
        if not self.divisible:
            return self.gradient(rho), self.hessian(rho)
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

    def strategy_payoffs(self, rho: Array) -> Array:
        """:return: (n, 2), payoff of current and of predicted against the others' ``rho``"""
        others = leave_one_out(self._mixed_ratios(rho))
        current = np.einsum("ib,ib->i", self.weights, others - 1.0)
        predicted = np.einsum("ib,ib->i", self.weights, others * self.ratios - 1.0)
        return np.stack([current, predicted], axis=1)

    def gradient(self, rho: Array) -> Array:
        """:return: (n,), current minus predicted, without cancellation"""
        if not self.divisible:
            others = leave_one_out(self._mixed_ratios(rho))
            return np.asarray(-np.einsum("ib,ib,ib->i", self.weights, others, self.excess))
        gradient = np.zeros(self.n_agents)
        for weights, excess in self._blocks:
            mixed = 1.0 + (1.0 - rho)[:, None] * excess
            gradient -= (weights * excess / mixed) @ mixed.prod(axis=0)
        return gradient

    def hessian(self, rho: Array) -> Array:
        """:return: (n, n)"""
        if self.divisible:
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

    def _hessian_row(self, mixed: Array, agent: int) -> Array:
        without = mixed.copy()
        without[agent] = 1.0
        others = leave_one_out(without) * self.excess
        return np.asarray(others @ (self.weights[agent] * self.excess[agent]))

    def dense(self) -> Array:
        """
        All profiles at once: the joint ratio is the outer product of two halves' joint ratios, so one matrix product per
        agent contracts the samples. With a = P - 1 and b = Q - 1, PQ - 1 = ab + a + b, which keeps all-current exactly zero.

        :return: (n, 2, ..., 2)
        """
        n = self.n_agents
        first = _joint_excess(self.excess[: n // 2])
        second = _joint_excess(self.excess[n // 2 :])
        of_first, of_second = first @ self.weights.T, second @ self.weights.T
        table = np.empty((n, len(first), len(second)))
        for i, weight in enumerate(self.weights):
            table[i] = (first * weight) @ second.T + of_first[:, i, None] + of_second[None, :, i]
        return table.reshape((n, *(2,) * n))


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
