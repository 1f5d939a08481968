"""The meta-game: every agent chooses between its current and its predicted policy (Eq. 5)."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import Array
from sb3_matrl.metagame.sample_payoffs import SamplePayoffs
from sb3_matrl.metagame.table_payoffs import MAX_DENSE_AGENTS, TablePayoffs

#: Both kinds have the same methods; only the exact solvers need the table.
Payoffs = TablePayoffs | SamplePayoffs
#: Largest logarithm of a joint ratio that still leaves room for sums in float64.
_MAX_LOG_RATIO = 600.0
#: Centred advantages below this share of the uncentred ones are rounding errors of a constant.
_CONSTANT_ADVANTAGE = 1e-13


class MetaGame:
    r"""
    Game of n agents with the two pure strategies *current* and *predicted*, estimated from one rollout.

    For a pure profile x (x_j = 1 where agent j plays predicted) agent i's payoff is (Eq. 3 and 5)

        g_i(x) = mean_b[ (A_ib - mean A_i) * prod_{j: x_j=1} clip(r_jb, 1-c, 1+c) ]

    with the joint ratio inside the mean. It is multilinear in ``rho``, the weights on the CURRENT policies, so all payoffs at
    a mixed profile cost O(B n), for any number of agents. The all-current payoff is exactly 0.0, and so is every payoff if
    all ratios are 1.

    :param ratios: (B, n) importance ratios predicted/current of the executed actions, >= 0
    :param advantages: (B, n) advantages, not centred
    :param clip_range: ratios are clipped to [max(0, 1-c), 1+c]; ``None`` leaves them
    :param mask: (B, n) True where the agent was live. Elsewhere (its entries may hold anything) its ratio counts as 1 in
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
        ratio, advantage = _samples(ratios, "ratios"), _samples(advantages, "advantages")
        if ratio.shape != advantage.shape:
            raise ValueError(
                f"ratios have shape {ratio.shape} but advantages {advantage.shape}; both must be (samples, agents)"
            )
        live = _live(mask, ratio.shape)
        _require_finite(ratio, "ratios", live)
        _require_finite(advantage, "advantages", live)
        if np.any(ratio[live] < 0.0):
            raise ValueError(f"ratios must be >= 0, the smallest is {ratio[live].min():g}; pass exp(logp_hat - logp)")
        ratio = np.where(live, _clipped(ratio, clip_range), 1.0)
        _require_bounded_products(ratio)
        weights = _centred_weights(advantage, live)
        self._payoffs: Payoffs = SamplePayoffs(np.ascontiguousarray(ratio.T), np.ascontiguousarray(weights.T))

    @classmethod
    def from_payoffs(cls, payoffs: npt.ArrayLike) -> "MetaGame":
        """
        Create a game from its table, without centring.

        :param payoffs: (n, 2, ..., 2) payoffs of agent i (first index) at every pure profile; 0 is current, 1 is predicted
        :return: the game
        :raises ValueError: on a wrong shape, more than 12 agents or non-finite entries
        """
        table = np.array(payoffs, dtype=np.float64)
        n = len(table) if table.ndim else 0
        if n == 0 or table.shape != (n, *(2,) * n):
            raise ValueError(f"payoffs must have shape (n, 2, ..., 2) with n axes of length 2 for n agents, not {table.shape}")
        _require_small(n)
        _require_finite(table, "payoffs")
        game = cls.__new__(cls)
        game._payoffs = TablePayoffs.from_table(table)
        return game

    @property
    def n_agents(self) -> int:
        """Number of agents."""
        return self._payoffs.n_agents

    @cached_property
    def _table(self) -> TablePayoffs:
        _require_small(self.n_agents)
        return self._payoffs.tabulated()

    @cached_property
    def normalised_table(self) -> TablePayoffs:
        """
        Table of the equivalent game in which each agent's largest incentive is 1, for the exact solvers.

        :raises ValueError: above 12 agents
        """
        return self._table.normalised()

    @cached_property
    def normalised(self) -> Payoffs:
        """Payoffs of the equivalent game that the solvers work on: the table up to 12 agents, the samples above."""
        return self.normalised_table if self.n_agents <= MAX_DENSE_AGENTS else self._payoffs.normalised()

    def payoffs(self) -> Array:
        """
        Payoffs at all pure profiles.

        :return: (n, 2, ..., 2); index 0 is current, 1 is predicted
        :raises ValueError: above 12 agents
        """
        return self._table.table()

    def strategy_payoffs(self, rho: npt.ArrayLike) -> Array:
        """
        Payoffs of each agent's two pure strategies while the others play ``rho``.

        :param rho: (n,) weights on current
        :return: (n, 2); column 0 is u_i(current | rho_-i), column 1 is u_i(predicted | rho_-i)
        """
        return self._payoffs.strategy_payoffs(self._profile(rho))

    def expected_payoffs(self, rho: npt.ArrayLike) -> Array:
        """
        Payoffs at a mixed profile.

        :param rho: (n,) weights on current
        :return: (n,) payoffs u_i(rho)
        """
        profile = self._profile(rho)
        current, predicted = self._payoffs.strategy_payoffs(profile).T
        return np.asarray(profile * current + (1.0 - profile) * predicted)

    def nash_conv(self, rho: npt.ArrayLike) -> float:
        """
        Sum of the agents' gains from deviating alone; 0 exactly at a Nash equilibrium.

        :param rho: (n,) weights on current
        :return: sum_i [max(u_i(current), u_i(predicted)) - u_i(rho)] >= 0
        """
        profile = self._profile(rho)
        gradient = self._payoffs.gradient(profile[None])[0]
        # Written per sign, so that rounding cannot make it negative.
        return float(np.sum(np.where(gradient > 0.0, (1.0 - profile) * gradient, -profile * gradient)))

    def gradient(self, rho: npt.ArrayLike) -> Array:
        """
        Simultaneous gradient (Eq. 23): each agent's payoff differentiated in its own weight.

        :param rho: (n,) weights on current
        :return: (n,) u_i(current | rho_-i) - u_i(predicted | rho_-i)
        """
        return np.asarray(self._payoffs.gradient(self._profile(rho)[None])[0])

    def hessian(self, rho: npt.ArrayLike) -> Array:
        """
        Derivative of the simultaneous gradient (Eq. 24 and 29).

        :param rho: (n,) weights on current
        :return: (n, n) d2 u_i / d rho_i d rho_j, zero diagonal, in general not symmetric
        """
        return self._payoffs.hessian(self._profile(rho))

    @cached_property
    def scale(self) -> float:
        """
        Unit of payoffs, to compare a NashConv with.

        Up to 12 agents it is the largest |payoff| over all pure profiles. Above, it is a lower estimate of that: the largest
        |payoff| over all-current, all-predicted and the 2n profiles that differ from one of them in one agent.
        """
        if self.n_agents <= MAX_DENSE_AGENTS:
            return float(self._table.largest().max())
        corners = (np.ones(self.n_agents), np.zeros(self.n_agents))
        return float(max(np.abs(self._payoffs.strategy_payoffs(corner)).max() for corner in corners))

    def _profile(self, rho: npt.ArrayLike) -> Array:
        profile = np.asarray(rho, dtype=np.float64)
        if profile.shape != (self.n_agents,):
            raise ValueError(f"rho must have shape ({self.n_agents},), one weight per agent, not {profile.shape}")
        if not np.all((profile >= 0.0) & (profile <= 1.0)):
            raise ValueError(f"rho must lie in [0, 1] (the weight on the current policy), got {profile}")
        return profile


