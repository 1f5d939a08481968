"""Results of a study: a record, a table and a picture, and the files they are written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.records import write_record

# Okabe and Ito's colours, which people with any common kind of colour blindness can tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#999999"

#: Names of the learners in tables and pictures.
LABELS = {
    "iga": "IGA",
    "iga-pp": "IGA-PP",
    "wolf-iga": "WoLF-IGA",
    "gd": "gradient descent",
    "extragradient": "extragradient",
    "optimistic": "optimistic gradient",
    "lookahead": "LookAhead",
    "lola": "LOLA",
    "sos": "SOS",
    "sga": "SGA",
    "consensus": "consensus",
    "matrl": "MATRL",
    "matrl-no-br": "MATRL w/o BR",
    "il-la": "IL-LA",
    "matrl-tr": "MATRL-TR",
}

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

    :param name: name of its files, without a suffix
    :param record: contents of the JSON file, beside the machine, versions and command
    :param table: Markdown
    :param figure: the picture
    :param summary: numbers for the summary of the Weights & Biases run
    """

    name: str
    record: Mapping[str, Any]
    table: str
    figure: Figure
    summary: Mapping[str, float]

    def write(self, folder: Path) -> list[Path]:
        """
        Write ``<name>.json``, ``<name>.png`` and ``<name>.svg``.

        :param folder: folder of the files; created if it does not exist
        :return: the three files
        :raises OSError: if they cannot be written
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
    :return: empty figure in the studies' style
    """
    with mpl.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """
    :param figure: figure to save
    :param path: path of the file; its suffix selects the format
    """
    date = {"Date": None} if path.suffix == ".svg" else {}
    with mpl.rc_context(STYLE), atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=200, metadata=date)
