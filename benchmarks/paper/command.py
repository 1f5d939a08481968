"""The command line: panels one after the other, each with its own JSON file, and the pages."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.budget_file import BUDGETS, PANELS, read_budget
from benchmarks.paper.pages import write_pages
from benchmarks.paper.sections import StoppedError, Task
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.benchmarking.run_statistics import require_rliable
from sb3_matrl.zoo.common.cli import positive_count, user_errors
from sb3_matrl.zoo.common.locking import locked_folder
from sb3_matrl.zoo.common.records import write_json, write_record
from sb3_matrl.zoo.common.signals import SignalWatch, exit_code

IN_USE = "is in use by another start of benchmarks.paper"
KEPT = "Finished panels, trainings and games are kept; give the same command again to continue"
RECORD, PANEL_RECORD = "paper.json", "panel.json"


def build_parser() -> argparse.ArgumentParser:
    """:return: parser of the flags"""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description="Every table and figure of the paper, resumable.", allow_abbrev=False
    )
    add = parser.add_argument
    budget = f"{' or '.join(BUDGETS)}, or a YAML file like those in benchmarks/paper/budgets; default: small"
    add("--budget", default="small", help=budget)
    add("--panels", nargs="+", type=_panel, metavar="PANEL", help="these panels only; default: all of the budget")
    add("--out", type=Path, help="folder of the results; default: logs/paper_<budget>")
    add("--jobs", type=positive_count, default=os.cpu_count() or 1, help="number of processes; default: one per core")
    add("--list", action="store_true", help="list the panels, what they take and what is finished, and end")
    return parser


def _panel(text: str) -> str:
    if text not in PANELS:
        raise argparse.ArgumentTypeError(unknown("panel", text, PANELS))
    return text


@dataclass(frozen=True)
class Plan:
    """
    What is measured.

    :param budget: name of the budget
    :param panels: panel -> its options, of all panels that the pages show
    :param chosen: panels that are measured now
    :param out: folder of the results
    :param jobs: number of processes
    """

    budget: str
    panels: Mapping[str, Any]
    chosen: Sequence[str]
    out: Path
    jobs: int

    def folder(self, panel: str) -> Path:
        """Folder of a panel's files."""
        return self.out / panel

    def record(self, panel: str) -> dict[str, Any] | None:
        """
        Record of a finished panel; ``None`` if it is not finished.

        :param panel: name of the panel
        :raises ValueError: if it was measured with other options
        """
        path = self.folder(panel) / PANEL_RECORD
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(_measured_options(self.panels[panel])))
        if record["options"] != wanted:
            changes = [f"{name} was {record['options'].get(name)}, now {wanted[name]}" for name in wanted]
            differing = [
                text for name, text in zip(wanted, changes, strict=True) if record["options"].get(name) != wanted[name]
            ]
            raise ValueError(f"{path} has other options ({', '.join(differing)}): choose another --out, or remove the folder")
        return record


def _measured_options(options: Any) -> dict[str, Any]:
    """Options that change what is measured."""
    return {name: value for name, value in asdict(options).items() if name != "minutes"}


def plan(given: argparse.Namespace) -> Plan:
    """
    :param given: flags
    :raises ValueError: on a wrong budget, a panel that it does not have, or results of another budget in the folder
    """
    panels = read_budget(given.budget)
    chosen = list(panels) if given.panels is None else [panel for panel in panels if panel in given.panels]
    for panel in given.panels or ():
        if panel not in panels:
            raise ValueError(f"--panels: budget {given.budget} has no panel {panel}")
    out = given.out or Path("logs") / f"paper_{Path(given.budget).stem}"
    found = Plan(given.budget, panels, chosen, out, given.jobs)
    for panel in panels:
        found.record(panel)
    return found


