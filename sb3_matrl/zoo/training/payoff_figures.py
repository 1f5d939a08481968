"""Payoffs of the meta-game: rows of a table, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_matrl.matrl.metagame_report import MetaGameReport
from sb3_matrl.zoo.common.figure_text import show_as_it_is


def payoff_table(report: MetaGameReport) -> tuple[list[str | int], list[list[str | float]]]:
    """
    One row per joint strategy of the n agents: strategy of each agent, probability at the solution, payoff of each agent.

    :param report: report of an iteration with dense payoffs of K strategies
    :return: names of the columns, and K**n rows
    :raises ValueError: if the report has no dense payoffs, that is, for more than 4 agents or 256 rows
    """
    earned = _dense_payoffs(report).reshape(len(report.agents), -1).T
    columns: list[str | int] = [*report.agents, "probability", *(f"payoff of {agent}" for agent in report.agents)]
    rows: list[list[str | float]] = []
    # In product() and in reshape() the last agent's strategy changes fastest.
    for profile, payoffs in zip(product(range(len(report.strategies)), repeat=len(report.agents)), earned, strict=True):
        weights = [sigma[choice] for choice, sigma in zip(profile, report.sigma, strict=True)]
        rows.append([*(report.strategies[choice] for choice in profile), float(np.prod(weights)), *payoffs.tolist()])
    return columns, rows


def draw_payoffs(report: MetaGameReport, title: str) -> Figure:
    """
    One heatmap per agent: rows are strategies of the first half of the agents, columns those of the others.

    :param report: report of an iteration with dense payoffs
    :param title: title of the figure
    :raises ValueError: as :func:`payoff_table`
    """
    payoffs, n = _dense_payoffs(report), len(report.agents)
    n_rows = max(n // 2, 1)
    grids = payoffs.reshape(n, len(report.strategies) ** n_rows, -1)
    largest = float(np.abs(payoffs).max()) or 1.0
    figure = Figure(figsize=(1.2 + (0.8 + 0.9 * grids.shape[2]) * n, 1.6 + 0.6 * grids.shape[1]), layout="constrained")
    panels = figure.subplots(1, n, squeeze=False)[0]
    for axes, agent, grid in zip(panels, report.agents, grids, strict=True):
        image = axes.imshow(grid, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
        axes.set_title(f"payoff of {agent}", fontsize=10)
        _annotate(axes, grid, largest)
        _label(axes, report.agents[:n_rows], report.agents[n_rows:], report.strategies)
    figure.colorbar(image, ax=list(panels), shrink=0.9)
    figure.suptitle(title)
    show_as_it_is(figure)
    return figure


def _dense_payoffs(report: MetaGameReport) -> np.ndarray:
    if report.payoffs is None:
        raise ValueError(f"payoffs of {len(report.agents)} agents are not tabulated")
    return report.payoffs


def _annotate(axes: Axes, grid: np.ndarray, largest: float) -> None:
    for (row, column), value in np.ndenumerate(grid):
        colour = "white" if abs(value) > 0.6 * largest else "black"
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=9)


def _label(axes: Axes, row_agents: Sequence[str], column_agents: Sequence[str], strategies: Sequence[str]) -> None:
    rows, columns = _profiles(row_agents, strategies), _profiles(column_agents, strategies)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_ylabel(", ".join(row_agents))
    axes.set_xlabel(", ".join(column_agents))


def _profiles(agents: Sequence[str], strategies: Sequence[str]) -> list[str]:
    """Joint strategies of some agents; initials for several agents."""
    names = strategies if len(agents) < 2 else [strategy[0] for strategy in strategies]
    return [", ".join(profile) for profile in product(names, repeat=len(agents))]
