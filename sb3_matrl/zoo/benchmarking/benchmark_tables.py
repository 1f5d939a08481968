"""Tables of a benchmark: on the screen, as Markdown, as CSV, and as flat rows for JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sb3_matrl.zoo.benchmarking.comparison import Row
from sb3_matrl.zoo.benchmarking.run_results import SCORES
from sb3_matrl.zoo.common.text_tables import cell

FILE_WIDTH = 160
EXPLANATION = (
    "Team return of the last evaluation: mean and interquartile mean (IQM) over seeds, and P, the probability that a run is "
    "better than one of {reference}; each with its 95 % interval by stratified bootstrap over seeds. Steps are those of one "
    "run; gradient steps are per agent."
)


def flat_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """
    One mapping per row, e.g. ``sampled_iqm``, ``sampled_iqm_low``, ``sampled_iqm_high``.

    :param rows: rows of the table
    """
    return [_flat(row) for row in rows]


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"env": row.env, "setting": row.setting, "seeds": row.n_seeds}
    flat |= {"env_steps": row.env_steps, "gradient_steps": row.gradient_steps, "seconds": round(row.seconds, 1)}
    for policy, summary in row.policies.items():
        for name in ("mean", "iqm", "improvement"):
            estimate = getattr(summary, name)
            for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high")):
                flat[f"{policy}_{name}{suffix}"] = None if estimate is None else getattr(estimate, end)
    return flat


def csv_text(rows: Sequence[Row]) -> str:
    """
    :param rows: rows of the table, at least one
    :return: CSV text with the keys of :func:`flat_rows` as header
    """
    flat, text = flat_rows(rows), io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _header(reference: str) -> list[str]:
    columns = [f"{policy} {name}" for policy in SCORES for name in ("mean", "IQM", f"P(> {reference})")]
    return ["setting", "seeds", "env steps", "gradient steps", *columns]


def _words(row: Row) -> list[str]:
    words = [row.setting, str(row.n_seeds), f"{row.env_steps:,}", f"{row.gradient_steps:,}"]
    for summary in row.policies.values():
        words += [str(summary.mean), str(summary.iqm), str(summary.improvement or "")]
    return words


def _by_env(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {env: [row for row in rows if row.env == env] for env in dict.fromkeys(row.env for row in rows)}


def markdown(rows: Sequence[Row], reference: str, notes: Sequence[str]) -> str:
    """
    One table per environment.

    :param rows: rows of the tables
    :param reference: name of the setting that the others are compared with
    :param notes: lines below the tables
    """
    header = _header(reference)
    parts = [EXPLANATION.format(reference=reference)]
    for env, group in _by_env(rows).items():
        lines = [header, ["---"] * len(header), *map(_words, group)]
        parts.append(f"## {env}\n\n" + "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def print_tables(rows: Sequence[Row], reference: str, notes: Sequence[str]) -> None:
    """Print the tables of :func:`markdown`, with intervals below their values."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # rich assumes 80 columns
        console.width = FILE_WIDTH
    for env, group in _by_env(rows).items():
        console.print(_screen_table(env, group, reference))
    for line in (EXPLANATION.format(reference=reference), *notes):
        console.print(line, soft_wrap=True)


def _screen_table(env: str, rows: Sequence[Row], reference: str) -> Table:
    table = Table(title=env, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(_header(reference)):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(word.replace(" [", "\n[") for word in _words(row)))
    return table
