"""Legends and names in Matplotlib's figures."""

from __future__ import annotations

from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text

ROOM = 0.6  # inches of a figure's height for its legend


def add_legend(figure: Figure, title: str | None = None, font_size: float | None = None) -> None:
    """
    Add one legend of all panels below them; a label that several panels have stands there once.

    The legend has as many columns as fit, and the figure grows by what a longer name or more than two lines need.

    :param figure: figure with a constrained layout
    :param title: title of the legend; ``None`` for none
    :param font_size: size of the labels in points; ``None`` for Matplotlib's
    """
    lines = (line for panel in figure.axes for line in panel.get_lines())
    # Matplotlib's own collection leaves out all labels that begin with an underscore, not only those that it gave.
    handles = {str(line.get_label()): line for line in lines if not str(line.get_label()).startswith("_child")}
    margin = 0.1 * figure.dpi
    look: dict[str, Any] = {"title": title, "fontsize": font_size, "loc": "outside lower center", "frameon": False}
    for columns in range(min(len(handles), 4), 0, -1):
        legend = figure.legend(list(handles.values()), list(handles), ncols=columns, **look)
        show_as_it_is(legend)
        extent = legend.get_window_extent()
        if extent.width + margin <= figure.bbox.width or columns == 1:
            figure.set_figwidth(max(figure.get_figwidth(), (extent.width + margin) / figure.dpi))
            figure.set_figheight(figure.get_figheight() + max(0.0, extent.height / figure.dpi - ROOM))
            return
        legend.remove()


def show_as_it_is(drawing: Artist) -> None:
    """
    Show names with dollar signs as they are, not as formulas.

    :param drawing: figure, or a part of it
    """
    for text in drawing.findobj(Text):
        text.set_parse_math(False)
