"""The comparison of speed as a picture: ratio to PettingZoo's tutorial by world, and time per agent by number of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sb3_matrl.utils.atomic_file import atomic_file

# Okabe and Ito's palette for colour-blind readers.
BACKEND_COLOURS = {"sb3": "#0072B2", "torch": "#E69F00", "native": "#009E73"}
PEER_COLOURS = {"SuperSuit + one shared PPO": "#555555", "PPO alone (one agent)": "#999999", "BenchMARL": "#CC79A7"}
DRAWN = ("ippo", "matrl")
LINES: dict[str, Any] = {"ippo": "-", "matrl": (0, (5, 2))}


def draw(record: Mapping[str, Any], path: Path) -> None:
    """
    Draw a record of :mod:`benchmarks.speed_peers`.

    :param record: the record
    :param path: path of the PNG file
    """
    worlds = [column for column in record["columns"] if not _is_series(column)]
    series = sorted((column for column in record["columns"] if _is_series(column)), key=lambda column: column["agents"])
    panels = [(_draw_worlds, worlds), (_draw_agents, series)]
    shown = [(draw_panel, columns) for draw_panel, columns in panels if columns]
    widths = [max(4.5, 1.4 * len(columns)) if draw_panel is _draw_worlds else 5.0 for draw_panel, columns in shown]
    figure = Figure(figsize=(sum(widths), 4.6), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False, width_ratios=widths)[0]
    for (draw_panel, columns), one in zip(shown, axes, strict=True):
        draw_panel(one, columns)
        one.grid(alpha=0.3, axis="y")
        one.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2, frameon=False, fontsize=8, handlelength=3)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _is_series(column: Mapping[str, Any]) -> bool:
    """Whether a column is one of the worlds that differ in the number of agents alone."""
    return bool(column["column"] == f"n{column['agents']}")


def _draw_worlds(axes: Axes, columns: Sequence[Mapping[str, Any]]) -> None:
    """Bars by world, from the peer's 1 to the median, with the quartiles as error bars."""
    names = list(dict.fromkeys(row["contestant"] for column in columns for row in column["rows"] if _in_bars(row)))
    width = 0.84 / max(len(names), 1)
    for index, name in enumerate(names):
        found = [(place, row) for place, column in enumerate(columns) for row in column["rows"] if row["contestant"] == name]
        ratios = [row["ratio"] for _, row in found]
        medians = [ratio["median"] for ratio in ratios]
        axes.bar(
            [place + (index - (len(names) - 1) / 2) * width for place, _ in found],
            [median - 1.0 for median in medians],
            width,
            bottom=1.0,
            yerr=[
                [median - ratio["low"] for median, ratio in zip(medians, ratios, strict=True)],
                [ratio["high"] - median for median, ratio in zip(medians, ratios, strict=True)],
            ],
            error_kw={"linewidth": 0.8},
            color=_colour(found[0][1]),
            hatch="///" if found[0][1]["algorithm"] == "matrl" else None,
            edgecolor="white",
            label=name,
        )
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis)
    axes.set_xticks(range(len(columns)), [column["label"].replace(", ", ",\n") for column in columns], fontsize=8)
    axes.set_ylabel("speed / SuperSuit + one shared PPO")


def _draw_agents(axes: Axes, columns: Sequence[Mapping[str, Any]]) -> None:
    """Time of an iteration, divided by the number of agents."""
    names = list(dict.fromkeys(row["contestant"] for column in columns for row in column["rows"]))
    for name in names:
        found = [(column["agents"], row) for column in columns for row in column["rows"] if row["contestant"] == name]
        row = found[0][1]
        if row["algorithm"] in DRAWN and row["learned_agents"] > 1:
            times = [1e3 * one["seconds_per_agent"] for _, one in found]
            style = {"color": _colour(row), "linestyle": LINES[row["algorithm"]], "marker": "."}
            axes.plot([n for n, _ in found], times, label=name, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis)
    axes.set_xticks([column["agents"] for column in columns], [str(column["agents"]) for column in columns])
    axes.set_xlabel("agents")
    axes.set_ylabel("ms per iteration and agent")


def _plain_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, ..., written out."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _in_bars(row: Mapping[str, Any]) -> bool:
    """Whether a row is drawn: not the reference itself, nor a learner of one agent, whose work is another."""
    return row["algorithm"] in DRAWN and row["learned_agents"] > 1 and row["contestant"] != next(iter(PEER_COLOURS))


def _colour(row: Mapping[str, Any]) -> str:
    name = row["contestant"]
    return BACKEND_COLOURS.get(row["backend"]) or next(c for known, c in PEER_COLOURS.items() if name.startswith(known))
