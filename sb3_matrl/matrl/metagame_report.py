"""Report of one MATRL iteration: the numbers behind the logger's keys."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sb3_matrl.matrl.best_response import BestResponseStats
from sb3_matrl.matrl.report_text import report_text

DEFAULT_STRATEGIES = ("current", "predicted")


@dataclass(frozen=True)
class MetaGameReport:
    """
    Outcome and diagnostics of one iteration. Arrays of shape (n,) follow the order of ``agents``.

    :param agents: names of the players: agents, or groups that share a learner
    :param rho: weight of the meta-strategy on the current policy
    :param method: name of the solver that found ``rho``; ``"none"`` with the meta-game switched off
    :param nash_conv: sum of the agents' gains from deviating at ``rho``
    :param n_equilibria: number of equilibria that the solver found; -1 with the meta-game switched off
    :param n_pure_equilibria: number of pure equilibria among them
    :param current_payoffs: payoff of the current policy against ``rho`` of the others
    :param predicted_payoffs: payoff of the predicted policy (of the first trial step) against ``rho`` of the others
    :param expected_payoffs: payoff at ``rho``, Eq. 3 for the aggregated policies
    :param payoffs: dense payoffs (n, K, ..., K) of the K strategies in their order; ``None`` for more than 4 agents or
        256 profiles
    :param fixed_point: type of the fixed point at ``rho`` (Appendix C)
    :param eigenvalues: eigenvalues of the meta-game's Hessian at ``rho``, complex (n,)
    :param predicted_lower_bound: lower bound of the improvement if all play the predicted policies (Remark 1)
    :param lower_bound: lower bound for the aggregated policies (Remark C.1)
    :param total_variation: largest total variation between current and predicted policy over the visited states
    :param kl_predicted: mean KL(pi || pi_hat) over the visited states
    :param kl_next: mean KL(pi || pi') over the visited states
    :param clip_fraction: share of the meta-game's ratios that were clipped
    :param weight_clip_fraction: share of the best response's weights that were clipped
    :param effective_sample_size: effective sample size of the clipped weights, as a share of the samples
    :param best_response: agent -> statistics of its best response; empty when switched off
    :param seconds: phase (predict, metagame, best_response) -> wall-clock time
    :param strategies: names of the K strategies
    :param sigma: (n, K) weights of the strategies in the meta-strategies; column 0 is ``rho``
    :param strategy_payoffs: (n, K) payoff of each strategy against ``sigma`` of the others
    :param kl_strategies: (n, K) mean KL(pi || strategy) over the visited states
    """

    agents: tuple[str, ...]
    rho: np.ndarray
    method: str
    nash_conv: float
    n_equilibria: int
    n_pure_equilibria: int
    current_payoffs: np.ndarray
    predicted_payoffs: np.ndarray
    expected_payoffs: np.ndarray
    payoffs: np.ndarray | None
    fixed_point: str
    eigenvalues: np.ndarray
    predicted_lower_bound: np.ndarray
    lower_bound: np.ndarray
    total_variation: np.ndarray
    kl_predicted: np.ndarray
    kl_next: np.ndarray
    clip_fraction: np.ndarray
    weight_clip_fraction: np.ndarray
    effective_sample_size: np.ndarray
    sigma: np.ndarray
    strategy_payoffs: np.ndarray
    kl_strategies: np.ndarray
    strategies: tuple[str, ...] = DEFAULT_STRATEGIES
    best_response: dict[str, BestResponseStats] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """A table for people, see :func:`~sb3_matrl.matrl.report_text.report_text`."""
        return report_text(self)

    def scalars(self) -> dict[str, float | str]:
        """Logger key -> value: ``metagame/*`` for the game, ``<agent>/metagame/*`` and ``<agent>/br/*`` per agent."""
        values: dict[str, float | str] = {
            "metagame/nash_conv": self.nash_conv,
            "metagame/n_equilibria": self.n_equilibria,
            "metagame/n_pure_equilibria": self.n_pure_equilibria,
            "metagame/rho_mean": float(self.rho.mean()),
            "metagame/welfare": float(self.expected_payoffs.sum()),
            "metagame/fixed_point": self.fixed_point,
            "metagame/method": self.method,
            "metagame/eigenvalue_real_max": float(self.eigenvalues.real.max()),
            "metagame/eigenvalue_imag_max": float(np.abs(self.eigenvalues.imag).max()),
        }
        columns = self._columns()
        for i, agent in enumerate(self.agents):
            values |= {f"{agent}/metagame/{name}": float(column[i]) for name, column in columns.items()}
        for agent, stats in self.best_response.items():
            values |= {f"{agent}/br/{name}": float(value) for name, value in vars(stats).items()}
        return values | {f"time/{phase}_seconds": seconds for phase, seconds in self.seconds.items()}

    def _columns(self) -> dict[str, np.ndarray]:
        """Numbers per agent by name; other strategies than the usual ones add theirs."""
        columns = {name.replace("predicted", self.strategies[1]): getattr(self, name) for name in _PER_AGENT}
        if self.strategies != DEFAULT_STRATEGIES:
            for k, name in enumerate(self.strategies):
                columns |= {f"sigma_{name}": self.sigma[:, k], f"{name}_payoffs": self.strategy_payoffs[:, k]}
                columns |= {f"kl_{name}": self.kl_strategies[:, k]} if k > 0 else {}
        return columns


_PER_AGENT = (
    "rho",
    "current_payoffs",
    "predicted_payoffs",
    "expected_payoffs",
    "predicted_lower_bound",
    "lower_bound",
    "total_variation",
    "kl_predicted",
    "kl_next",
    "clip_fraction",
    "weight_clip_fraction",
    "effective_sample_size",
)
