"""Pictures of learning curves: one panel per environment, or one for the log of some runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.benchmarking.figure import COLOURS, LINES, PANEL
from sb3_matrl.zoo.common.figure_text import ROOM, add_legend, show_as_it_is
from sb3_matrl.zoo.plotting.curve_data import MethodCurve

SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Look:
    """
    Look of a picture.

    :param title: title; ``None`` for none
    :param size: width and height of a panel in inches; ``None`` for the default
    :param font_size: size of the text in points
    :param labels: name of a curve -> name in the legend
    """

    title: str | None = None
    size: tuple[float, float] | None = None
    font_size: float = 10.0
    labels: Mapping[str, str] | None = None

    def label(self, name: str) -> str:
        """Name of a curve in the legend."""
        return (self.labels or {}).get(name, name)


def check_suffix(path: Path) -> None:
    """
    Check the format of a picture.

    :param path: path of the picture
    :raises ValueError: if its suffix is no format
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"picture {path}: {unknown('suffix', path.suffix, SUFFIXES)}")


def draw_methods(path: Path, curves: Sequence[MethodCurve], ylabel: str, look: Look) -> None:
    """
    Draw aggregates over seeds, a panel for each environment.

    :param path: path of the picture
    :param curves: at least one curve
    :param ylabel: name of the values
    :param look: look of the picture
    """
    envs = list(dict.fromkeys(curve.env for curve in curves))
    methods = list(dict.fromkeys(curve.method for curve in curves))
    figure, panels = _panels(len(envs), look)
    for axes, env in zip(panels, envs, strict=True):
        axes.set(title=env, xlabel="environment steps")
        for curve in (one for one in curves if one.env == env):
            index = methods.index(curve.method)
            axes.plot(curve.steps, curve.values, label=look.label(curve.method), **_style(index, len(curve.steps)))
            if np.isfinite(curve.low).all():
                axes.fill_between(
                    curve.steps, curve.low, curve.high, color=COLOURS[index % len(COLOURS)], alpha=0.15, linewidth=0
                )
    panels[0].set_ylabel(ylabel)
    _save(figure, panels, path, look)


def draw_log(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], labels: tuple[str, str], look: Look) -> None:
    """
    Draw curves of single runs in one panel.

    :param path: path of the picture
    :param curves: name -> points and values, shape (k,) each
    :param labels: names of the two axes
    :param look: look of the picture
    """
    figure, (axes,) = _panels(1, look)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    for index, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, label=look.label(name), **_style(index, len(x)))
    _save(figure, [axes], path, look)


def _panels(count: int, look: Look) -> tuple[Figure, list[Axes]]:
    width, height = look.size or PANEL
    figure = Figure(figsize=(width * count, height + ROOM), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, count, squeeze=False).flat)
    for axes in panels:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    return figure, panels


def _style(index: int, n_points: int) -> dict[str, Any]:
    # Curves can coincide exactly: thinner, dashed lines on top of thicker ones keep all visible.
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "linewidth": 2.8 - 0.4 * (index % len(LINES)),
        "marker": "." if n_points < 30 else "",
    }


def _save(figure: Figure, panels: Sequence[Axes], path: Path, look: Look) -> None:
    add_legend(figure, font_size=look.font_size)
    if look.title is not None:
        figure.suptitle(look.title)
    for axes in panels:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_fontsize(look.font_size)
    show_as_it_is(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=130, format=path.suffix[1:])
