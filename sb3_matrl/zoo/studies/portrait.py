"""Shared parts of the phase portraits of 2x2 and of 3x3 games: runs, rows of the table, and drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from sb3_matrl.games import Learner, make_learner, option_names, run
from sb3_matrl.games.exact_learner import PlayedGame
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.studies import outcome

CONVERGED = 0.05

#: Styles of the paths, by name of the learner.
LINES: dict[str, dict[str, Any]] = {
    "iga": {"color": outcome.BLACK},
    "gd": {"color": outcome.BLACK, "linewidth": 0.7},
    "iga-pp": {"color": outcome.PURPLE},
    "extragradient": {"color": outcome.SKY},
    "optimistic": {"color": outcome.PURPLE},
    "wolf-iga": {"color": outcome.GREEN},
    "lookahead": {"color": outcome.PURPLE, "linestyle": "--"},
    "lola": {"color": outcome.GREEN},
    "sos": {"color": outcome.GREEN, "linestyle": "--"},
    "sga": {"color": outcome.GREY},
    "consensus": {"color": outcome.GREY, "linestyle": "--"},
    "il-la": {"color": outcome.PURPLE, "linestyle": "--"},
    "matrl-no-br": {"color": outcome.SKY, "linestyle": "--"},
    "matrl": {"color": outcome.BLUE},
    "matrl-tr": {"color": outcome.VERMILLION},
}


@dataclass(frozen=True, eq=False)
class Portrait:
    """
    Results of the learners in one game.

    :param rows: one per learner: its name, its options, when and where it arrived
    :param equilibria: equilibria of the game, for the record
    :param figure: the phase portrait
    """

    rows: list[dict[str, Any]]
    equilibria: list[Any]
    figure: Figure


def make_learners(names: Sequence[str], game: type[PlayedGame], settings: Mapping[str, Any]) -> dict[str, Learner[PlayedGame]]:
    """
    :param names: names of learners
    :param game: class of the game to play
    :param settings: values of options; a learner takes those that it has
    :return: learners by name
    :raises ValueError: on an unknown name, a learner that does not play such games, or an option out of range
    """
    return {
        name: make_learner(name, game, **{key: settings[key] for key in option_names(name, game) if key in settings})
        for name in names
    }


def trajectories(
    title: str, learners: Mapping[str, Learner[PlayedGame]], game: PlayedGame, start: npt.ArrayLike, steps: int
) -> dict[str, Array]:
    """
    :param title: title of the progress bar
    :param learners: learners by name
    :param game: game to play
    :param start: start of every run
    :param steps: number of steps
    :return: trajectory of every learner, as from :func:`sb3_matrl.games.run`
    """
    with tqdm(learners.items(), unit="learner", desc=title) as bar:
        return {name: run(learner, game, start, steps) for name, learner in bar}


def row(name: str, options: dict[str, Any], distances: Array, final: Array, nash_conv: float) -> dict[str, Any]:
    """
    :param name: name of the learner
    :param options: options of the learner
    :param distances: (steps + 1,) distances to the nearest equilibrium, in the largest difference of a probability
    :param final: last point
    :param nash_conv: NashConv of the last point
    :return: row of the learner, for table and record
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
    :param rows: rows of the record
    :return: Markdown table
    """
    header = ["learner", "steps", f"first within {CONVERGED}", "distance at the end", "NashConv at the end"]
    lines = [
        [
            outcome.LABELS[one["learner"]],
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
    Draw the path of a learner, with a diamond at its end.

    :param axes: axes to draw on
    :param name: name of the learner
    :param path: (k, 2) points in the picture
    """
    style = {"linewidth": 1.3, "label": outcome.LABELS[name], **LINES[name]}
    axes.plot(*path.T, zorder=3, **style)
    axes.plot(*path[-1], marker="D", markersize=4, color=style["color"], zorder=4, clip_on=False)


def draw_start(axes: Axes, point: Array) -> None:
    """
    :param axes: axes to draw on
    :param point: (2,) start in the picture
    """
    axes.plot(*point, "s", color="black", markersize=5, label="start", zorder=5, clip_on=False)


def draw_field(axes: Axes, points: Array, arrows: Array) -> None:
    """
    Draw a vector field; arrows are as long as the square root of their vectors, so that small ones can be seen.

    :param axes: axes to draw on
    :param points: (k, 2) tails of the arrows
    :param arrows: (k, 2) vectors
    """
    length = np.linalg.norm(arrows, axis=1, keepdims=True)
    longest = float(length.max()) or 1.0
    shown = arrows / np.where(length > 0.0, np.sqrt(length * longest), 1.0)
    axes.quiver(*points.T, *shown.T, color="#AAAAAA", angles="xy", scale_units="xy", scale=18, width=0.003, zorder=1)


def unique_legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """
    :param axes: drawn axes
    :return: handles and labels of the legend, each label once
    """
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    return list(named.values()), list(named)
