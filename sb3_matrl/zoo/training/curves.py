"""Learning curves, as text and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.evaluation.evaluate import structure_of
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.figure_text import add_legend, show_as_it_is

MARKS = "*o+x#@%&"


@dataclass(frozen=True)
class LearningCurve:
    """
    Evaluations of one training.

    :param steps: training steps before each evaluation, ascending, at least one
    :param sampled: results of the sampled policies
    :param greedy: results of the greedy policies
    :param levels: name -> team return for comparison, such as that of random actions
    """

    steps: Sequence[int]
    sampled: Sequence[EvaluationResult]
    greedy: Sequence[EvaluationResult]
    levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def competes(self) -> bool:
        """Whether the agents' returns have a constant sum: then their own returns are drawn, not that of the team."""
        return structure_of([*self.sampled, *self.greedy]) == "constant-sum"

    @property
    def best_steps(self) -> int:
        """Training steps before the best evaluation of the sampled policies, the latest of equally good ones."""
        if self.competes:  # the team returns differ by rounding alone
            return max(self.steps)
        means = [one.mean for one in self.sampled]
        return max(step for step, mean in zip(self.steps, means, strict=True) if mean == max(means))

    def text(self, width: int = 64, height: int = 12) -> str:
        """
        Draw team returns, or those of at most as many agents as there are :data:`MARKS`, with characters.

        :param width: columns of the plot, without the axis
        :param height: rows of the plot
        :return: lines of text without a final newline
        """
        if not self.competes:
            team = {name: [one.mean for one in results] for name, results in self._kinds.items()}
            return text_plot(self.steps, team, "team return", self.levels, width, height)
        agents = {agent: [one.agent_means[agent] for one in self.sampled] for agent in self.sampled[0].agents[: len(MARKS)]}
        return text_plot(self.steps, agents, "sampled return", {}, width, height)

    def draw(self, path: Path, title: str) -> None:
        """
        Save a picture: team returns with 95 % intervals over the episodes, and the levels; or the agents' returns.

        :param path: path of the file; its suffix is the format
        :param title: title of the plot
        """
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        if self.competes:
            self._draw_agents(axes)
        else:
            self._draw_team(axes)
        axes.set(title=title, xlabel="steps", ylabel="return" if self.competes else "team return")
        axes.grid(alpha=0.3)
        if self.competes:
            add_legend(figure)
        else:
            axes.legend()
        show_as_it_is(figure)
        with atomic_file(path) as file:
            figure.savefig(file, dpi=120, format=path.suffix[1:])

    @property
    def _kinds(self) -> dict[str, Sequence[EvaluationResult]]:
        return {"sampled": self.sampled, "greedy": self.greedy}

    def _draw_team(self, axes: Axes) -> None:
        for label, results in self._kinds.items():
            intervals = np.array([result.confidence_interval() for result in results])
            axes.plot(self.steps, [result.mean for result in results], marker=".", label=label)
            axes.fill_between(self.steps, intervals[:, 0], intervals[:, 1], alpha=0.2)
        for style, (name, level) in zip((":", "--", "-."), self.levels.items(), strict=False):
            axes.axhline(level, linestyle=style, color="grey", linewidth=1, label=f"{name}, {level:.2f}")

    def _draw_agents(self, axes: Axes) -> None:
        """Returns of the agents; of more than there are :data:`MARKS`, their mean with a band of all of them."""
        agents = self.sampled[0].agents
        for k, (kind, results) in enumerate(self._kinds.items()):
            means, style = np.array([one.agent_returns.mean(axis=0) for one in results]), ("-", "--")[k]
            if len(agents) > len(MARKS):
                label = f"mean of {len(agents)} agents, {kind}"
                axes.plot(self.steps, means.mean(axis=1), linestyle=style, marker=".", label=label)
                axes.fill_between(self.steps, means.min(axis=1), means.max(axis=1), alpha=0.2)
                continue
            for i, agent in enumerate(agents):
                axes.plot(self.steps, means[:, i], linestyle=style, color=f"C{i}", marker=".", label=f"{agent}, {kind}")


def text_plot(
    steps: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    what: str,
    levels: Mapping[str, float],
    width: int = 64,
    height: int = 12,
) -> str:
    """
    Draw curves over the same steps with characters.

    :param steps: steps of the values, ascending, at least one
    :param curves: name -> values; at most as many as there are :data:`MARKS`, the first one on top
    :param what: what the values are
    :param levels: name -> value of a horizontal line below the curves
    :param width: columns of the plot, without the axis
    :param height: rows of the plot
    :return: lines of text without a final newline
    """
    drawn = [value for values in curves.values() for value in values] + list(levels.values())
    low, high = min(drawn), max(drawn)
    span_x, span_y = max(steps[-1] - steps[0], 1), (high - low) or 1.0
    rows = {name: round((high - level) / span_y * (height - 1)) for name, level in levels.items()}
    grid = np.full((height, width), " ")
    for row in rows.values():
        grid[row] = "-"
    for mark, values in reversed(list(zip(MARKS, curves.values(), strict=False))):
        for step, value in zip(steps, values, strict=True):
            row = round((high - value) / span_y * (height - 1))
            grid[row, round((step - steps[0]) / span_x * (width - 1))] = mark
    labels = [""] * height
    labels[-1], labels[0] = f"{low:.2f}", f"{high:.2f}"
    ends = [" " + ", ".join(name for name in rows if rows[name] == row) for row in range(height)]
    lines = [f"{label:>10} |{''.join(row)}{end}".rstrip() for label, row, end in zip(labels, grid, ends, strict=True)]
    lines.append(" " * 11 + "+" + "-" * width)
    lines.append(" " * 12 + f"{steps[0]:<{width - len(str(steps[-1]))}}{steps[-1]}")
    legend = [f"{mark} {name}" for mark, name in zip(MARKS, curves, strict=False)]
    legend += [f"- {name} {level:.2f}" for name, level in levels.items()]
    lines.append(" " * 12 + f"{what} over steps: " + ", ".join(legend))
    return "\n".join(lines)
