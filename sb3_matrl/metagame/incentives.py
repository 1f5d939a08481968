"""What solvers see of a game: each agent's gain from current over predicted, in units of its own largest such gain.

Multiplying one agent's payoffs by a positive constant, or adding anything that depends on the others alone, leaves the
equilibria as they are. Working on normalised differences makes the solvers' tolerances invariant under both, and raw payoffs
of about 1e-3 harmless to stopping rules.
"""

from typing import Protocol

import numpy as np

from sb3_matrl.metagame.game import MetaGame
from sb3_matrl.metagame.payoffs import (
    MAX_DENSE_AGENTS,
    Array,
    DensePayoffs,
    SamplePayoffs,
    joint_weight_derivatives,
    joint_weights,
)

#: A point is an equilibrium when no agent gains more than this by deviating, in units of its own largest incentive.
TOLERANCE = 1e-9
#: Incentives below this share of an agent's largest payoff are rounding errors: the agent is indifferent.
_ROUNDING = 1e-13


class Walk(Protocol):
    """A pure profile that can be changed one agent at a time."""

    profile: Array
    gradient: Array

    def flip(self, agent: int) -> None:
        """Let one agent change its strategy; updates ``profile`` and ``gradient``."""
        ...


class Incentives(Protocol):
    """Normalised incentives, for batches of K profiles."""

    n_agents: int

    def gradient(self, rho: Array) -> Array:
        """
        :param rho: (K, n)
        :return: (K, n) current minus predicted
        """
        ...

    def jacobian(self, rho: Array) -> Array:
        """
        :param rho: (K, n)
        :return: (K, n, n) derivative of ``gradient``
        """
        ...

    def linearised(self, rho: Array) -> tuple[Array, Array]:
        """
        :param rho: (n,) one profile
        :return: (n,) and (n, n) ``gradient`` and ``jacobian`` there, perhaps in single precision
        """
        ...

    def walk(self, profile: Array) -> Walk:
        """
        :param profile: (n,) of zeros and ones, the start
        :return: a pure profile to move
        """
        ...


def incentives_of(game: MetaGame) -> Incentives:
    """
    :param game: any game
    :return: its incentives, over the dense game up to 12 agents
    """
    if game.n_agents <= MAX_DENSE_AGENTS:
        return DenseIncentives.of(game)
    payoffs = game._payoffs
    assert isinstance(payoffs, SamplePayoffs)
    return SampleIncentives(payoffs)


def regrets(rho: Array, gradient: Array) -> Array:
    """
    :param rho: (..., n) weights on current
    :param gradient: (..., n) current minus predicted at ``rho``
    :return: (..., n) what each agent gains by its best deviation, >= 0
    """
    return np.maximum((1.0 - rho) * gradient, -rho * gradient)


def normalised(difference: Array, largest_payoff: Array) -> Array:
    """
    Incentives in units of each agent's largest; rounding errors become exact zeros.

    :param difference: (n, k, ...) each agent's gain from current over predicted at k profiles; further axes are a batch
    :param largest_payoff: (n, ...) each agent's largest |payoff|
    :return: (n, k, ...) within [-1, 1]
    """
    difference = np.where(np.abs(difference) <= _ROUNDING * largest_payoff[:, None], 0.0, difference)
    return _over(difference, np.abs(difference).max(axis=1))


def _over(values: Array, scale: Array) -> Array:
    return np.asarray(values / np.where(scale > 0.0, scale, 1.0)[:, None])


