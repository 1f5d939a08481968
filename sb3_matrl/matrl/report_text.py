"""The report of one MATRL iteration as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

# Smaller weights on the current policy count as 0: solvers that search are not exact.
_ZERO = 1e-3


class Iteration(Protocol):
    """The numbers of :class:`~sb3_matrl.matrl.metagame_report.MetaGameReport` that the text shows."""

    @property
    def agents(self) -> tuple[str, ...]: ...
    @property
    def rho(self) -> np.ndarray: ...
    @property
    def method(self) -> str: ...
    @property
    def nash_conv(self) -> float: ...
    @property
    def n_equilibria(self) -> int: ...
    @property
    def fixed_point(self) -> str: ...
    @property
    def strategies(self) -> tuple[str, ...]: ...
    @property
    def sigma(self) -> np.ndarray: ...
    @property
    def strategy_payoffs(self) -> np.ndarray: ...
    @property
    def kl_strategies(self) -> np.ndarray: ...
    @property
    def kl_next(self) -> np.ndarray: ...
    @property
    def clip_fraction(self) -> np.ndarray: ...
    @property
    def weight_clip_fraction(self) -> np.ndarray: ...
    @property
    def effective_sample_size(self) -> np.ndarray: ...
    @property
    def seconds(self) -> dict[str, float]: ...


def report_text(report: Iteration) -> str:
    """
    Describe one iteration: what the meta-game decided, a table with a line per player, and the times.

    :param report: numbers of the iteration
    :return: lines of text without a final newline
    """
    columns = {
        "rho": [f"{value:.3f}" for value in report.rho],
        **_strategies(report),
        "KL next": [_short(value) for value in report.kl_next],
        "clipped ratios": [f"{value:.0%}" for value in report.clip_fraction],
        "weights": [f"{value:.0%}" for value in report.weight_clip_fraction],
        "sample size": [f"{value:.0%}" for value in report.effective_sample_size],
    }
    times = ", ".join(f"{phase.replace('_', ' ')} {value:.3f} s" for phase, value in report.seconds.items())
    lines = [_decision(report), "", *_table(report.agents, columns), "", _LEGEND, *([f"Time: {times}"] if times else [])]
    return "\n".join(lines)


_LEGEND = (
    "rho: weight on the current policy; then payoffs of the strategies against the others' weights, KL divergences,\n"
    "clipped shares of the ratios in the payoffs and of the best response's weights, effective share of the samples"
)


def _strategies(report: Iteration) -> dict[str, list[str]]:
    """Columns of the strategies: weights if there are more than two, payoffs, divergences from the current policy."""
    named = list(enumerate(report.strategies))
    weights = {f"weight {name}": [f"{value:.3f}" for value in report.sigma[:, k]] for k, name in named[1:] if len(named) > 2}
    payoffs = {name: [_short(value) for value in report.strategy_payoffs[:, k]] for k, name in named}
    divergences = {f"KL {name}": [_short(value) for value in report.kl_strategies[:, k]] for k, name in named[1:]}
    return weights | payoffs | divergences


def _decision(report: Iteration) -> str:
    """First lines: outcome of the meta-game."""
    if report.n_equilibria < 0:
        last = report.strategies[-1]
        return f"Meta-game switched off: all {len(report.agents)} players take their {last} policies (rho = 0)."
    held = [agent for agent, weight in zip(report.agents, report.rho, strict=True) if weight > _ZERO]
    count = f"{report.n_equilibria} {'equilibrium' if report.n_equilibria == 1 else 'equilibria'} found by {report.method}"
    outcome = (
        f"the game restricts {', '.join(held) if len(held) < 4 else f'{len(held)} players'}"
        if held
        else "the game restricts nobody (rho = 0)"
    )
    return (
        f"Meta-game of {len(report.agents)} players: {outcome}.\n"
        f"{count[0].upper()}{count[1:]}, NashConv {_short(report.nash_conv)}, fixed point {report.fixed_point}."
    )


def _table(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """A line of headings and a line per name, aligned to the right."""
    width = max(len("player"), *map(len, names))
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    lines = [[f"{'player':<{width}}", *(f"{title:>{widths[title]}}" for title in columns)]]
    for i, name in enumerate(names):
        lines.append([f"{name:<{width}}", *(f"{cells[i]:>{widths[title]}}" for title, cells in columns.items())])
    return ["  ".join(line) for line in lines]


def _short(value: float) -> str:
    """Three significant digits, without a negative zero."""
    return f"{float(value) + 0.0:.3g}"
