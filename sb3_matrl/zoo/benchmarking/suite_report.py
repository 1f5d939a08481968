"""Report of a suite: one table over all tasks, on the screen, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.benchmarking.artifacts import write_task_files
from sb3_matrl.zoo.benchmarking.comparison import few_seeds
from sb3_matrl.zoo.benchmarking.run_results import RunResult, read_result
from sb3_matrl.zoo.benchmarking.run_statistics import MIN_SEEDS_FOR_INTERVALS
from sb3_matrl.zoo.benchmarking.suite_file import RETURN, SuiteTask
from sb3_matrl.zoo.benchmarking.suite_plan import PlannedTask, SuiteOptions
from sb3_matrl.zoo.benchmarking.suite_scores import BETTER, COLUMNS, EVEN, WORSE, MethodRow, compare_methods, count_verdicts
from sb3_matrl.zoo.common.records import write_record
from sb3_matrl.zoo.common.text_tables import markdown

EXPLANATION = (
    "Interquartile means over seeds, and P, the probability that a run is better than one of the reference; each with its "
    f"95 % interval by stratified bootstrap over seeds, from {MIN_SEEDS_FOR_INTERVALS} seeds on. A method is better if P is "
    "above 0.75 and its interval above 0.5, and worse if the interval is below 0.5. Welfare: 0 is uniform play, 1 the best "
    "joint action, exact, mean over the training. NashConv: exact, last quarter of the training; less is better. Gradient "
    "steps are per agent."
)


def write_suite_report(
    suite: str, planned: Sequence[PlannedTask], options: SuiteOptions, skipped: Sequence[SuiteTask]
) -> None:
    """
    Write and print the suite's table, and the files of every task into its own folder.

    :param suite: name of the suite
    :param planned: tasks with their runs, finished or not
    :param options: options of the suite
    :param skipped: tasks whose packages are not installed
    :raises OSError: if a file cannot be written
    """
    rows: dict[str, list[MethodRow]] = {}
    notes = [f"{task.name} is left out: it needs the package {task.needs}" for task in skipped]
    for one in planned:
        results = [read_result(run) for run in one.runs if run.result.exists()]
        if results:
            notes += _task_notes(one, results)
            rows[one.task.name] = compare_methods(one.task, results)
    if not rows:
        return
    notes += few_seeds(len(options.seeds))
    tasks = {one.task.name: one.task for one in planned}
    text, out, records = suite_text(tasks, rows, notes), Path(options.out), task_records(tasks, rows)
    record = {"suite": suite, "options": asdict(options), "tasks": records, "notes": notes}
    write_record(out / "suite.json", record)
    for name, content in (("suite.md", text), ("suite.csv", csv_text(records))):
        with atomic_file(out / name) as file:
            file.write(content.encode())
    print(text)
    print(f"Everything is in {out}: suite.md, suite.csv, suite.json, and a folder for each task.")


def _task_notes(one: PlannedTask, results: Sequence[RunResult]) -> list[str]:
    """Write the files of a task, and return what is to be said about its runs."""
    notes = write_task_files(one.options, results, one.task.reference)
    if one.task.conf_file is None:
        notes.append("settings were not tuned for this task")
    name, warning = one.task.name, "warning: "
    return [f"{warning if warning in note else ''}{name}: {note.removeprefix(warning)}" for note in notes]


def suite_text(tasks: Mapping[str, SuiteTask], rows: Mapping[str, Sequence[MethodRow]], notes: Sequence[str]) -> str:
    """
    The report as Markdown.

    :param tasks: name -> task
    :param rows: name of a task -> its rows
    :param notes: lines below the tables
    """
    parts = [EXPLANATION, *(_task_table(tasks[name], there) for name, there in rows.items())]
    counts = count_verdicts([row for there in rows.values() for row in there])
    if counts:
        lines = [[method, *(str(count[kind]) for kind in (BETTER, EVEN, WORSE))] for method, count in counts.items()]
        parts.append("## Tasks by outcome\n\n" + markdown(["method", BETTER, EVEN, WORSE], lines))
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _task_table(task: SuiteTask, rows: Sequence[MethodRow]) -> str:
    names = [*COLUMNS[task.score], f"P(better than {task.reference})"]
    lines = [
        [
            *(row.method, str(len(row.scores)), f"{row.env_steps:,}", f"{row.gradient_steps:,}"),
            *(str(row.score), str(row.other), "" if row.improvement is None else str(row.improvement)),
        ]
        for row in rows
    ]
    known = {"best": task.best, "uniform play": task.chance if task.score == RETURN or task.best is not None else None}
    ends = ", ".join(f"{name} {value:g}" for name, value in known.items() if value is not None)
    title = f"## {task.name}\n\n{task.title}" + (f" (team return: {ends})" if ends else "")
    return f"{title}\n\n{markdown(['method', 'seeds', 'env steps', 'gradient steps', *names], lines)}"


def task_records(tasks: Mapping[str, SuiteTask], rows: Mapping[str, Sequence[MethodRow]]) -> list[dict[str, Any]]:
    """
    What the record says of every task: the task itself, whether its settings were tuned, and its rows.

    :param tasks: name -> task
    :param rows: name of a task -> its rows
    """
    return [
        {**asdict(tasks[name]), "tuned": tasks[name].conf_file is not None, "rows": [_flat(row) for row in there]}
        for name, there in rows.items()
    ]


def _flat(row: MethodRow) -> dict[str, Any]:
    flat: dict[str, Any] = {"method": row.method, "seeds": len(row.scores), "verdict": row.verdict}
    flat |= {"env_steps": row.env_steps, "gradient_steps": row.gradient_steps, "seconds": round(row.seconds, 1)}
    for name in ("score", "other", "improvement"):
        estimate = getattr(row, name)
        for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high")):
            flat[f"{name}{suffix}"] = None if estimate is None else getattr(estimate, end)
    return flat | {"scores": row.scores.tolist(), "others": row.others.tolist()}


def csv_text(tasks: Sequence[Mapping[str, Any]]) -> str:
    """
    All rows as CSV, without the scores of single runs.

    :param tasks: tasks of the record, at least one
    """
    flat = [
        {"task": task["name"], "measure": task["score"]} | {k: v for k, v in row.items() if k not in ("scores", "others")}
        for task in tasks
        for row in task["rows"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
