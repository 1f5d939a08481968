"""Budgets: YAML files with the options of every panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from benchmarks.paper import curve_panels, exact_panels, pong_panel, time_panel
from benchmarks.paper.sections import Panel
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.yaml_files import read_yaml

FOLDER = Path(__file__).parent / "budgets"
BUDGETS = ("small", "paper")
#: All panels, in the order of the page.
PANELS: dict[str, Panel] = {
    panel.name: panel for panel in (*exact_panels.PANELS, *curve_panels.PANELS, *pong_panel.PANELS, *time_panel.PANELS)
}


def read_budget(name: str) -> dict[str, Any]:
    """
    Read a budget.

    :param name: ``small``, ``paper``, or the path of a file of the same form
    :return: panel -> its options, in the order in which they are measured; panels that the file does not name are left out
    :raises ValueError: on an unknown panel or option, or a value of the wrong type
    :raises OSError: if the file cannot be read
    """
    path = FOLDER / f"{name}.yml" if name in BUDGETS else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"--budget {name}: {unknown('budget', name, BUDGETS)}, or the path of a file like {FOLDER}/small.yml"
        )
    content = read_yaml(path)
    for panel in content:
        if panel not in PANELS:
            raise ValueError(f"{path.name}: {unknown('panel', str(panel), PANELS)}")
    return {panel: _options(panel, values, path.name) for panel, values in content.items()}


def _options(panel: str, values: Any, where: str) -> Any:
    kind = PANELS[panel].options
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}, {panel}: expected a mapping of options, got {values!r}")
    known, types = {entry.name: entry for entry in fields(kind)}, get_type_hints(kind)
    for name in values:
        if name not in known:
            raise ValueError(f"{where}, {panel}: {unknown('option', str(name), known)}")
    missing = [name for name, entry in known.items() if entry.default is MISSING and name not in values]
    if missing:
        raise ValueError(f"{where}, {panel}: {', '.join(missing)} missing")
    return kind(**{name: _checked(value, types[name], f"{where}, {panel}, {name}") for name, value in values.items()})


def _checked(value: Any, kind: Any, where: str) -> Any:
    """The value, if it is of the kind: a positive number, text, or a list of positive whole numbers or of texts."""
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > 0:
            raise ValueError(f"{where}: expected a positive {'whole ' if kind is int else ''}number, got {value!r}")
        return kind(value)
    if kind is str:
        if not isinstance(value, str):
            raise ValueError(f"{where}: expected text, got {value!r}")
        return value
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list, got {value!r}")
    return tuple(_checked(one, kind.__args__[0], where) for one in value)
