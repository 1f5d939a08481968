"""Files of a finished benchmark: tables, learning curves, data for marl-eval, and a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.benchmarking.benchmark_folder import BenchmarkFolder
from sb3_matrl.zoo.benchmarking.benchmark_tables import csv_text, flat_rows, markdown, print_tables
from sb3_matrl.zoo.benchmarking.comparison import (
    ALL_ENVS,
    Bounds,
    Cells,
    Row,
    compare,
    compare_normalised,
    equal_returns,
    exploration_notes,
    few_seeds,
    group,
    score_bounds,
    warnings,
)
from sb3_matrl.zoo.benchmarking.figure import draw_curves
from sb3_matrl.zoo.benchmarking.marl_eval import marl_eval_data
from sb3_matrl.zoo.benchmarking.plan import BenchmarkOptions
from sb3_matrl.zoo.benchmarking.run_results import SCORES, RunResult
from sb3_matrl.zoo.common.records import write_json, write_record


def write_report(
    options: BenchmarkOptions, results: Sequence[RunResult], reference: str, bounds: Mapping[str, tuple[float, float]] | None
) -> None:
    """
    Write tables, curves and records into the benchmark's folder, and print the tables.

    :param options: options of the benchmark
    :param results: results of the finished runs, at least one
    :param reference: name of the setting that the others are compared with
    :param bounds: environment -> low and high, for some environments; ``None`` for no table of normalised scores
    :raises OSError: if a file cannot be written
    """
    folder, cells = BenchmarkFolder(Path(options.out)), group(results)
    rows = compare(cells, reference)
    notes = comparison_notes(cells, options) + equal_returns(cells) + few_seeds(len(options.seeds))
    if bounds is not None:
        used = score_bounds(cells, options, bounds)
        rows += compare_normalised(cells, used, reference)
        notes.append(
            f"{ALL_ENVS}: scores are normalised, 0 to 1 is " + ", ".join(_describe(env, b) for env, b in used.items())
        )
    files = _write_files(options, cells, reference, rows, notes)
    print_tables(rows, reference, notes)
    print(f"Everything is in {folder.path}: {', '.join(file.name for file in files)}.")


def comparison_notes(cells: Cells, options: BenchmarkOptions) -> list[str]:
    """
    What is to be said about a comparison: missing runs, budgets that differ, actions that explore.

    :param cells: finished runs
    :param options: options of the benchmark
    :return: one line for each
    """
    return warnings(cells, options) + exploration_notes(cells)


def write_task_files(options: BenchmarkOptions, results: Sequence[RunResult], reference: str) -> list[str]:
    """
    Write tables, curves and records of one task of a suite, and print nothing.

    :param options: options of the task's benchmark
    :param results: results of the finished runs, at least one
    :param reference: name of the setting that the others are compared with
    :return: notes about the comparison
    :raises OSError: if a file cannot be written
    """
    cells = group(results)
    notes = comparison_notes(cells, options)
    _write_files(options, cells, reference, compare(cells, reference), notes)
    return notes


def _write_files(
    options: BenchmarkOptions, cells: Cells, reference: str, rows: Sequence[Row], notes: Sequence[str]
) -> list[Path]:
    folder, results = BenchmarkFolder(Path(options.out)), [result for cell in cells.values() for result in cell.results]
    write_json(folder.results, marl_eval_data(results))
    record = {"options": asdict(options), "reference": reference, "table": flat_rows(rows), "notes": notes}
    write_record(folder.record, {**record, "runs": [_run_record(result) for result in results]})
    _write_text(folder.table, markdown(rows, reference, notes))
    _write_text(folder.csv, csv_text(rows))
    draw_curves(folder.curves, cells, len(options.seeds))
    return [folder.table, folder.csv, *folder.curves, folder.results, folder.record]


def _describe(env: str, bounds: Bounds) -> str:
    origin = "as given" if bounds.given else "chance and the best run"
    return f"{bounds.low:.2f} to {bounds.high:.2f} in {env} ({origin})"


def _run_record(result: RunResult) -> dict[str, Any]:
    return {
        "env": result.run.env,
        "setting": result.run.setting,
        "seed": result.run.seed,
        "hyperparameters": result.run.hyperparameters.as_mapping(),
        "env_steps": result.env_steps,
        "gradient_steps": result.gradient_steps,
        "timesteps": result.timesteps.tolist(),
        "returns": {policy: result.curve(policy).tolist() for policy in SCORES},
        "seconds": result.total_seconds,
        "machine": result.machine,
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())
