"""Text tables: returns of evaluations, and Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_matrl.evaluation import EvaluationResult, mean_confidence_interval
from sb3_matrl.evaluation.evaluate import structure_of
from sb3_matrl.utils.reward_structure import RewardStructure


def returns_table(results: Mapping[str, EvaluationResult], most_agents: int | None = None) -> str:
    """
    Returns per kind of policy: mean, standard deviation, 95 % interval of the mean, length, episodes.

    The team has a line, and every agent where the agents' returns differ. Where they have a constant sum, the team's line is
    left out, and two columns are added: the share of the episodes that an agent won, and its mean lead over the others.

    :param results: name of the policy -> its episodes
    :param most_agents: number of agents from which the lines of the agents are left out, if the team has one
    :return: lines of text without a final newline
    """
    structure = structure_of(results.values())
    rows = [row for policy, result in results.items() for row in _returns(policy, result, structure, most_agents)]
    competes = structure == "constant-sum"
    width = max([14, *(len(row.who) + 2 for row in rows)])
    contest = f"{'won':>7}{'margin':>9}" if competes else ""
    numbers = f"{'mean':>9}{'std':>9}  {'95 % interval':<20}{contest}{'length':>8}{'episodes':>10}"
    head = f"{'policy':<10}{'return of':<{width}}{numbers}"
    return "\n".join([head, *(row.line(width, competes) for row in rows)])


@dataclass(frozen=True)
class _Row:
    """Returns of the team or of an agent with one kind of policy."""

    policy: str
    who: str
    returns: np.ndarray
    result: EvaluationResult

    def line(self, width: int, competes: bool) -> str:
        """
        :param width: width of the column of names
        :param competes: whether there are columns of win rates and margins
        """
        contest = f"{self.result.win_rates[self.who]:>7.0%}{self.result.score_margins[self.who]:>9.2f}" if competes else ""
        return (
            f"{self.policy:<10}{self.who:<{width}}{self.returns.mean():>9.2f}{self.returns.std():>9.2f}  "
            f"{_interval(self.returns):<20}{contest}{self.result.mean_length:>8.1f}{self.result.n_episodes:>10}"
        )


def _returns(policy: str, result: EvaluationResult, structure: RewardStructure, most_agents: int | None) -> list[_Row]:
    """Rows of one kind of policy."""
    team = [] if structure == "constant-sum" else [_Row(policy, "team", result.returns, result)]
    if structure == "common" or (team and most_agents is not None and len(result.agents) > most_agents):
        return team
    return team + [_Row(policy, agent, result.agent_returns[:, i], result) for i, agent in enumerate(result.agents)]


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
    header, rows = [cell(text) for text in header], [[cell(text) for text in row] for row in rows]
    widths = [max(len(line[k]) for line in [header, *rows]) for k in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(header, widths), "| " + " | ".join(rule) + " |", *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text of a cell of a Markdown table, which must not end the cell."""
    return " ".join(text.split()).replace("|", r"\|")


def as_markdown(text: str) -> str:
    """Markdown that shows a text as it is, without emphasis, code, links and HTML; :func:`cell` does the rest in a table."""
    return re.sub(r"[\\`*<&~\[\]$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
    return "| " + " | ".join(padded) + " |"
