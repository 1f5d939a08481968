"""Charts as geometry: numbers in, coordinates and words out; ``page.html.j2`` draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 440.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 424.0, 10.0, 218.0
MAX_POINTS = 300
HOVER_POINTS = 40
LINE_WIDTH = 2.0
BINS = 60
COLOURS = 8  # that the style sheet defines
DASHES = 4


@dataclass(frozen=True)
class Series:
    """
    A curve over the steps.

    :param label: in the legend; curves with the same label share an entry only if they look the same
    :param x: steps, rising, shape (k,)
    :param y: finite values, shape (k,)
    :param low: lower edge of a band around the curve, shape (k,); ``None`` for no band
    :param high: its upper edge
    :param colour: which of the style sheet's colours
    :param dash: which of its dash patterns; 0 is a solid line
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    colour: int = 0
    dash: int = 0

    def styled(self, index: int) -> Series:
        """Look of the ``index``-th of many curves: colours first, then dash patterns."""
        return replace(self, colour=index % COLOURS, dash=index // COLOURS % DASHES)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: coordinate and text."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A point that tells its value when pointed at."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """A curve ready to draw: SVG paths, and dots to point at; wider where an equal one would cover it."""

    label: str
    colour: int
    dash: int
    width: float
    path: str
    band: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Bar:
    """A rectangle that tells its value when pointed at."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str


@dataclass(frozen=True)
class Legend:
    """One entry of a legend; ``dash`` is ``None`` for bars."""

    label: str
    colour: int
    dash: int | None


@dataclass(frozen=True)
class Chart:
    """
    A chart ready to draw.

    :param title: above it
    :param note: below it: what the curves are
    :param summary: the chart in words, for those who do not see it
    :param averaged: rows of the log behind every point of the longest curve; 1 when nothing was thinned out
    """

    title: str
    note: str
    summary: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    legend: tuple[Legend, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    averaged: int = 1


@dataclass(frozen=True)
class _Scale:
    """Linear map from values to coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, text: Callable[[float], str]) -> tuple[Tick, ...]:
        places = np.asarray(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high))
        places = places[(places >= self.low) & (places <= self.high)]
        return tuple(Tick(round(float(at), 1), text(place)) for at, place in zip(self(places), places, strict=True))


def compact(value: float) -> str:
    """A number of steps: ``20k``, ``1.5M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def plain(value: float) -> str:
    """A value with four digits, without the rounding error in ``0.30000000000000004``."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-12 else "0"


def line_chart(
    title: str, series: Sequence[Series], note: str = "", limits: tuple[float, float] | None = None
) -> Chart | None:
    """
    Lay out curves over the steps.

    :param title: what is drawn
    :param series: curves; empty ones are left out
    :param note: below the chart
    :param limits: of the vertical axis; ``None`` to fit the curves
    :return: the chart, or ``None`` when there is nothing to draw
    """
    given = [one for one in series if len(one.x)]
    if not given:
        return None
    averaged = max(_rows_per_point(len(one.x)) for one in given)
    thin = [thinned(one) for one in given]
    x_scale = _x_scale([one.x for one in thin])
    y_scale = _Scale(*(limits or _padded_range(thin)), BOTTOM, TOP)
    lines = [_line(one, x_scale, y_scale) for one in thin]
    return Chart(
        title=title,
        note=note,
        summary="; ".join(_in_words(one) for one in given),
        x_ticks=x_scale.ticks(compact),
        y_ticks=y_scale.ticks(plain),
        legend=tuple(Legend(one.label, one.colour, one.dash) for one in thin),
        lines=tuple(_wider_if_covered(line, lines[i + 1 :]) for i, line in enumerate(lines)),
        averaged=averaged,
    )


def share_chart(
    title: str, steps: np.ndarray, cells: Sequence[str], categories: Sequence[str], note: str = ""
) -> Chart | None:
    """
    Lay out a timeline of categories: stacked bars of the share that each has in a stretch of the run.

    :param title: what is drawn
    :param steps: rising, shape (k,)
    :param cells: category of each of the k rows
    :param categories: all categories in the order of stacking, from the bottom
    :param note: below the chart
    :return: the chart, or ``None`` when there are no rows
    """
    if not len(steps):
        return None
    x_scale = _x_scale([steps], from_zero=True)
    colours = {category: i % COLOURS for i, category in enumerate(categories)}
    bars: list[Bar] = []
    begin = 0.0
    for rows in np.array_split(np.arange(len(steps)), min(len(steps), BINS)):
        end = float(steps[rows[-1]])
        left, right = x_scale(np.array([begin, end]))
        bars += _stack([cells[row] for row in rows], colours, f"{begin:,.0f} to {end:,.0f} steps", (left, right))
        begin = end
    shares = {category: sum(cell == category for cell in cells) / len(cells) for category in categories}
    seen = [category for category in categories if shares[category]]
    return Chart(
        title=title,
        note=note,
        summary=", ".join(f"{category} {shares[category]:.0%}" for category in seen),
        x_ticks=x_scale.ticks(compact),
        y_ticks=tuple(Tick(round(BOTTOM + (TOP - BOTTOM) * share, 1), f"{share:.0%}") for share in (0.0, 0.5, 1.0)),
        legend=tuple(Legend(f"{category} ({shares[category]:.0%})", colours[category], None) for category in seen),
        bars=tuple(bars),
    )


