"""Text tables: returns of evaluations, and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sb3_matrl.evaluation import EvaluationResult, mean_confidence_interval


def returns_table(results: Mapping[str, EvaluationResult], per_agent: bool = False) -> str:
    """
    One line per kind of policy (and agent): mean, standard deviation, 95 % interval of the mean, length, episodes.

    :param results: name of the policy -> its episodes
    :param per_agent: add a line for each agent below the line of the team
    :return: lines of text without a final newline
    """
    width = max([14, *(len(agent) + 2 for result in results.values() for agent in result.agents if per_agent)])
    lines = [f"{'policy':<10}{'return of':<{width}}{'mean':>9}{'std':>9}  {'95 % interval':<20}{'length':>8}{'episodes':>10}"]
    for policy, result in results.items():
        columns = {"team": result.returns}
        if per_agent:
            columns |= {agent: result.agent_returns[:, i] for i, agent in enumerate(result.agents)}
        for name, returns in columns.items():
            lines.append(
                f"{policy:<10}{name:<{width}}{returns.mean():>9.2f}{returns.std():>9.2f}  {_interval(returns):<20}"
                f"{result.mean_length:>8.1f}{result.n_episodes:>10}"
            )
    return "\n".join(lines)


def _interval(returns: np.ndarray) -> str:
    """Text of the 95 % interval; a single episode has none."""
    low, high = mean_confidence_interval(returns)
    return "-" if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    A Markdown table that is aligned as plain text, too: the first column to the left, the others to the right.

    :param header: names of the columns
    :param rows: cells of the rows
    :return: Markdown without a final newline
    """
    widths = [max(len(line[k]) for line in [header, *rows]) for k in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(header, widths), "| " + " | ".join(rule) + " |", *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
    return "| " + " | ".join(padded) + " |"
