"""Phase portraits of 2x2 games: the square of both players' probabilities of action 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sb3_matrl.games import Equilibria, NormalFormGame, both_actions, distances, run
from sb3_matrl.games.exact_matrl import MATRL
from sb3_matrl.games.gradient_views import SquareView
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.zoo.studies import outcome
from sb3_matrl.zoo.studies.portrait import (
    Portrait,
    draw_field,
    draw_path,
    draw_start,
    make_learners,
    row,
    trajectories,
    unique_legend,
)
from sb3_matrl.zoo.studies.study_options import DynamicsOptions

LEARNERS = ("iga", "wolf-iga", "matrl", "matrl-tr")
START = (0.9, 0.2)  # Table 2
STEPS = 1000
_GRID = 15
_REGIONS = 8


@dataclass(frozen=True, eq=False)
class Region:
    """
    Region between the current and the predicted strategies in one step of MATRL.

    :param current: (2,) current strategies
    :param predicted: (2,) predicted strategies, the opposite corner
    :param target: (2,) mixture that the meta-game's equilibrium stands for
    """

    current: Array
    predicted: Array
    target: Array

    @property
    def is_restricted(self) -> bool:
        """Whether the meta-game keeps a share of the current strategies."""
        return not np.array_equal(self.target, self.predicted)


def square_portrait(game: NormalFormGame, title: str, actions: Sequence[str], options: DynamicsOptions) -> Portrait:
    """
    :param game: single 2x2 game
    :param title: title of the picture
    :param actions: names of the two actions
    :param options: options of the study
    :return: rows and picture; equilibria are boxes (lower and upper corner), of size zero if they are isolated
    :raises ValueError: on unknown learners, a start outside the square, or a step size of zero or below
    """
    settings = {"predicted_step": options.predicted_step, "seed": options.seed}
    learners = make_learners(options.learners or LEARNERS, NormalFormGame, settings)
    start = START if options.start is None else options.start
    steps = STEPS if options.steps is None else options.steps
    paths = {name: path[:, 0] for name, path in trajectories(title, learners, game, start, steps).items()}
    equilibria = game.equilibria()
    rows = [_row(game, name, learners[name], path) for name, path in paths.items()]
    boxes = [[equilibria.lower[k], equilibria.upper[k]] for k in np.flatnonzero(equilibria.valid)]
    matrl = learners.get("matrl")
    regions = regions_along(game, matrl, paths["matrl"]) if isinstance(matrl, MATRL) else []
    return Portrait(rows, boxes, _figure(game, title, actions, paths, regions))


def _row(game: NormalFormGame, name: str, learner: Any, path: Array) -> dict[str, Any]:
    nash_conv = float(game.nash_conv(both_actions(path[-1])))
    return row(name, asdict(learner), distances(path[:, None], game[None])[:, 0], path[-1], nash_conv)


def regions_along(game: NormalFormGame, learner: MATRL, path: Array) -> list[Region]:
    """
    Find regions along a trajectory of MATRL that are far enough from each other to be told apart.

    :param game: single 2x2 game
    :param learner: learner of this path
    :param path: (steps + 1, 2)
    :return: at most eight regions
    """
    view = SquareView(game.field())
    predicted = view.ascend(path, learner.predicted_step, view.gradient(path))
    step = replace(learner, best_response=False)
    regions: list[Region] = []
    for k, (current, corner) in enumerate(zip(path, predicted, strict=True)):
        gap = np.inf if not regions else np.abs(current - regions[-1].current).max()
        if gap < 0.2 or np.array_equal(current, corner):
            continue
        regions.append(Region(path[k], corner, run(step, game, current, 1)[1, 0]))
        if len(regions) == _REGIONS:
            break
    return regions


def _figure(
    game: NormalFormGame, title: str, actions: Sequence[str], paths: dict[str, Array], regions: Sequence[Region]
) -> Figure:
    figure = outcome.new_figure(5.2, 3.4)
    with mpl.rc_context(outcome.STYLE):
        axes, side = figure.subplots(1, 2, width_ratios=(1, 0.5))
        _draw_gradients(axes, game)
        _draw_regions(axes, regions)
        for name, path in paths.items():
            draw_path(axes, name, path)
        draw_start(axes, next(iter(paths.values()))[0])
        _draw_equilibria(axes, game.equilibria())
        axes.set(xlim=(0, 1), ylim=(0, 1), title=title)
        axes.set(xlabel=f"player 1: probability of {actions[0]}", ylabel=f"player 2: probability of {actions[0]}")
        side.axis("off")
        side.legend(*unique_legend(axes), loc="center left", bbox_to_anchor=(-0.1, 0.5))
    return figure


def _draw_gradients(axes: Axes, game: NormalFormGame) -> None:
    line = (np.arange(_GRID) + 0.5) / _GRID
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    draw_field(axes, points, game.field().gradient(points))


def _draw_regions(axes: Axes, regions: Sequence[Region]) -> None:
    for region in regions:
        label, colour = ("restricted", outcome.PURPLE) if region.is_restricted else ("taken", outcome.SKY)
        corner, size = np.minimum(region.current, region.predicted), np.abs(region.predicted - region.current)
        style: dict[str, Any] = {"facecolor": (colour, 0.2), "edgecolor": (colour, 0.8), "zorder": 2}
        axes.add_patch(Rectangle(tuple(corner), *size, label=f"predicted region, {label}", **style))


def _draw_equilibria(axes: Axes, equilibria: Equilibria) -> None:
    for k in np.flatnonzero(equilibria.valid):
        lower, upper = equilibria.lower[k], equilibria.upper[k]
        if equilibria.is_isolated[k]:
            is_mixed = bool(((lower > 0.0) & (lower < 1.0)).any())
            label, colour = ("mixed equilibrium", "white") if is_mixed else ("pure equilibrium", outcome.ORANGE)
            mark: dict[str, Any] = {"zorder": 6, "clip_on": False, "markersize": 9, "markeredgecolor": "black"}
            axes.plot(*lower, "o", color=colour, label=label, **mark)
        elif (lower == upper).any():
            ends = np.stack([lower, upper]).T
            axes.plot(*ends, color=outcome.ORANGE, linewidth=5, label="equilibria", zorder=6, clip_on=False)
        else:
            style: dict[str, Any] = {"facecolor": (outcome.ORANGE, 0.5), "label": "equilibria", "zorder": 2}
            axes.add_patch(Rectangle(tuple(lower), *(upper - lower), **style))
