"""Exact values of the policies over the training as a picture: a panel for every task of a suite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.benchmarking.figure import COLOURS, LINES
from sb3_matrl.zoo.benchmarking.suite_scores import MEASURED
from sb3_matrl.zoo.common.figure_text import add_legend

MOST_COLUMNS = 4
TITLES = {"welfare_score": "welfare score", "nash_conv": "NashConv"}


def draw(tasks: Sequence[Mapping[str, Any]], path: Path) -> None:
    """
    Mean over seeds with its 95 % interval. Tasks whose score is a return have no exact values, and no panel.

    :param tasks: tasks of a record of :mod:`benchmarks.suite_runs`
    :param path: path of the PNG file; not written if there is no panel
    """
    shown = [task for task in tasks if task["score"] in MEASURED]
    if not shown:
        return
    columns = min(len(shown), MOST_COLUMNS)
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(max(3.2 * columns, 6.0), 2.7 * lines + 0.7), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    methods = list(dict.fromkeys(row["method"] for task in shown for row in task["rows"]))
    for axes, task in zip(panels, shown, strict=False):
        _draw_panel(axes, task, methods)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    n_seeds = max(row["seeds"] for task in shown for row in task["rows"])
    title = f"mean of {n_seeds} seeds, 95 % bootstrap intervals"
    add_legend(figure, title)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _draw_panel(axes: Axes, task: Mapping[str, Any], methods: Sequence[str]) -> None:
    measure = MEASURED[task["score"]]
    for row in task["rows"]:
        place, curve = methods.index(row["method"]), row["curve"]
        colour = COLOURS[place % len(COLOURS)]
        style: dict[str, Any] = {"color": colour, "linestyle": LINES[place % len(LINES)], "label": row["method"]}
        axes.plot(curve["timesteps"], curve[measure], linewidth=1.5, **style)
        axes.fill_between(curve["timesteps"], curve["low"], curve["high"], color=colour, alpha=0.13, linewidth=0)
    axes.set_title(task["name"], fontsize=10)
    axes.set_xlabel("environment steps", fontsize=9)
    axes.set_ylabel(TITLES.get(measure, measure), fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
