"""
Trained agents that come with the package, in the form of run folders without a log: ``enjoy.py --pretrained NAME``.

Imports what is heavy late, so that ``--help`` can list the names fast.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_matrl.utils.suggest import unknown

if TYPE_CHECKING:
    from sb3_matrl.zoo.common.run_folder import RunFolder

SHIPPED = Path(__file__).parents[1] / "trained_agents"
#: Name of the agents that play if no name is given.
FIRST = "checkers"


def shipped_names() -> list[str]:
    """:return: names of all trained agents that come with the package, sorted"""
    return sorted(path.parent.name for path in SHIPPED.glob("*/*/args.yml"))


def find_shipped(name: str) -> RunFolder:
    """
    Find trained agents that come with the package.

    :param name: one of :func:`shipped_names`
    :return: their run folder, whose ``last_model`` is the path of the model
    :raises FileNotFoundError: if there are none of that name; lists those that there are
    """
    from sb3_matrl.zoo.playing.players import open_run_folder

    names = shipped_names()
    if name not in names:
        what = unknown("pretrained agent", name, names)
        raise FileNotFoundError(what if names else "this installation has no trained agents at all: install it anew")
    (path,) = SHIPPED.glob(f"*/{name}")
    return open_run_folder(path)[0]


def card(name: str) -> str:
    """
    Describe trained agents that come with the package.

    :param name: one of :func:`shipped_names`
    :return: what they play, and their recorded results beside those of random play, in two or three lines
    """
    rows = json.loads((SHIPPED / "returns.json").read_text(encoding="utf-8"))["agents"]
    row = next(row for row in rows if row["name"] == name)
    return "\n".join([f"{name}, {row['algorithm']} on {row['env']}: {row['title']}", *_results(row)])


def _results(row: dict[str, Any]) -> list[str]:
    """Recorded results, one line each."""
    lines = []
    if row["chance"] is not None:
        best = "" if row["optimum"] is None else f", best possible {row['optimum']:.2f}"
        ours = f"{row['sampled']['mean']:.2f} sampled, {row['greedy']['mean']:.2f} greedy"
        lines.append(f"Recorded team return: {ours}; random play {row['chance']:.2f}{best}.")
    if row["nash_conv"] is not None:
        found = row["nash_conv"]
        lines.append(f"Exact NashConv: {found['trained']:.2f}; random play {found['chance']:.2f}, equilibrium 0.00.")
    return lines
