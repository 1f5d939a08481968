"""Charts drawn with Matplotlib, as SVG elements that take their colours from the page's style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

WIDTH, HEIGHT = 440, 260  # user units of the SVG, 72 per inch of the figure
FONT_SIZE = 13.5
MAX_POINTS = 300
HOVER_POINTS = 40
LINE_WIDTH = 2.0
BINS = 60
COLOURS = 8  # --c0 to --c7 of the style sheet
DASHES = ("-", "--", ":")
# Charts are drawn in these colours, which are then replaced by the style sheet's variables.
VARIABLES = {f"#0000c{i}": f"--c{i}" for i in range(COLOURS)} | {"#00000a": "--soft", "#00000b": "--rule", "#00000c": "--card"}
PALETTE = tuple(VARIABLES)
SOFT, RULE, CARD = PALETTE[COLOURS:]
_BAR, _SERIES = "bar", "series"  # ids that mark elements of the SVG until it is simplified
_NAMESPACE = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Series:
    """
    A curve over the steps.

    :param label: name in the legend
    :param x: numbers of steps that do not fall, shape (k,); of several values at one step the last is drawn
    :param y: values, shape (k,); those that are not finite are not drawn
    :param low: lower edge of a band around the curve, shape (k,); ``None`` for no band
    :param high: upper edge of the band
    :param colour: index of one of the :data:`COLOURS` of the style sheet
    :param dash: index into :data:`DASHES`
    :param is_level: whether it is a horizontal line whose label says its value
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    colour: int = 0
    dash: int = 0
    is_level: bool = False

    def styled(self, index: int) -> Series:
        """Look of the ``index``-th of many curves: colours first, then dash patterns."""
        return replace(self, colour=index % COLOURS, dash=index // COLOURS % len(DASHES))


@dataclass(frozen=True)
class Legend:
    """One entry of a legend; ``dash`` is ``None`` for bars."""

    label: str
    colour: int
    dash: int | None


@dataclass(frozen=True)
class Bars:
    """
    Bars of one category, on top of those of the categories before it.

    :param label: category
    :param edges: steps at which the bars begin and end, shape (k + 1,)
    :param heights: shares, shape (k,)
    :param bottoms: sums of the shares of the categories before, shape (k,)
    :param colour: index of one of the :data:`COLOURS` of the style sheet
    """

    label: str
    edges: np.ndarray
    heights: np.ndarray
    bottoms: np.ndarray
    colour: int


@dataclass(frozen=True)
class Chart:
    """
    A drawn chart.

    :param title: text above the chart
    :param note: text below the chart: what the curves are
    :param summary: the chart in words, for screen readers
    :param svg: ``<svg>`` element without ids and links; every point and bar has a ``<title>`` with its value
    :param legend: entries of the legend
    :param averaged: rows of the log behind every point of the longest curve; 1 if nothing was thinned out
    :param curves: what was drawn, one per entry of the legend
    :param covers: values that the vertical axis includes; ``None`` if it fits the curves
    :param bars: what was drawn in place of curves
    """

    title: str
    note: str
    summary: str
    svg: str
    legend: tuple[Legend, ...]
    averaged: int = 1
    curves: tuple[Series, ...] = ()
    covers: tuple[float, float] | None = None
    bars: tuple[Bars, ...] = ()


def line_chart(
    title: str, series: Sequence[Series], note: str = "", covers: tuple[float, float] | None = None
) -> Chart | None:
    """
    Draw curves over the steps.

    :param title: text above the chart
    :param series: curves; empty ones are left out
    :param note: text below the chart
    :param covers: values that the vertical axis always includes; ``None`` to fit the curves
    :return: the chart, or ``None`` if all curves are empty
    """
    given = [one for one in map(_drawable, series) if len(one.x)]
    if not given:
        return None
    thin = [thinned(one) for one in given]
    figure, axes = _new_figure()
    for i, (one, width) in enumerate(zip(thin, line_widths(thin), strict=True)):
        _draw_curve(axes, one, f"{_SERIES}{i}", width)
    _fit_vertical_axis(axes, covers)
    summary = "; ".join(_in_words(one) for one in given)
    titles = [text for one in thin for text in _point_titles(one)]
    legend = tuple(Legend(one.label, one.colour, one.dash) for one in thin)
    averaged = max(1, round(max(len(one.x) for one in given) / MAX_POINTS))
    return Chart(title, note, summary, _svg(figure, f"{title}. {summary}", titles), legend, averaged, tuple(thin), covers)


def share_chart(
    title: str, steps: np.ndarray, cells: Sequence[str], categories: Sequence[str], note: str = ""
) -> Chart | None:
    """
    Draw a timeline of categories: stacked bars with the share of each category in a stretch of the run.

    :param title: text above the chart
    :param steps: rising numbers of steps, shape (k,)
    :param cells: category of each of the k rows
    :param categories: all categories in the order of stacking, from the bottom
    :param note: text below the chart
    :return: the chart, or ``None`` if there are no rows
    """
    if not len(steps):
        return None
    is_category = np.array([[cell == category for cell in cells] for category in categories])
    first = np.linspace(0, len(steps), min(len(steps), BINS) + 1).astype(int)
    # The first row counts from where the run began: later than 0 if it continues another model.
    begin = max(2.0 * steps[0] - steps[1], 0.0) if len(steps) > 1 else 0.0
    edges = np.array([begin, *steps[first[1:] - 1]])
    shares = np.add.reduceat(is_category.astype(float), first[:-1], axis=1) / np.diff(first)
    figure, axes = _new_figure()
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    stacked = [
        Bars(category, edges, shares[i], shares[:i].sum(axis=0), i % COLOURS)
        for i, category in enumerate(categories)
        if shares[i].any()
    ]
    titles: list[str] = []
    for bars in stacked:
        _draw_bars(axes, bars)
        titles += [_bar_title(bars.label, edges[k : k + 2], bars.heights[k]) for k in np.flatnonzero(bars.heights)]
    seen = [(i, categories[i], f"{share:.0%}") for i, share in enumerate(is_category.mean(axis=1)) if share]
    summary = ", ".join(f"{category} {share}" for _, category, share in seen)
    legend = tuple(Legend(f"{category} ({share})", i % COLOURS, None) for i, category, share in seen)
    return Chart(title, note, summary, _svg(figure, f"{title}. {summary}", titles), legend, bars=tuple(stacked))


def _drawable(series: Series) -> Series:
    """The finite values of a curve, one per step."""
    there = np.isfinite(series.y)
    there[there] = np.diff(series.x[there], append=np.inf) != 0
    low, high = (None if edge is None else edge[there] for edge in (series.low, series.high))
    return replace(series, x=series.x[there], y=series.y[there], low=low, high=high)


def line_widths(curves: Sequence[Series]) -> list[float]:
    """Widths of curves; those under equal ones are wider, so that both are seen."""
    covered = (
        sum(np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y) for other in curves[i + 1 :])
        for i, one in enumerate(curves)
    )
    return [LINE_WIDTH * (1 + 0.8 * count) for count in covered]


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


