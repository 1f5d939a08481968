"""What every study hands over, and how it is written: a record, a table, a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.records import write_record

# Okabe and Ito's colours, which all common kinds of colour blindness tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"

STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # The same picture gives the same file.
    "svg.hashsalt": "sb3-matrl",
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """
    The results of a study.

    :param name: of its files
    :param record: what the JSON file says beside the machine, versions and command
    :param table: Markdown
    :param figure: the picture
    :param summary: the numbers that Weights & Biases shows beside the run
    """

    name: str
    record: Mapping[str, Any]
    table: str
    figure: Figure
    summary: Mapping[str, float]

    def write(self, folder: Path) -> list[Path]:
        """
        Write ``<name>.json``, ``<name>.png`` and ``<name>.svg``.

        :param folder: is made if need be
        :return: the three files
        :raises OSError: when they cannot be written
        """
        paths = [folder / f"{self.name}.{suffix}" for suffix in ("json", "png", "svg")]
        write_record(paths[0], self.record)
        for path in paths[1:]:
            save_figure(self.figure, path)
        return paths


def new_figure(width: float, height: float) -> Figure:
    """
    :param width: inches
    :param height: inches
    :return: an empty figure in the studies' style
    """
    with mpl.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """
    :param figure: to save
    :param path: of the file; its suffix says in which format
    """
    date = {"Date": None} if path.suffix == ".svg" else {}
    with mpl.rc_context(STYLE), atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=200, metadata=date)
