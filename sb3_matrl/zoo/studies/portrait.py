"""What the phase portraits of 2x2 and of 3x3 games share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_matrl.games.payoffs import Array
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.studies import outcome

CONVERGED = 0.05

#: By name of the learner.
LINES: dict[str, dict[str, Any]] = {
    "iga": {"label": "IGA", "color": outcome.BLACK},
    "gd": {"label": "gradient descent", "color": outcome.BLACK, "linewidth": 0.7},
    "iga-pp": {"label": "IGA-PP", "color": outcome.PURPLE},
    "extragradient": {"label": "extragradient", "color": outcome.SKY},
    "optimistic": {"label": "optimistic gradient", "color": outcome.PURPLE},
    "wolf-iga": {"label": "WoLF-IGA", "color": outcome.GREEN},
    "lookahead": {"label": "LookAhead", "color": outcome.PURPLE, "linestyle": "--"},
    "lola": {"label": "LOLA", "color": outcome.GREEN},
    "sos": {"label": "SOS", "color": outcome.GREEN, "linestyle": "--"},
    "sga": {"label": "SGA", "color": outcome.GREY},
    "consensus": {"label": "consensus", "color": outcome.GREY, "linestyle": "--"},
    "il-la": {"label": "IL-LA", "color": outcome.PURPLE, "linestyle": "--"},
    "matrl-no-br": {"label": "MATRL w/o BR", "color": outcome.SKY, "linestyle": "--"},
    "matrl": {"label": "MATRL", "color": outcome.BLUE},
    "matrl-tr": {"label": "MATRL-TR", "color": outcome.VERMILLION},
}


@dataclass(frozen=True, eq=False)
class Portrait:
    """
    What learners did in one game.

    :param rows: one per learner: its name, options, and where it came when
    :param equilibria: as the record shows them
    :param figure: the phase portrait
    """

    rows: list[dict[str, Any]]
    equilibria: list[Any]
    figure: Figure


def row(name: str, options: dict[str, Any], distances: Array, final: Array, nash_conv: float) -> dict[str, Any]:
    """
    :param name: of the learner
    :param options: of the learner
    :param distances: (steps + 1,) to the nearest equilibrium, in the largest difference of a probability
    :param final: the last point
    :param nash_conv: of the last point
    :return: what table and record show of a learner
    """
    close = distances <= CONVERGED
    return {
        "learner": name,
        "options": options,
        "steps": len(distances) - 1,
        "first_step": int(close.argmax()) if close.any() else None,
        "final_distance": distances[-1],
        "final_nash_conv": nash_conv,
        "final": final,
    }


def portrait_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """
    :param rows: of the record
    :return: a Markdown table
    """
    header = ["learner", "steps", f"first within {CONVERGED}", "distance at the end", "NashConv at the end"]
    lines = [
        [
            str(LINES[one["learner"]]["label"]),
            str(one["steps"]),
            "never" if one["first_step"] is None else str(one["first_step"]),
            f"{one['final_distance']:.4f}",
            f"{one['final_nash_conv']:.4f}",
        ]
        for one in rows
    ]
    return markdown(header, lines)


def draw_path(axes: Axes, name: str, path: Array) -> None:
    """
    Draw where a learner went, with a dot where it ended.

    :param axes: of the picture
    :param name: of the learner
    :param path: (k, 2) points of the picture
    """
    style = {"linewidth": 1.3, **LINES[name]}
    axes.plot(*path.T, zorder=3, **style)
    axes.plot(*path[-1], marker="D", markersize=4, color=style["color"], zorder=4, clip_on=False)


def draw_start(axes: Axes, point: Array) -> None:
    """
    :param axes: of the picture
    :param point: (2,) of the picture
    """
    axes.plot(*point, "s", color="black", markersize=5, label="start", zorder=5, clip_on=False)


def draw_field(axes: Axes, points: Array, arrows: Array) -> None:
    """
    Draw a vector field; arrows are as long as the square root of their vectors, so that small ones can be seen.

    :param axes: of the picture
    :param points: (k, 2) where the arrows begin
    :param arrows: (k, 2) vectors
    """
    length = np.linalg.norm(arrows, axis=1, keepdims=True)
    longest = float(length.max()) or 1.0
    shown = arrows / np.where(length > 0.0, np.sqrt(length * longest), 1.0)
    axes.quiver(*points.T, *shown.T, color="#AAAAAA", angles="xy", scale_units="xy", scale=18, width=0.003, zorder=1)
