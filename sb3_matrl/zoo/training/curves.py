"""Learning curves, as text and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.utils.atomic_file import atomic_file

MARKS = {"sampled": "*", "greedy": "o"}


def ascii_curve(
    steps: Sequence[int], sampled: Sequence[float], greedy: Sequence[float], width: int = 64, height: int = 12
) -> str:
    """
    Draw two curves over the same steps with characters; the sampled one is on top.

    :param steps: steps of the evaluations, ascending, at least one
    :param sampled: mean return of the sampled policy at each step
    :param greedy: mean return of the greedy policy at each step
    :param width: columns of the plot, without the axis
    :param height: rows of the plot
    :return: lines of text without a final newline
    """
    low, high = float(min(*sampled, *greedy)), float(max(*sampled, *greedy))
    grid = np.full((height, width), " ")
    span_x, span_y = max(steps[-1] - steps[0], 1), (high - low) or 1.0
    for mark, values in ((MARKS["greedy"], greedy), (MARKS["sampled"], sampled)):
        for step, value in zip(steps, values, strict=True):
            row = round((high - value) / span_y * (height - 1))
            grid[row, round((step - steps[0]) / span_x * (width - 1))] = mark
    labels = [""] * height
    labels[-1], labels[0] = f"{low:.2f}", f"{high:.2f}"
    lines = [f"{label:>10} |{''.join(row)}" for label, row in zip(labels, grid, strict=True)]
    lines.append(" " * 11 + "+" + "-" * width)
    lines.append(" " * 12 + f"{steps[0]:<{width - len(str(steps[-1]))}}{steps[-1]}")
    lines.append(" " * 12 + "team return over steps: " + ", ".join(f"{mark} {name}" for name, mark in MARKS.items()))
    return "\n".join(lines)


def draw_curve(
    path: Path, title: str, steps: Sequence[int], sampled: Sequence[EvaluationResult], greedy: Sequence[EvaluationResult]
) -> None:
    """
    Save the learning curve as a picture: mean team returns with 95 % intervals over the episodes.

    :param path: path of the file; its suffix is the format
    :param title: title of the plot
    :param steps: steps of the evaluations
    :param sampled: results of the sampled policy
    :param greedy: results of the greedy policy
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, results in (("sampled", sampled), ("greedy", greedy)):
        intervals = np.array([result.confidence_interval() for result in results])
        axes.plot(steps, [result.mean for result in results], marker=".", label=label)
        axes.fill_between(steps, intervals[:, 0], intervals[:, 1], alpha=0.2)
    axes.set(title=title, xlabel="steps", ylabel="team return")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix[1:])