def plain(value: float) -> str:
    """A value with four digits, without the rounding error in ``0.30000000000000004``."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-12 else "0"


def _new_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.margins(x=0)
    axes.locator_params(nbins=5)
    axes.tick_params(length=0, pad=6, labelcolor=SOFT, labelsize=FONT_SIZE)
    axes.grid(axis="y", color=RULE)
    axes.set_axisbelow(True)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.set_xlabel("steps", color=SOFT, fontsize=FONT_SIZE)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.ticklabel_format(axis="y", useOffset=False)
    return figure, axes


def _draw_curve(axes: Axes, series: Series, gid: str, width: float) -> None:
    """Band, line, and points to hover over, in this order on top of the curves drawn before."""
    colour, chosen = PALETTE[series.colour], _hover_points(series)
    if series.low is not None and series.high is not None:
        there = np.isfinite(series.low) & np.isfinite(series.high)
        x, low, high = series.x[there], series.low[there], series.high[there]
        outline = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
        axes.fill(*outline, color=colour, alpha=0.16, linewidth=0, gid=gid, zorder=2)
    axes.plot(series.x, series.y, DASHES[series.dash], color=colour, linewidth=width, gid=gid, zorder=2)
    axes.plot(series.x[chosen], series.y[chosen], "o", color=colour, gid=gid, zorder=2)


def _draw_bars(axes: Axes, bars: Bars) -> None:
    there, colour = np.flatnonzero(bars.heights), PALETTE[bars.colour]
    places = bars.edges[there], bars.heights[there], np.diff(bars.edges)[there], bars.bottoms[there]
    for bar in axes.bar(*places, align="edge", color=colour):
        bar.set(gid=_BAR, edgecolor=CARD, linewidth=0.6)


def _bar_title(category: str, edges: np.ndarray, share: float) -> str:
    return f"{edges[0]:,.0f} to {edges[1]:,.0f} steps: {category} {share:.0%}"


def _hover_points(series: Series) -> np.ndarray:
    return np.unique(np.linspace(0, len(series.x) - 1, min(len(series.x), HOVER_POINTS)).round().astype(int))


def _point_titles(series: Series) -> list[str]:
    return [_point_title(series, i) for i in _hover_points(series)]


def _point_title(series: Series, i: int) -> str:
    text = f"{series.label}, {series.x[i]:,.0f} steps: {plain(series.y[i])}"
    if series.low is not None and series.high is not None and np.isfinite(series.low[i] + series.high[i]):
        text += f" [{plain(series.low[i])}, {plain(series.high[i])}]"
    return text


def _fit_vertical_axis(axes: Axes, covers: tuple[float, float] | None) -> None:
    if covers is not None:
        axes.update_datalim([(0, value) for value in covers], updatex=False)
        axes.autoscale_view()
    elif axes.dataLim.y0 >= 0 > axes.get_ylim()[0]:
        # Space below zero would suggest that a quantity which has none could be negative.
        axes.set_ylim(bottom=0)


def _in_words(series: Series) -> str:
    first, last, low, high = (plain(value) for value in (series.y[0], series.y[-1], series.y.min(), series.y.max()))
    return f"{series.label}: from {first} to {last}, between {low} and {high}"


def _svg(figure: Figure, label: str, titles: Sequence[str]) -> str:
    """
    Save a figure as an element of a page that holds several: without ids and links, in the page's colours.

    :param label: content of the chart in words
    :param titles: texts of the points and bars, in the order of drawing
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}):
        figure.savefig(buffer, format="svg")
    drawing = ElementTree.fromstring(buffer.getvalue())
    attributes = {"class": "chart", "viewBox": drawing.attrib["viewBox"], "role": "img", "aria-label": label}
    root = ElementTree.Element("svg", attributes)
    root.extend(drawing.findall(f"{_NAMESPACE}g"))
    elements = list(root.iter())
    for element in elements[1:]:
        _simplify(element)
    hoverable = [element for element in elements if element.tag == "circle" or element.get("id") == _BAR]
    for element, title in zip(hoverable, titles, strict=True):
        ElementTree.SubElement(element, "title").text = title
    _group_series(elements)
    for element in elements:
        element.attrib.pop("id", None)
    return ElementTree.tostring(root, encoding="unicode")


def _simplify(element: ElementTree.Element) -> None:
    """Remove what refers to other elements, replace copies of a marker by circles, and take colours from the page."""
    element.tag = element.tag.removeprefix(_NAMESPACE)
    for definitions in element.findall(f"{_NAMESPACE}defs"):
        element.remove(definitions)
    if "style" in element.attrib:
        element.set("style", re.sub("#[0-9a-f]{6}", lambda match: f"var({VARIABLES[match[0]]})", element.attrib["style"]))
    element.attrib.pop("clip-path", None)
    if element.tag == "use":
        place = {"cx": element.attrib["x"], "cy": element.attrib["y"], "r": "5", "style": element.attrib["style"]}
        element.tag, element.attrib = "circle", place


def _group_series(elements: Sequence[ElementTree.Element]) -> None:
    """Put all parts of a curve into one group, so that the style sheet can set it off from the others."""
    for parent in elements:
        parts = [child for child in parent if child.get("id", "").startswith(_SERIES)]
        for _, same in groupby(parts, lambda part: part.get("id")):
            group = ElementTree.SubElement(parent, "g", {"class": "series"})
            for part in same:
                parent.remove(part)
                group.append(part)