def _samples(values: npt.ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have shape (samples, agents) with at least one of each, not {array.shape}")
    return array


def _live(mask: npt.ArrayLike | None, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if mask is None:
        return np.ones(shape, dtype=np.bool_)
    array = np.asarray(mask)
    if array.shape != shape:
        raise ValueError(f"mask has shape {array.shape}, expected {shape} like the ratios")
    if not np.all((array == 0) | (array == 1)):
        raise ValueError("mask must hold booleans: True where the agent was live")
    return array.astype(np.bool_)


def _require_finite(array: Array, name: str, live: npt.NDArray[np.bool_] | None = None) -> None:
    bad = ~np.isfinite(array) if live is None else ~np.isfinite(array) & live
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        raise ValueError(f"{name} must be finite, but entry {where} is {array[where]} ({int(bad.sum())} such entries)")


def _require_small(n_agents: int) -> None:
    if n_agents > MAX_DENSE_AGENTS:
        raise ValueError(
            f"the table of {n_agents} agents has 2^{n_agents} profiles; tables are built up to {MAX_DENSE_AGENTS} agents. "
            "Use strategy_payoffs, expected_payoffs and nash_conv, which need no table"
        )


def _clipped(ratio: Array, clip_range: float | None) -> Array:
    if clip_range is None:
        return ratio
    clip = float(clip_range)
    if not (0.0 < clip < np.inf):
        raise ValueError(f"clip_range must be a positive number or None, got {clip_range}")
    return np.clip(ratio, max(0.0, 1.0 - clip), 1.0 + clip)


def _require_bounded_products(ratio: Array) -> None:
    largest = float(np.log(np.maximum(ratio, 1.0)).sum(axis=1).max())
    if largest > _MAX_LOG_RATIO:
        raise ValueError(f"a joint ratio reaches exp({largest:.0f}), beyond float64; pass a clip_range")


def _centred_weights(advantage: Array, live: npt.NDArray[np.bool_]) -> Array:
    """
    Sample weights of every agent's payoffs.

    :param advantage: (B, n)
    :param live: (B, n)
    :return: (B, n) centred advantages over the number of live samples; 0 where masked or where all are equal
    """
    counts = np.maximum(live.sum(axis=0), 1)
    advantage = np.where(live, advantage, 0.0)
    centred = np.where(live, advantage - advantage.sum(axis=0) / counts, 0.0)
    constant = np.abs(centred).max(axis=0) <= _CONSTANT_ADVANTAGE * np.abs(advantage).max(axis=0)
    return np.where(constant, 0.0, centred / counts)
