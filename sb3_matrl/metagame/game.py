"""The meta-game: every agent chooses between its policies, by default its current and its predicted one (Eq. 5)."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.game_checks import (
    centred_weights,
    checked_advantages,
    checked_distributions,
    checked_mask,
    checked_ratios,
    checked_table,
    checked_weights,
    clipped_ratios,
    is_small,
    require_bounded_products,
    require_finite,
    require_small,
)
from sb3_matrl.metagame.incentives import Array
from sb3_matrl.metagame.sample_payoffs import SamplePayoffs
from sb3_matrl.metagame.strategy_samples import StrategySamples
from sb3_matrl.metagame.strategy_table import StrategyTable
from sb3_matrl.metagame.table_payoffs import TablePayoffs
from sb3_matrl.metagame.tangent import one_hot, strategy_regrets, tangent_basis

#: Payoffs of two strategies as functions of rho. Both kinds have the same methods; only the exact solvers need the table.
Payoffs = TablePayoffs | SamplePayoffs
#: Payoffs of more strategies as functions of sigma, likewise.
StrategyPayoffs = StrategyTable | StrategySamples


class MetaGame:
    r"""
    Game of n agents with K >= 2 pure strategies each, estimated from one rollout.

    Strategy 0 is the *current* policy, which collected the rollout; with K = 2 the other one is the *predicted* policy. For a
    pure profile x agent i's payoff is (Eq. 3 and 5)

        g_i(x) = mean_b[ (A_ib - mean A_i) * prod_{j: x_j>0} clip(r_{j x_j b}, 1-c, 1+c) ]

    with the joint ratio inside the mean. It is multilinear in the agents' distributions over strategies, so all payoffs at a
    mixed profile cost O(B n K), for any number of agents. The payoff of all-current is exactly 0.0, and so is every payoff if
    all ratios are 1.

    A profile is ``sigma`` (n, K), a distribution over strategies per agent. With K = 2 every method also takes ``rho`` (n,),
    the weights on the CURRENT policies. Tables of all pure profiles are built while K^n <= 4096: up to 12 agents with 2
    strategies, 7 with 3, 6 with 4.

    :param ratios: (B, n) importance ratios predicted/current of the executed actions, >= 0; or (B, n, K-1) ratios of the
        strategies 1 to K-1 over current
    :param advantages: (B, n) advantages, not centred
    :param clip_range: ratios are clipped to [max(0, 1-c), 1+c]; ``None`` leaves them
    :param mask: (B, n) True where the agent was live. Elsewhere (its entries may hold anything) its ratios count as 1 in
        everyone's products and the sample is left out of its own centring and means. An agent that was never live has
        payoffs 0. ``None``: always live.
    :raises ValueError: on wrong shapes, non-finite or negative live entries, a clip range that is not positive, or a joint
        ratio beyond the range of float64
    """

    def __init__(
        self,
        ratios: npt.ArrayLike,
        advantages: npt.ArrayLike,
        clip_range: float | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> None:
        ratio = checked_ratios(ratios)
        advantage = checked_advantages(advantages, ratio.shape[:2])
        live = checked_mask(mask, advantage.shape)
        require_finite(ratio.reshape(np.shape(ratios)), "ratios", live)
        require_finite(advantage, "advantages", live)
        if np.any(ratio[live] < 0.0):
            raise ValueError(f"ratios must be >= 0, the smallest is {ratio[live].min():g}; pass exp(logp_hat - logp)")
        ratio = np.where(live[:, :, None], clipped_ratios(ratio, clip_range), 1.0)
        require_bounded_products(ratio)
        weights = np.ascontiguousarray(centred_weights(advantage, live).T)
        self._payoffs: Payoffs | StrategyPayoffs
        if ratio.shape[2] == 1:
            self._payoffs = SamplePayoffs(np.ascontiguousarray(ratio[:, :, 0].T), weights)
        else:
            self._payoffs = StrategySamples(np.ascontiguousarray(ratio.transpose(1, 2, 0)), weights)

    @classmethod
    def from_payoffs(cls, payoffs: npt.ArrayLike) -> "MetaGame":
        """
        Create a game from its table, without centring.

        :param payoffs: (n, K, ..., K) payoffs of agent i (first index) at every pure profile; 0 is current
        :return: the game
        :raises ValueError: on a wrong shape, more than 4096 pure profiles or non-finite entries
        """
        table = checked_table(payoffs)
        game = cls.__new__(cls)
        game._payoffs = TablePayoffs.from_table(table) if table.shape[1] == 2 else StrategyTable(table)
        return game

    @property
    def n_agents(self) -> int:
        """Number of agents."""
        return self._payoffs.n_agents

    @property
    def n_strategies(self) -> int:
        """Number of strategies of each agent, K."""
        return self._payoffs.n_strategies

    @cached_property
    def _table(self) -> TablePayoffs | StrategyTable:
        require_small(self.n_agents, self.n_strategies)
        return self._payoffs.tabulated()

    @cached_property
    def normalised(self) -> Payoffs | StrategyPayoffs:
        """
        Payoffs of the equivalent game that the solvers work on, in which each agent's largest incentive is 1.

        A table while K^n <= 4096, above that the samples.
        """
        return self._table.normalised() if is_small(self.n_agents, self.n_strategies) else self._payoffs.normalised()

    def pure_profile(self, strategies: int | Sequence[int]) -> Array:
        """
        Pure profile as distributions.

        :param strategies: strategy of all agents, or one per agent; 0 is current
        :return: (n, K) zeros and ones
        :raises ValueError: if there is no such strategy, or not one per agent
        """
        choices = np.asarray(strategies)
        if choices.shape not in ((), (self.n_agents,)) or not np.isin(choices, np.arange(self.n_strategies)).all():
            raise ValueError(
                f"strategies must be one of 0 to {self.n_strategies - 1}, or {self.n_agents} of them, got {strategies}"
            )
        return one_hot(np.broadcast_to(choices.astype(np.int64), (self.n_agents,)), self.n_strategies)

    def payoffs(self) -> Array:
        """
        Payoffs at all pure profiles.

        :return: (n, K, ..., K); index 0 is current
        :raises ValueError: above 4096 profiles
        """
        return self._table.table()

    def strategy_payoffs(self, profile: npt.ArrayLike) -> Array:
        """
        Payoffs of each agent's pure strategies while the others play their part of ``profile``.

        :param profile: sigma (n, K), or rho (n,) with K = 2
        :return: (n, K); column k is u_i(k | profile_-i), column 0 belongs to current
        """
        return self._payoffs.strategy_payoffs(self._profile(profile))

    def expected_payoffs(self, profile: npt.ArrayLike) -> Array:
        """
        Payoffs at a mixed profile.

        :param profile: sigma (n, K), or rho (n,) with K = 2
        :return: (n,) payoffs u_i(profile)
        """
        point = self._profile(profile)
        payoffs = self._payoffs.strategy_payoffs(point)
        if point.ndim == 1:
            current, predicted = payoffs.T
            return np.asarray(point * current + (1.0 - point) * predicted)
        return np.asarray((point * payoffs).sum(axis=1))

    def nash_conv(self, profile: npt.ArrayLike) -> float:
        """
        Sum of the agents' gains from deviating alone; 0 exactly at a Nash equilibrium.

        :param profile: sigma (n, K), or rho (n,) with K = 2
        :return: sum_i [max_k u_i(k) - u_i(profile)] >= 0
        """
        point = self._profile(profile)
        if isinstance(self._payoffs, StrategyPayoffs):
            return float(strategy_regrets(point, self._payoffs.gains(point[None])[0]).sum())
        gradient = self._payoffs.gradient(point[None])[0]
        # Written per sign, so that rounding cannot make it negative.
        return float(np.sum(np.where(gradient > 0.0, (1.0 - point) * gradient, -point * gradient)))

    def gradient(self, profile: npt.ArrayLike) -> Array:
        """
        Simultaneous gradient (Eq. 23): each agent's payoff differentiated in its own weights.

        With K > 2 the weights are tangent coordinates y of the simplex, sigma_i = 1/K + T y_i with the columns of
        T (:func:`tangent_basis`) orthogonal and of squared length 2. With K = 2 this is the derivative in rho.

        :param profile: sigma (n, K), or rho (n,) with K = 2
        :return: (n (K-1),) entries T' u_i(. | profile_-i), agent by agent; with K = 2 u_i(current) - u_i(predicted)
        """
        point = self._profile(profile)
        if isinstance(self._payoffs, StrategyPayoffs):
            return np.asarray((self._payoffs.gains(point[None])[0] @ tangent_basis(self.n_strategies)).ravel())
        return np.asarray(self._payoffs.gradient(point[None])[0])

    def hessian(self, profile: npt.ArrayLike) -> Array:
        """
        Derivative of the simultaneous gradient (Eq. 24 and 29), in the coordinates of :meth:`gradient`.

        :param profile: sigma (n, K), or rho (n,) with K = 2
        :return: (n (K-1), n (K-1)), in general not symmetric, an agent's own block is zero; with K = 2 entries are
            d2 u_i / d rho_i d rho_j
        """
        point = self._profile(profile)
        if isinstance(self._payoffs, StrategyPayoffs):
            return np.asarray(self._payoffs.jacobian(point[None])[0])
        return self._payoffs.hessian(point)

    @cached_property
    def scale(self) -> float:
        """
        Unit of payoffs, to compare a NashConv with.

        Where a table is built it is the largest |payoff| over all pure profiles. Elsewhere it is a lower estimate of that: the
        largest |payoff| over the K profiles in which all agents play the same strategy, and all that differ from one of
        these in one agent.
        """
        if is_small(self.n_agents, self.n_strategies):
            return float(self._table.largest().max())
        corners = (self._profile(self.pure_profile(k)) for k in range(self.n_strategies))
        return float(max(np.abs(self._payoffs.strategy_payoffs(corner)).max() for corner in corners))

    def _profile(self, profile: npt.ArrayLike) -> Array:
        """Profile in the form that the payoffs take: rho (n,) with K = 2, else sigma (n, K)."""
        point = np.asarray(profile, dtype=np.float64)
        if self.n_strategies == 2 and point.ndim != 2:
            return checked_weights(point, self.n_agents)
        sigma = checked_distributions(point, self.n_agents, self.n_strategies)
        return sigma[:, 0] if self.n_strategies == 2 else sigma