def _stack(cells: Sequence[str], colours: dict[str, int], where: str, edges: tuple[float, float]) -> list[Bar]:
    """Bars on top of each other whose heights are the shares of the categories among ``cells``."""
    bars, bottom = [], BOTTOM
    for category, colour in colours.items():
        share = sum(cell == category for cell in cells) / len(cells)
        height = share * (BOTTOM - TOP)
        if share:
            text = f"{where}: {category}" + (f" {share:.0%}" if share < 1 else "")
            left, top, width, tall = (
                round(float(size), 1) for size in (edges[0], bottom - height, edges[1] - edges[0], height)
            )
            bars.append(Bar(left, top, width, tall, colour, text))
        bottom -= height
    return bars


def thinned(series: Series) -> Series:
    """At most :data:`MAX_POINTS` points, each the mean of equally many neighbours (one more or less)."""
    count = len(series.x)
    if count <= MAX_POINTS:
        return series
    edges = np.linspace(0, count, MAX_POINTS + 1).astype(int)

    def means(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(values, edges[:-1]) / np.diff(edges))

    low, high = (None if edge is None else means(edge) for edge in (series.low, series.high))
    return replace(series, x=means(series.x), y=means(series.y), low=low, high=high)


def _rows_per_point(count: int) -> int:
    return max(1, round(count / MAX_POINTS))


def _x_scale(columns: Sequence[np.ndarray], from_zero: bool = False) -> _Scale:
    low = 0.0 if from_zero else float(min(column.min() for column in columns))
    high = float(max(column.max() for column in columns))
    # A single point stands in the middle.
    margin = 0.0 if high > low else 0.5
    return _Scale(low - margin, high + margin, LEFT, RIGHT)


def _padded_range(series: Sequence[Series]) -> tuple[float, float]:
    columns = [column for one in series for column in (one.y, one.low, one.high) if column is not None]
    values = np.concatenate(columns)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = 0.05 * (high - low) or 0.1 * abs(high) or 0.5
    # Space below zero would suggest that a quantity which has none could be negative.
    return (0.0 if low >= 0 and low - pad < 0 else low - pad), high + pad


def _line(series: Series, x_scale: _Scale, y_scale: _Scale) -> Line:
    x, y = x_scale(series.x), _inside(y_scale(series.y))
    band = ""
    if series.low is not None and series.high is not None:
        there = np.isfinite(series.low) & np.isfinite(series.high)
        low, high = (_inside(y_scale(edge[there])) for edge in (series.low, series.high))
        band = _path(np.concatenate([x[there], x[there][::-1]]), np.concatenate([high, low[::-1]]))
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), HOVER_POINTS)).round().astype(int))
    dots = tuple(Dot(round(float(x[i]), 1), round(float(y[i]), 1), _dot_title(series, i)) for i in chosen)
    return Line(series.label, series.colour, series.dash, LINE_WIDTH, _path(x, y), band, dots)


def _inside(y: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(y, TOP, BOTTOM))


def _wider_if_covered(line: Line, later: Sequence[Line]) -> Line:
    covers = sum(other.path == line.path for other in later)
    return replace(line, width=line.width * (1 + 0.8 * covers))


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path through the points; empty without points."""
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f"M{points}" if points else ""


def _dot_title(series: Series, i: int) -> str:
    text = f"{series.label}, {series.x[i]:,.0f} steps: {plain(series.y[i])}"
    if series.low is not None and series.high is not None and math.isfinite(series.low[i] + series.high[i]):
        text += f" [{plain(series.low[i])}, {plain(series.high[i])}]"
    return text


def _in_words(series: Series) -> str:
    first, last, low, high = (plain(value) for value in (series.y[0], series.y[-1], series.y.min(), series.y.max()))
    return f"{series.label}: from {first} to {last}, between {low} and {high}"
