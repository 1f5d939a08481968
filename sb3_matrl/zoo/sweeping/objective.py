"""The objective of a study: one training per trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna

from sb3_matrl.evaluation import EvaluationResult, MultiAgentEvalCallback
from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.sweeping.trial import DIVERGED, train, trial_options


class Objective:
    """
    One trial: draw values, train, report every evaluation, and return the metric of the last one.

    :param config: the sweep
    :param seed: seed of trial 0; trial k trains with ``seed + k``
    :param folder: folder of the trials' run folders
    """

    def __init__(self, config: SweepConfig, seed: int, folder: Path) -> None:
        self.config = config
        self.seed = seed
        self.folder = folder

    def __call__(self, trial: optuna.Trial) -> float:
        """
        :param trial: trial of Optuna
        :raises optuna.TrialPruned: if the pruner stopped the trial
        :raises ValueError: and others of ``DIVERGED`` if the training fails; the trial stores the error
        """
        values = {parameter.name: parameter.suggest(trial) for parameter in self.config.parameters}
        trial.set_user_attr("values", values)
        try:
            return self._train(trial, values)
        except DIVERGED as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
            raise

    def _train(self, trial: optuna.Trial, values: dict[str, Any]) -> float:
        options = trial_options(self.config, values, self.seed + trial.number, self.folder / f"trial_{trial.number}")
        trial.set_user_attr("seed", options.seed)
        stopped = False

        def report(evaluation: MultiAgentEvalCallback) -> bool:
            nonlocal stopped
            steps = evaluation.timesteps[-1]
            trial.report(self._metric(evaluation), step=len(evaluation.timesteps))
            trial.set_user_attr("steps", steps)
            stopped = steps < evaluation.locals["total_timesteps"] and trial.should_prune()
            return not stopped

        evaluation = train(options, self.config.words(values), report)
        if stopped:
            raise optuna.TrialPruned
        return self._metric(evaluation)

    def _metric(self, evaluation: MultiAgentEvalCallback) -> float:
        value = metric_of(evaluation.sampled[-1], evaluation.greedy[-1], self.config.metric)
        if not math.isfinite(value):
            raise ValueError(f"{self.config.metric} is {value} after {evaluation.timesteps[-1]} steps")
        return value


def metric_of(sampled: EvaluationResult, greedy: EvaluationResult, name: str) -> float:
    """
    :param sampled: evaluation of the sampled policies
    :param greedy: evaluation of the greedy policies
    :param name: name of the metric, one of ``METRICS``
    :return: value of the metric
    """
    chosen = greedy if name.endswith("_greedy") else sampled
    return chosen.mean if "reward" in name else chosen.mean_length
