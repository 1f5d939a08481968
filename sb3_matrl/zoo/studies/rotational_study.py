"""Fig. 3: optimisers on the rotational game of footnote 3, their trajectories and steps to the fixed point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from sb3_matrl.games import (
    DifferentiableGame,
    differentiable_game,
    learner_names,
    make_learner,
    option_names,
    run,
    steps_to_tolerance,
)
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.studies import outcome
from sb3_matrl.zoo.studies.outcome import Outcome, new_figure
from sb3_matrl.zoo.studies.study_options import RotationalOptions

SAME_STEP = "all steps equal"
LARGE_STEP = "larger look-ahead"
ADAPTIVE = "steps measured from the game"
#: Number of steps drawn of a path that diverges.
_TURNS = 75

_STYLES: dict[str, dict[str, Any]] = {
    "gd": {"color": outcome.BLACK, "linestyle": "-"},
    "extragradient": {"color": outcome.SKY, "linestyle": "-", "linewidth": 3.0},
    "optimistic": {"color": outcome.PURPLE, "linestyle": "-"},
    "lookahead": {"color": outcome.ORANGE, "linestyle": "-"},
    "lola": {"color": outcome.GREEN, "linestyle": "-"},
    "sos": {"color": outcome.GREEN, "linestyle": "--"},
    "sga": {"color": outcome.GREY, "linestyle": "-", "linewidth": 2.0},
    "consensus": {"color": outcome.BLACK, "linestyle": ":"},
    "matrl": {"color": outcome.BLUE, "linestyle": "--"},
    "matrl-tr": {"color": outcome.VERMILLION, "linestyle": "-", "linewidth": 2.0},
}
#: Option of an optimiser that sets its look-ahead, or the weight with the same role; its default is the learning rate.
_LOOK_AHEAD = {
    "extragradient": "look_ahead",
    "lookahead": "look_ahead",
    "lola": "look_ahead",
    "sos": "look_ahead",
    "sga": "adjustment",
    "consensus": "gamma",
    "matrl": "predicted_learning_rate",
}
#: Steps of an independent second implementation, from (1, 1) with the default step sizes; ``None`` if there are none.
_INDEPENDENT: dict[tuple[str, str], int | None] = {
    ("gd", SAME_STEP): None,
    ("extragradient", SAME_STEP): 171,
    ("optimistic", SAME_STEP): 164,
    ("lookahead", SAME_STEP): 175,
    ("lola", SAME_STEP): 87,
    ("sos", SAME_STEP): 112,
    ("matrl", SAME_STEP): 176,
    ("extragradient", LARGE_STEP): 31,
    ("lookahead", LARGE_STEP): 33,
    ("matrl", LARGE_STEP): 37,
}


@dataclass(frozen=True, eq=False)
class Run:
    """
    Run of one optimiser.

    :param learner: name of the optimiser
    :param group: name of the comparison that the run belongs to
    :param options: options of the optimiser
    :param path: (steps + 1, 2) trajectory, NaN after divergence
    :param steps: number of steps to the tolerance; ``None`` if the run does not reach it
    """

    learner: str
    group: str
    options: dict[str, Any]
    path: Array = field(repr=False)
    steps: int | None

    @property
    def distance(self) -> Array:
        """(steps + 1,) larger absolute coordinate."""
        return np.asarray(np.abs(self.path).max(axis=1))

    @property
    def diverges(self) -> bool:
        """Whether it is farther from the fixed point at the end than at the start."""
        first, last = np.linalg.norm(self.path[[0, -1]], axis=1)
        return bool(not last < first)

    def row(self, options: RotationalOptions) -> dict[str, Any]:
        """:return: row of the run"""
        independent = _INDEPENDENT.get((self.learner, self.group), "unknown")
        return {
            "learner": self.learner,
            "group": self.group,
            "options": self.options,
            "steps": self.steps,
            "diverges": self.diverges,
            "independent": independent if options == RotationalOptions(seed=options.seed) else "unknown",
        }


def rotational(options: RotationalOptions) -> Outcome:
    """
    Run every optimiser with all its steps equal, those that look ahead also with a larger look-ahead, and MATRL-TR.

    :param options: options of the study
    :return: one row per run; the picture shows trajectories and distances
    :raises ValueError: on a start that is not two finite numbers, or steps that are not positive
    """
    game = differentiable_game("rotational")
    plan = [(name, SAME_STEP) for name in learner_names(DifferentiableGame) if name != "matrl-tr"]
    plan += [*((name, LARGE_STEP) for name in _LOOK_AHEAD), ("matrl-tr", ADAPTIVE)]
    with tqdm(plan, unit="run", desc="rotational") as bar:
        runs = [_run(game, name, group, options) for name, group in bar]
    rows = [one.row(options) for one in runs]
    settings = {"start": options.start, "steps": options.steps, "tolerance": options.tolerance, "seed": options.seed}
    summary = {f"{row['learner']} ({row['group']})": row["steps"] for row in rows if row["steps"] is not None}
    table = rotational_markdown(rows)
    return Outcome("rotational", {**settings, "rows": rows}, table, _figure(runs, options), summary)


def _run(game: DifferentiableGame, name: str, group: str, options: RotationalOptions) -> Run:
    chosen: dict[str, Any] = {"learning_rate": options.learning_rate}
    if group == LARGE_STEP:
        chosen[_LOOK_AHEAD[name]] = options.look_ahead
    if "seed" in option_names(name, DifferentiableGame):
        chosen["seed"] = options.seed
    path = run(make_learner(name, DifferentiableGame, **chosen), game, options.start, options.steps)
    return Run(name, group, chosen, path, steps_to_tolerance(path, tolerance=options.tolerance))


def rotational_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """
    :param rows: rows of the record
    :return: Markdown table
    """
    lines = [
        [outcome.LABELS[row["learner"]], row["group"], _options_text(row["options"]), _steps_text(row), _independent_text(row)]
        for row in rows
    ]
    return markdown(["optimiser", "comparison", "steps", "steps to tolerance", "independent"], lines)


def _options_text(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in options.items() if key != "seed")


def _steps_text(row: dict[str, Any]) -> str:
    if row["steps"] is None:
        return "diverges" if row["diverges"] else "not yet"
    return str(row["steps"])


def _independent_text(row: dict[str, Any]) -> str:
    if row["independent"] == "unknown":
        return ""
    return "never" if row["independent"] is None else str(row["independent"])


def _figure(runs: Sequence[Run], options: RotationalOptions) -> Figure:
    figure = new_figure(7.2, 3.1)
    with mpl.rc_context(outcome.STYLE):
        paths, same, large = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
        by_group = {group: [one for one in runs if one.group in (group, ADAPTIVE)] for group in (SAME_STEP, LARGE_STEP)}
        shown = ("gd", "extragradient", "lookahead", "matrl", "matrl-tr")
        _draw_paths(paths, [one for one in by_group[SAME_STEP] if one.learner in shown])
        _draw_distances(same, by_group[SAME_STEP], options, f"(b) every step {options.learning_rate:g}")
        _draw_distances(large, by_group[LARGE_STEP], options, f"(c) look-ahead {options.look_ahead:g}")
        large.sharey(same)
        figure.legend(*same.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _draw_paths(axes: Axes, runs: Sequence[Run]) -> None:
    reach = 1.4 * max(float(one.distance[0]) for one in runs)
    for one in runs:
        # A complete path that circles would be drawn as a black ring.
        axes.plot(*one.path[: _TURNS if one.diverges else None].T, **_STYLES[one.learner])
    axes.plot(*runs[0].path[0], marker="o", color="black", markersize=4, clip_on=False)
    axes.annotate("start", runs[0].path[0], xytext=(4, 4), textcoords="offset points")
    axes.plot(0, 0, marker="*", color="black", markersize=8, zorder=5)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="x", ylabel="y", aspect="equal")
    axes.set_title(f"(a) trajectories, every step {runs[0].options['learning_rate']:g}")
    axes.grid(alpha=0.25, linewidth=0.5)


def _draw_distances(axes: Axes, runs: Sequence[Run], options: RotationalOptions, title: str) -> None:
    for one in runs:
        axes.plot(one.distance, label=outcome.LABELS[one.learner], **_STYLES[one.learner])
    axes.axhline(options.tolerance, color="black", linewidth=0.5)
    longest = max((one.steps for one in runs if one.steps is not None), default=options.steps)
    axes.set(yscale="log", xlabel="step", ylabel="max(|x|, |y|)", title=title, xlim=(0, longest))
    axes.set_ylim(options.tolerance / 3, 10 * float(runs[0].distance[0]))
    axes.grid(alpha=0.25, linewidth=0.5)