class Clock:
    """
    Estimate of the time that is left, from what panels take by the budget and what the finished ones took in this process.

    :param plan: what is measured
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start = time.monotonic()
        self._done = 0.0

    def line(self, number: int, panel: str, left: Sequence[str]) -> str:
        """
        :param number: number of the panel among those that are measured
        :param panel: name of the panel
        :param left: panels that are not finished, this one included
        :return: progress in words
        """
        minutes = (time.monotonic() - self._start) / 60.0
        # Before anything is finished, the budget's minutes are taken as they are.
        pace = minutes / self._done if self._done else 1.0
        rest = pace * sum(self._plan.panels[name].minutes for name in left)
        title = PANELS[panel].title
        return f"panel {number} of {len(self._plan.chosen)}, {title}; {minutes:.0f} min so far, about {rest:.0f} min left"

    def finished(self, panel: str) -> None:
        """
        :param panel: name of a panel that was measured
        """
        self._done += self._plan.panels[panel].minutes


def measure(plan: Plan) -> None:
    """
    Measure the panels that are not finished.

    :param plan: what is measured
    :raises StoppedError: if a panel ends with an error
    :raises KeyboardInterrupt: after Ctrl-C or SIGTERM
    """
    left = [panel for panel in plan.chosen if plan.record(panel) is None]
    clock = Clock(plan)
    for panel in list(left):
        print(clock.line(plan.chosen.index(panel) + 1, panel, left), file=sys.stderr)
        _measure(plan, panel)
        clock.finished(panel)
        left.remove(panel)
        write_results(plan)


def _measure(plan: Plan, panel: str) -> None:
    """Measure one panel, and write its record."""
    folder, options = plan.folder(panel), plan.panels[panel]
    folder.mkdir(parents=True, exist_ok=True)
    time_file = folder / "seconds.json"  # of earlier starts of this panel
    earlier = json.loads(time_file.read_text(encoding="utf-8"))["seconds"] if time_file.is_file() else 0.0
    start = time.monotonic()
    try:
        record = PANELS[panel].measure(Task(options, folder, plan.jobs))
    finally:
        seconds = earlier + time.monotonic() - start
        write_json(time_file, {"seconds": seconds})
    content = {"options": _measured_options(options), "jobs": plan.jobs, "seconds": round(seconds, 1), **record}
    write_json(folder / PANEL_RECORD, content)


def write_results(plan: Plan) -> None:
    """
    Write the record of all finished panels and the pages.

    :param plan: what is measured
    """
    wanted = [panel for panel in PANELS if panel in plan.panels]
    records = {panel: record for panel in wanted if (record := plan.record(panel)) is not None}
    content = {"budget": plan.budget, "panels": records, "left": [panel for panel in wanted if panel not in records]}
    write_record(plan.out / RECORD, content)
    write_pages(plan.out, json.loads((plan.out / RECORD).read_text(encoding="utf-8")))


def list_panels(plan: Plan) -> None:
    """Print the panels, about how long they take, and which are finished."""
    for panel in plan.chosen:
        record = plan.record(panel)
        state = "left" if record is None else f"finished in {record['seconds'] / 60.0:.1f} min"
        print(f"{panel:12}{PANELS[panel].title:58}about {plan.panels[panel].minutes:g} min; {state}")


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code: 0; 1 if a panel failed; 130 or 143 if a signal ended it
    :raises SystemExit: with code 2 on a mistake of the user
    """
    parser = build_parser()
    given = parser.parse_args() if arguments is None else parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ExitStack() as stack:
        with user_errors():
            require_rliable()
            found = plan(given)
            if given.list:
                list_panels(found)
                return 0
            stack.enter_context(locked_folder(found.out, IN_USE))
        try:
            with SignalWatch() as watch, watch.at_once():
                measure(found)
                write_results(found)
        except KeyboardInterrupt as error:
            print(f"interrupted. {KEPT}", file=sys.stderr)
            return exit_code(error)
        except StoppedError as error:
            print(KEPT, file=sys.stderr)
            return error.code
    print(f"Everything is in {found.out}: paper.html, paper.md, {RECORD}, images/paper/.")
    return 0
