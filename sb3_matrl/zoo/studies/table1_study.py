"""Table 1: every learner on random 2x2 games of the paper's classes, from two generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from signal import SIG_IGN, SIGINT, signal
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from sb3_matrl.games import GENERATORS, KINDS, convergence, final_distance, random_games, run
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.studies import outcome
from sb3_matrl.zoo.studies.outcome import Outcome, new_figure
from sb3_matrl.zoo.studies.study_options import Table1Options
from sb3_matrl.zoo.studies.table1_settings import SETTINGS, Reference, Setting

START = (0.9, 0.2)  # Table 2
CONVERGED = 0.05
AT_EQUILIBRIUM = 0.01
_RESAMPLES = 2000


@dataclass(frozen=True)
class Task:
    """One cell of the table: a learner (by its index in ``SETTINGS``) on one class of games."""

    setting: int
    generator: str
    kind: str
    games: int
    steps: int
    seed: int


@dataclass(frozen=True, eq=False)
class Cell:
    """
    Results of one learner on one class of games.

    :param first_step: (games,) first step within 0.05 of an equilibrium; -1 if there is none
    :param final: (games,) distance to the nearest equilibrium after the last step
    """

    setting: Setting
    generator: str
    kind: str
    first_step: npt.NDArray[np.int64]
    final: Array

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """First steps of the games that converged."""
        return np.asarray(self.first_step[self.first_step >= 0])

    def converged_by(self, step: Array) -> Array:
        """:return: share of games that have converged by these steps, in per cent"""
        return np.asarray(100.0 * np.searchsorted(np.sort(self.steps), step, side="right") / len(self.first_step))


def table1(options: Table1Options) -> Outcome:
    """
    Run every learner on every class and generator.

    :param options: options of the study
    :return: one row per learner, generator and class; the picture shows shares of converged games over the steps
    """
    measured = list(_measured_cells(options))
    cells, rows = [cell for cell, _ in measured], [row for _, row in measured]
    settings = {"games": options.games, "seed": options.seed, "start": START, "steps": options.steps}
    record = {**settings, "converged_within": CONVERGED, "at_equilibrium_within": AT_EQUILIBRIUM, "rows": rows}
    summary = {
        f"{row['generator']}/{row['kind']}/{row['learner']}/{key}": row[key]
        for row in rows
        for key in ("converged", "mean_step", "at_equilibrium")
        if row[key] is not None
    }
    return Outcome("table1", record, table1_markdown(rows), _figure(cells, options.steps), summary)


def _measured_cells(options: Table1Options) -> Iterator[tuple[Cell, dict[str, Any]]]:
    tasks = [
        Task(setting, generator, kind, options.games, options.steps, options.seed)
        for generator in GENERATORS
        for kind in KINDS
        for setting in range(len(SETTINGS))
    ]
    with _parallel_map(options.jobs) as parallel_map, tqdm(total=len(tasks), unit="cell", desc="table1") as bar:
        for measured in parallel_map(measure, tasks):
            yield measured
            bar.update()


@contextmanager
def _parallel_map(jobs: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Provide an ordered ``map`` over processes; an error or Ctrl-C cancels the tasks that have not started."""
    if jobs == 1:
        yield map
        return
    pool = ProcessPoolExecutor(jobs, initializer=partial(signal, SIGINT, SIG_IGN))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def measure(task: Task) -> tuple[Cell, dict[str, Any]]:
    """
    :param task: cell to measure
    :return: results of the cell, and its row
    """
    setting = SETTINGS[task.setting]
    games = random_games(task.kind, task.games, task.generator, task.seed)
    trajectories = run(setting.learner, games, START, task.steps)
    first_step = convergence(trajectories, games, CONVERGED)
    cell = Cell(setting, task.generator, task.kind, first_step, final_distance(trajectories, games))
    return cell, _row(cell)


def _row(cell: Cell) -> dict[str, Any]:
    """:return: row of a cell; shares in per cent, with 95 % bootstrap intervals over the games"""
    setting = cell.setting
    paper, independent = (_of_kind(known, cell) for known in (setting.paper, setting.independent))
    converged, at_equilibrium = cell.first_step >= 0, cell.final <= AT_EQUILIBRIUM
    return {
        "learner": setting.label,
        "group": setting.group,
        "options": setting.options(),
        "generator": cell.generator,
        "kind": cell.kind,
        "converged": 100.0 * converged.mean(),
        "converged_ci95": share_interval(converged),
        "mean_step": cell.steps.mean() if len(cell.steps) else None,
        "mean_step_ci95": mean_interval(cell.steps),
        "at_equilibrium": 100.0 * at_equilibrium.mean(),
        "at_equilibrium_ci95": share_interval(at_equilibrium),
        "paper": None if paper is None else asdict(paper),
        "independent": None if independent is None else asdict(independent),
    }