class DenseIncentives:
    """
    :param difference: (n, 2^n) current minus predicted at every pure profile (bit 0 is current, agent 0 most significant);
        row i repeats over agent i's own bit, largest absolute value 1 or all zero
    """

    def __init__(self, difference: Array) -> None:
        self.n_agents = len(difference)
        self.difference = difference

    @classmethod
    def of(cls, game: MetaGame) -> "DenseIncentives":
        """
        :param game: at most 12 agents
        :return: its normalised incentives
        """
        table = game._table
        return cls(normalised(DensePayoffs(table).difference, np.abs(table).reshape(len(table), -1).max(axis=1)))

    def gradient(self, rho: Array) -> Array:
        """:return: (K, n)"""
        return joint_weights(rho) @ self.difference.T

    def jacobian(self, rho: Array) -> Array:
        """:return: (K, n, n)"""
        derivatives = joint_weight_derivatives(joint_weights(rho), self.n_agents)
        return np.asarray(np.swapaxes(derivatives @ self.difference.T, 1, 2))

    def linearised(self, rho: Array) -> tuple[Array, Array]:
        """:return: (n,) and (n, n)"""
        return self.gradient(rho[None])[0], self.jacobian(rho[None])[0]

    def walk(self, profile: Array) -> Walk:
        """:return: a pure profile to move"""
        return _DenseWalk(self.difference, profile)


class _DenseWalk:
    def __init__(self, difference: Array, profile: Array) -> None:
        self._columns = difference.T
        self._bits = 2 ** np.arange(len(profile) - 1, -1, -1)
        self.profile = profile.copy()
        self._index = int(self._bits @ (profile == 0.0))
        self.gradient = self._columns[self._index]

    def flip(self, agent: int) -> None:
        self.profile[agent] = 1.0 - self.profile[agent]
        self._index ^= int(self._bits[agent])
        self.gradient = self._columns[self._index]


class SampleIncentives:
    """
    Incentives from samples; an agent's unit is estimated at three profiles (all-current, all-predicted, halfway).

    :param payoffs: of any number of agents
    """

    def __init__(self, payoffs: SamplePayoffs) -> None:
        self.n_agents = n = payoffs.n_agents
        probes = [payoffs.gradient(np.full(n, value)) for value in (0.0, 0.5, 1.0)]
        scale = np.abs(probes).max(axis=0)
        self._payoffs = SamplePayoffs(payoffs.ratios, _over(payoffs.weights, scale))

    def gradient(self, rho: Array) -> Array:
        """:return: (K, n)"""
        return np.stack([self._payoffs.gradient(row) for row in rho])

    def jacobian(self, rho: Array) -> Array:
        """:return: (K, n, n)"""
        return np.stack([self._payoffs.hessian(row) for row in rho])

    def linearised(self, rho: Array) -> tuple[Array, Array]:
        """:return: (n,) and (n, n), in single precision"""
        return self._payoffs.linearised(rho)

    def walk(self, profile: Array) -> Walk:
        """:return: a pure profile to move; a flip costs one matrix-vector product when ratios may be divided by"""
        return (_DividingWalk if self._payoffs.divisible else _OracleWalk)(self._payoffs, profile)


class _OracleWalk:
    def __init__(self, payoffs: SamplePayoffs, profile: Array) -> None:
        self._payoffs = payoffs
        self.profile = profile.copy()
        self.gradient = payoffs.gradient(self.profile)

    def flip(self, agent: int) -> None:
        self.profile[agent] = 1.0 - self.profile[agent]
        self.gradient = self._payoffs.gradient(self.profile)


class _DividingWalk:
    """gradient = M @ joint ratio, where row i of M is -w_i (r_i - 1) / m_i and only the flipped agent's row changes."""

    def __init__(self, payoffs: SamplePayoffs, profile: Array) -> None:
        self._payoffs = payoffs
        self.profile = profile.copy()
        mixed = np.where(profile[:, None] == 1.0, 1.0, payoffs.ratios)
        self._joint = mixed.prod(axis=0)
        self._rows = -payoffs.weights * payoffs.excess / mixed
        self.gradient = self._rows @ self._joint

    def flip(self, agent: int) -> None:
        ratio = self._payoffs.ratios[agent]
        to_predicted = self.profile[agent] == 1.0
        self.profile[agent] = 0.0 if to_predicted else 1.0
        factor = ratio if to_predicted else 1.0 / ratio
        self._joint *= factor
        self._rows[agent] /= factor
        self.gradient = self._rows @ self._joint
