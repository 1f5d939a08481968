"""Heat maps of a cross-play: the mean return of each role by its player and by the other player."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_matrl.evaluation.cross_play_result import CrossPlayResult
from sb3_matrl.zoo.common.figure_text import show_as_it_is
from sb3_matrl.zoo.common.run_folder import safe_name
from sb3_matrl.zoo.tournaments.entrants import Entrant

# Cells of larger maps have no numbers.
MAX_NUMBERED = 12


def draw_heat_maps(folder: Path, result: CrossPlayResult, entrants: Sequence[Entrant], title: str) -> list[Path]:
    """
    Draw one heat map for each role, as PNG and as SVG.

    :param folder: folder of the pictures
    :param result: returns of all games, in at least two roles
    :param entrants: the players, in the same order
    :param title: environment and number of games
    :return: paths of the pictures
    """
    paths: list[Path] = []
    names = [safe_name(role) for role in result.roles]
    for place, role in enumerate(result.roles):
        name = names[place] if names.count(names[place]) == 1 else f"{names[place]}_{place}"
        other = f"player of {result.roles[1 - place]}" if len(result.roles) == 2 else "player of another role"
        figure = _draw(result.pair_payoffs(place), entrants, f"player of {role}", other)
        figure.suptitle(f"mean return of {role}\n{title}", fontsize=10)
        show_as_it_is(figure)
        for suffix in ("png", "svg"):
            paths.append(folder / f"heat_map_{name}.{suffix}")
            figure.savefig(paths[-1], dpi=130)
    return paths


def _draw(values: np.ndarray, entrants: Sequence[Entrant], rows: str, columns: str) -> Figure:
    side = 3.0 + 0.28 * max(len(entrants), 4)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, **_colours(values))
    figure.colorbar(image, ax=axes, shrink=0.8)
    labels, groups = tick_labels(entrants), _runs(entrants)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    named = any(entrant.steps is not None for entrant in entrants)
    axes.set_xlabel(_axis_label(columns, groups, named), fontsize=9)
    axes.set_ylabel(_axis_label(rows, groups, named), fontsize=9)
    if named:
        _name_groups(axes, groups)
    for _, _, end in groups[:-1]:
        axes.axhline(end - 0.5, color="black", linewidth=1.0)
        axes.axvline(end - 0.5, color="black", linewidth=1.0)
    if len(labels) <= MAX_NUMBERED:
        _number_cells(axes, values, image)
    return figure


def _colours(values: np.ndarray) -> dict[str, Any]:
    """Colours that show the sign where returns have both; one scale from dark to bright otherwise."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if low < 0.0 < high:
        largest = max(-low, high)
        return {"cmap": "RdBu", "norm": TwoSlopeNorm(0.0, -largest, largest)}
    return {"cmap": "viridis", "norm": Normalize(low, high if high > low else low + 1.0)}


def tick_labels(entrants: Sequence[Entrant]) -> list[str]:
    """Steps of snapshots, names of others."""
    steps = EngFormatter(sep="")
    return [entrant.name if entrant.steps is None else steps.format_eng(entrant.steps) for entrant in entrants]


def _runs(entrants: Sequence[Entrant]) -> list[tuple[str, int, int]]:
    """Neighbours of one group: its name, first player, and the one after its last."""
    found: list[tuple[str, int, int]] = []
    for index, entrant in enumerate(entrants):
        if found and found[-1][0] == entrant.group:
            found[-1] = entrant.group, found[-1][1], index + 1
        else:
            found.append((entrant.group, index, index + 1))
    return found


def _axis_label(what: str, groups: Sequence[tuple[str, int, int]], named: bool) -> str:
    """Name of an axis, with the run if there is only one."""
    return f"{what}, {groups[0][0]} after steps" if named and len(groups) == 1 else what


def _name_groups(axes: Axes, groups: Sequence[tuple[str, int, int]]) -> None:
    """Write the names of runs above the map and to its right, in the middle of their snapshots."""
    if len(groups) == 1:
        return
    for name, start, end in groups:
        if end - start > 1:
            middle = (start + end - 1) / 2.0
            text: dict[str, Any] = {"fontsize": 8, "fontweight": "bold", "ha": "center", "va": "center"}
            axes.text(middle, 1.02, name, transform=axes.get_xaxis_transform(), **{**text, "va": "bottom"})
            axes.text(1.02, middle, name, rotation=270, transform=axes.get_yaxis_transform(), **{**text, "ha": "left"})


def _number_cells(axes: Axes, values: np.ndarray, image: Any) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = np.dot(image.cmap(image.norm(value))[:3], (0.299, 0.587, 0.114))
            colour = "black" if shade > 0.5 else "white"
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=6, color=colour)