def _of_kind(known: Sequence[Reference] | None, cell: Cell) -> Reference | None:
    """:return: reference of the cell's class; there are none for other generators than the paper's"""
    return None if known is None or cell.generator != "paper" else known[KINDS.index(cell.kind)]


def mean_interval(values: npt.ArrayLike, seed: int = 0) -> tuple[float, float] | None:
    """
    :param values: (k,) one number per game
    :param seed: seed of the resamples
    :return: 95 % bootstrap percentile interval of the mean; ``None`` without values
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return None
    return _percentiles(np.random.default_rng(seed).choice(array, size=(_RESAMPLES, len(array))).mean(axis=1))


def share_interval(hits: npt.NDArray[np.bool_], seed: int = 0) -> tuple[float, float]:
    """
    :param hits: (k,) one per game
    :param seed: seed of the resamples
    :return: 95 % bootstrap percentile interval of their share in per cent; resampled counts are binomial
    """
    counts = np.random.default_rng(seed).binomial(len(hits), hits.mean(), size=_RESAMPLES)
    return _percentiles(100.0 * counts / len(hits))


def _percentiles(means: Array) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def table1_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """
    :param rows: rows of the record, in its order
    :return: one Markdown table per class of games
    """
    return "\n\n".join(_class_table(kind, [row for row in rows if row["kind"] == kind]) for kind in KINDS)


def _class_table(kind: str, rows: Sequence[dict[str, Any]]) -> str:
    columns = ["converged %", "mean step", f"within {AT_EQUILIBRIUM} %"]
    header = [f"{kind}", *columns, "paper", "independent", *(f"normal: {name}" for name in columns)]
    by_learner: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_learner.setdefault(row["learner"], {})[row["generator"]] = row
    lines = [
        [
            learner,
            *_measured(of["paper"]),
            _known(of["paper"]["paper"]),
            _known(of["paper"]["independent"]),
            *_measured(of["normal"]),
        ]
        for learner, of in by_learner.items()
    ]
    return markdown(header, lines)


def _measured(row: dict[str, Any]) -> list[str]:
    step = "never"
    if row["mean_step"] is not None:
        low, high = row["mean_step_ci95"]
        step = f"{row['mean_step']:.1f} [{low:.1f}, {high:.1f}]"
    return [f"{row['converged']:.1f}", step, f"{row['at_equilibrium']:.1f}"]


def _known(reference: dict[str, float] | None) -> str:
    return "" if reference is None else f"{reference['converged']:g} / {reference['mean_step']:g}"


#: The curves of the picture, in the order drawn; broken ones lie above those that they may coincide with.
_CURVES: dict[str, dict[str, Any]] = {
    "IGA": {"color": outcome.BLACK, "linestyle": "-"},
    "WoLF-IGA, 0.01 and 0.06": {"color": outcome.GREEN, "linestyle": "-"},
    "MATRL": {"color": outcome.SKY, "linestyle": "-", "linewidth": 3.0},
    "IGA, 0.03": {"color": outcome.BLUE, "linestyle": "--"},
    "MATRL, predicted 1": {"color": outcome.ORANGE, "linestyle": "-"},
    "IL-LA, predicted 1": {"color": outcome.PURPLE, "linestyle": "--"},
    "MATRL-TR": {"color": outcome.VERMILLION, "linestyle": "-", "linewidth": 2.0},
}


def _figure(cells: Sequence[Cell], n_steps: int) -> Figure:
    figure = new_figure(7.2, 4.6)
    with mpl.rc_context(outcome.STYLE):
        panels = figure.subplots(len(GENERATORS), len(KINDS), sharex=True, sharey=True)
        for row, generator in enumerate(GENERATORS):
            for column, kind in enumerate(KINDS):
                chosen = {c.setting.label: c for c in cells if (c.generator, c.kind) == (generator, kind)}
                _draw_shares(panels[row, column], chosen, n_steps)
                panels[row, column].set_title(f"{kind}, {generator} generator")
        for axes in panels[-1]:
            axes.set_xlabel("step")
        for axes in panels[:, 0]:
            axes.set_ylabel("converged games (%)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_shares(axes: Axes, cells: dict[str, Cell], n_steps: int) -> None:
    steps = np.arange(1.0, n_steps + 1)
    for label, style in _CURVES.items():
        axes.step(steps, cells[label].converged_by(steps), where="post", label=label, **style)
    axes.set(xscale="log", xlim=(1, n_steps + 1), ylim=(0, 102))
    axes.grid(alpha=0.25, linewidth=0.5)
