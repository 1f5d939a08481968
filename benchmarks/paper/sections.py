"""Content of the page: sections with text, tables, curves, pictures and claims, for both Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.paper.claims import Claim


@dataclass(frozen=True)
class Table:
    """
    :param header: names of the columns
    :param rows: cells
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Curves:
    """
    Curves over environment steps.

    :param title: title of the chart
    :param curves: method -> ``steps``, ``values``, ``low`` and ``high``; the ends are ``None`` where there is no interval
    """

    title: str
    curves: Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class Picture:
    """
    :param name: name of the PNG file
    :param text: content in words
    """

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """
    Results of one panel.

    :param text: paragraphs before the tables
    :param tables: tables
    :param curves: curves, which the HTML page draws itself; Markdown has the picture of them
    :param pictures: pictures
    :param notes: lines below
    :param claims: claims of the paper
    """

    text: Sequence[str]
    tables: Sequence[Table] = ()
    curves: Sequence[Curves] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    claims: Sequence[Claim] = ()


@dataclass(frozen=True)
class Task:
    """
    What a panel is measured with.

    :param options: options of the panel in the budget
    :param folder: folder for its files; pictures in it are named as the section names them
    :param jobs: number of processes
    """

    options: Any
    folder: Path
    jobs: int


@dataclass(frozen=True)
class Panel:
    """
    A table or figure of the paper.

    :param name: name on the command line
    :param title: what it shows
    :param options: class of its options in a budget
    :param measure: function that measures it and returns its record, in JSON's or NumPy's types
    :param section: function of that record to its section
    """

    name: str
    title: str
    options: type[Any]
    measure: Callable[[Task], dict[str, Any]]
    section: Callable[[Mapping[str, Any]], Section]


class StoppedError(Exception):
    """
    A command did not finish.

    :param code: its exit code
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"ended with exit code {code}")
        self.code = code


@dataclass(frozen=True)
class PanelOptions:
    """
    Options that all panels have.

    :param minutes: about how long it takes on one core, for the estimate of the time that is left
    """

    minutes: float = field(kw_only=True)
