"""Charts that can be zoomed and read off, drawn by Bokeh in the reader's browser in place of the pictures."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from sb3_matrl.zoo.reporting.charts import (
    CARD,
    FONT_SIZE,
    HEIGHT,
    PALETTE,
    RULE,
    SOFT,
    VARIABLES,
    Bars,
    Chart,
    Series,
    line_widths,
)

if TYPE_CHECKING:
    from bokeh.models import DataRange1d, Range1d
    from bokeh.models.renderers import DataRenderer, GlyphRenderer
    from bokeh.plotting import figure

_DASHES: tuple[Any, ...] = ("solid", [7, 3], [2, 3])
# With more curves than this, only the nearest one is read off.
MAX_READ_OFF = 8
# Larger whole numbers have no exact single-precision form.
_EXACT_SINGLE = 2**24


def is_available() -> bool:
    """Whether Bokeh is installed."""
    return importlib.util.find_spec("bokeh") is not None


def library() -> Markup:
    """The scripts of a page with such charts: Bokeh's, with its licence, and the one that puts charts in place of pictures."""
    from bokeh.resources import Resources

    environment = Environment(loader=PackageLoader("sb3_matrl.zoo.reporting"), autoescape=False)
    ours = environment.get_template("live_charts.js.j2").render(variables=json.dumps(VARIABLES))
    scripts = [*Resources(mode="inline", components=["bokeh"]).js_raw, ours]
    return Markup("\n".join(f"<script>\n{script}\n</script>" for script in scripts))


def live_chart(chart: Chart) -> Markup:
    """
    The content of a chart for Bokeh.

    :param chart: drawn chart
    :return: JSON that can stand in a script element; its colours are the names that the page replaces by those of its style
    """
    from bokeh.embed import json_item

    plot = _new_plot(chart)
    if chart.bars:
        _add_bars(plot, chart.bars)
    else:
        _add_curves(plot, chart.curves)
    # What a file of the user says, such as names of agents, must not end the element.
    return Markup(json.dumps(json_item(plot), separators=(",", ":")).replace("<", "\\u003c"))


def _new_plot(chart: Chart) -> figure:
    """An empty plot that looks as the picture does, with axes that fit what is shown."""
    from bokeh.models import BoxZoomTool, DataRange1d, NumeralTickFormatter, PanTool, ResetTool, WheelZoomTool
    from bokeh.plotting import figure

    zoom = BoxZoomTool()
    plot = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        x_range=DataRange1d(range_padding=0.0),
        y_range=_vertical_range(chart),
        tools=[zoom, WheelZoomTool(), PanTool(), ResetTool()],
        active_drag=zoom,
        active_scroll=None,
        toolbar_location="above",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=0,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.update(axis_label_text_color=SOFT, major_label_text_color=SOFT, axis_label_text_font_style="normal")
        axis.update(major_label_text_font_size=f"{FONT_SIZE}px", axis_label_text_font_size=f"{FONT_SIZE}px")
        axis.update(axis_line_color=None, major_tick_line_color=None, minor_tick_line_color=None)
    plot.xaxis[0].update(axis_label="steps", formatter=NumeralTickFormatter(format="0.[00]a"), axis_line_color=SOFT)
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color = RULE
    return plot


def _vertical_range(chart: Chart) -> Range1d | DataRange1d:
    """Range of the vertical axis: as in the picture, or, where that fits the curves, fitting those that are shown."""
    from bokeh.models import DataRange1d, Range1d

    if chart.bars:
        return Range1d(start=0.0, end=1.0)
    values = np.concatenate([edge for one in chart.curves for edge in (one.y, one.low, one.high) if edge is not None])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if chart.covers is not None:
        low, high = min(low, *chart.covers), max(high, *chart.covers)
        return Range1d(start=low - 0.03 * (high - low), end=high + 0.03 * (high - low))
    fitting = DataRange1d(only_visible=True)
    if low >= 0.0:
        # Space below zero would suggest that a quantity which has none could be negative.
        fitting.start = 0.0
    return fitting


def _add_curves(plot: figure, curves: tuple[Series, ...]) -> None:
    """Curves of all series, and their values under the pointer."""
    from bokeh.models import HoverTool

    widths = line_widths(curves)
    lines = [_add_curve(plot, one, i, widths[i]) for i, one in enumerate(curves)]
    read_off: list[DataRenderer] = [line for line, one in zip(lines, curves, strict=True) if not one.is_level]
    mode: Literal["mouse", "vline"] = "vline" if len(read_off) <= MAX_READ_OFF else "mouse"
    text = "$name, @x{0,0} steps: @y{%.4g}"
    plot.add_tools(HoverTool(renderers=read_off, mode=mode, tooltips=text, formatters={"@y": "printf"}))


def _add_curve(plot: figure, series: Series, index: int, width: float) -> GlyphRenderer[Any]:
    """Band and line, tagged with the index of their entry in the legend; a single value is a point."""
    from bokeh.models import ColumnDataSource

    shared: dict[str, Any] = {"color": PALETTE[series.colour], "name": series.label, "tags": [index]}
    if series.low is not None and series.high is not None:
        there = np.isfinite(series.low) & np.isfinite(series.high)
        columns = {name: _single(getattr(series, name)[there]) for name in ("x", "low", "high")}
        plot.varea("x", "low", "high", source=ColumnDataSource(columns), fill_alpha=0.16, **shared)
    source = ColumnDataSource({"x": _single(series.x), "y": _single(series.y)})
    if len(series.x) == 1:
        return plot.scatter("x", "y", source=source, size=8, **shared)
    return plot.line("x", "y", source=source, line_width=width, line_dash=_DASHES[series.dash], **shared)


def _add_bars(plot: figure, stacked: tuple[Bars, ...]) -> None:
    """Bars of all categories and their shares under the pointer."""
    from bokeh.models import ColumnDataSource, HoverTool

    for i, bars in enumerate(stacked):
        there = np.flatnonzero(bars.heights)
        columns = {"left": bars.edges[there], "right": bars.edges[there + 1], "share": bars.heights[there]}
        columns |= {"bottom": bars.bottoms[there], "top": bars.bottoms[there] + bars.heights[there]}
        source = ColumnDataSource({name: _single(column) for name, column in columns.items()})
        style: dict[str, Any] = {"color": PALETTE[bars.colour], "line_color": CARD, "line_width": 0.6, "tags": [i]}
        plot.quad("left", "right", "top", "bottom", source=source, name=bars.label, **style)
    plot.add_tools(HoverTool(tooltips="@left{0,0} to @right{0,0} steps: $name @share{0%}"))


def _single(values: np.ndarray) -> np.ndarray:
    """Values in single precision, which halves the page, unless they are whole numbers too large for it."""
    return values.astype(np.float64 if np.abs(values).max(initial=0.0) > _EXACT_SINGLE else np.float32)
