"""The end of a training in words: speed, learning curve, returns, the meta-game's part, and the files of the run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.evaluation.evaluate import structure_of
from sb3_matrl.evaluation.evaluation_text import MOST_AGENTS
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.text_tables import returns_table
from sb3_matrl.zoo.reporting.run_loading import read_progress
from sb3_matrl.zoo.reporting.verdict import verdict
from sb3_matrl.zoo.training.curves import LearningCurve

WIDTH = 110


@dataclass(frozen=True)
class Duration:
    """
    Length of one start of a training.

    :param steps: steps since this start
    :param total: steps of the model, of earlier starts included
    :param seconds: time since this start, with evaluations
    """

    steps: int
    total: int
    seconds: float

    def __str__(self) -> str:
        in_all = f", {self.total} in all" if self.total > self.steps else ""
        speed = f"{self.steps / self.seconds:.0f} steps/s with evaluations"
        return f"{self.steps} steps in {self.seconds:.1f} s ({speed}){in_all}"


def summary(
    title: str, length: Duration, folder: RunFolder, curve: LearningCurve, results: Mapping[str, EvaluationResult]
) -> str:
    """
    Describe a training at its end.

    :param title: name of the training
    :param length: steps and time
    :param folder: run folder, with all its files
    :param curve: evaluations of the training
    :param results: name of the policy -> episodes of its last evaluation
    """
    parts = [f"{title}: {length}"]
    if len(curve.steps) > 1:
        parts.append(curve.text())
    parts += [returns_table(results, MOST_AGENTS), *_game(folder), _files(folder, curve)]
    return "\n" + "\n\n".join(parts)


def final_rewards(results: Mapping[str, EvaluationResult]) -> dict[str, float]:
    """
    Final results as single numbers: the mean team return, and those of agents whose returns have a constant sum.

    :param results: name of the policy -> episodes of its last evaluation
    :return: ``final/<policy>_reward`` and ``final/<agent>/<policy>_reward``
    """
    values = {f"final/{policy}_reward": result.mean for policy, result in results.items()}
    if structure_of(results.values()) != "constant-sum":
        return values
    agents = {(agent, policy): mean for policy, result in results.items() for agent, mean in result.agent_means.items()}
    return values | {f"final/{agent}/{policy}_reward": mean for (agent, policy), mean in agents.items()}


def _game(folder: RunFolder) -> list[str]:
    """What the meta-game did, as one paragraph; nothing without a meta-game or a log."""
    try:
        sentences = verdict(read_progress(folder.progress))
    except (OSError, ValueError):  # a training that ended before its first row
        return []
    return [textwrap.fill(f"Meta-game: {' '.join(sentences)}", WIDTH)] if sentences else []


def _files(folder: RunFolder, curve: LearningCurve) -> str:
    """Which file is what, of those that one looks for."""
    # A constant team return makes all evaluations equally good, of which the latest model is kept.
    best = "latest evaluation" if curve.competes else "best evaluation"
    files = {
        folder.last_model: "last model",
        folder.best_model: f"model of the {best}, after {curve.best_steps} steps",
        folder.video: "a greedy episode of the last model",
        folder.learning_curve: "returns over steps",
        folder.progress: "all logged numbers",
        folder.config: "hyper-parameters",
    }
    there = {path.name: text for path, text in files.items() if path.is_file()}
    width = max(map(len, there))
    return "\n".join([f"Files in {folder.path}:", *(f"  {name:<{width}}  {text}" for name, text in there.items())])
