"""Learning curves of a benchmark as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_matrl.zoo.benchmarking.comparison import Cells
from sb3_matrl.zoo.benchmarking.run_results import SCORES
from sb3_matrl.zoo.benchmarking.run_statistics import MIN_SEEDS_FOR_INTERVALS
from sb3_matrl.zoo.common.figure_text import add_legend, show_as_it_is

# Okabe and Ito's palette for colour-blind readers, without black and yellow.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (4, 1, 1, 1)))
PANEL = (5.0, 3.1)


def draw_curves(paths: Sequence[Path], cells: Cells, n_seeds: int) -> None:
    """
    Interquartile mean over seeds with its 95 % band; a column of panels per environment, a row per kind of policy.

    :param paths: paths of the files, whose suffixes are the formats
    :param cells: finished runs
    :param n_seeds: number of runs of a setting in an environment
    """
    envs = list(dict.fromkeys(env for env, _ in cells))
    settings = list(dict.fromkeys(setting for _, setting in cells))
    figure = Figure(figsize=(PANEL[0] * len(envs), PANEL[1] * len(SCORES) + 0.8), layout="constrained")
    panels = figure.subplots(len(SCORES), len(envs), squeeze=False, sharex="col", sharey="col")
    for column, env in enumerate(envs):
        for row, policy in enumerate(SCORES):
            _draw_panel(panels[row, column], cells, env, policy, settings)
        panels[0, column].set_title(env)
        panels[-1, column].set_xlabel("environment steps")
    for row, policy in enumerate(SCORES):
        panels[row, 0].set_ylabel(f"team return, {policy}")
    band = "" if n_seeds < MIN_SEEDS_FOR_INTERVALS else ", 95 % bootstrap bands"
    title = f"interquartile mean of {n_seeds} seeds{band}" if n_seeds > 1 else "one seed"
    add_legend(figure, title)
    show_as_it_is(figure)
    for path in paths:
        figure.savefig(path, dpi=130)


def _draw_panel(axes: Axes, cells: Cells, env: str, policy: str, settings: Sequence[str]) -> None:
    for index, setting in enumerate(settings):
        if (env, setting) not in cells:
            continue
        cell = cells[env, setting]
        _, (value, low, high) = cell.curves[policy]
        colour = COLOURS[index % len(COLOURS)]
        # Settings can coincide exactly: thinner, dashed lines on top of thicker ones keep all visible.
        style: dict[str, Any] = {
            "color": colour,
            "linestyle": LINES[index % len(LINES)],
            "linewidth": 2.8 - 0.4 * (index % len(LINES)),
        }
        axes.plot(cell.timesteps, value, label=setting, marker="." if len(value) < 30 else "", **style)
        if np.isfinite(low).all():
            axes.fill_between(cell.timesteps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
