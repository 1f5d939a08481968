"""
One run of a benchmark in a process of its own: the training, then the absolute metrics, and last the result's file.

A run that was interrupted is continued: the training from its newest checkpoint, or the absolute metrics after its end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.common.loading import load_model
from sb3_matrl.envs.making import env_source
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.benchmarking.comparison import EXPLORATION
from sb3_matrl.zoo.benchmarking.exact_measures import ExactMeasures, exact_measure, measures_file
from sb3_matrl.zoo.benchmarking.run_results import logged_seconds, progress_rows
from sb3_matrl.zoo.common.records import write_record
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.train import command_line, parse_options, run_process
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.training_run import TrainingRun

# Gorsane et al. 2022, "Towards a Standardised Performance Evaluation Protocol for Cooperative MARL", p. 9.
ABSOLUTE_FACTOR = 10
# Exact measurements in a training, at most.
MEASUREMENTS = 100


def absolute_metrics(options: TrainOptions, folder: RunFolder) -> dict[str, Any]:
    """
    Play the best model of a finished run for ten times as many episodes as an evaluation has, sampled and greedy. Agents that
    explore do so with their rate at the end of the training, wherever the best model is from.

    :param options: options of the run
    :param folder: run folder
    :return: metric -> value of every episode
    """
    model: Any = load_model(folder.best_model, device=options.device, verbose=0)
    hyperparameters = read_hyperparameters(options)
    if EXPLORATION in hyperparameters.values:
        model.exploration_rate = hyperparameters[EXPLORATION]
    episodes = ABSOLUTE_FACTOR * options.eval_episodes
    copies = min(episodes, hyperparameters.n_envs)
    # Another stream than those of the evaluations that chose the model, whose seeds are made of two numbers.
    seed = int(np.random.SeedSequence([options.seed, 0, ABSOLUTE_FACTOR]).generate_state(1)[0])
    source = env_source(options.env, hyperparameters.env_wrapper)
    with closing(make_joint_vec_env(source, n_envs=copies, env_kwargs=hyperparameters.env_kwargs)) as env:
        sampled = evaluate_policy(model, env, episodes, deterministic=False, seed=seed)
        greedy = evaluate_policy(model, env, episodes, deterministic=True, seed=seed)
    return {
        "return": sampled.returns,
        "return_greedy": greedy.returns,
        "episode_length": sampled.lengths,
        "episode_length_greedy": greedy.lengths,
    }


def _earlier_seconds(folder: RunFolder) -> float:
    """Logged seconds of training in earlier processes; 0 for a new run."""
    logged = logged_seconds(progress_rows(folder.progress)) if folder.progress.exists() else []
    return logged[-1][1] if logged else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: command line of ``train.py``, with ``--run-dir`` and ``--seed``; that of the process by default
    :return: exit code of the training
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_options(words)
    assert options.run_dir is not None
    folder = RunFolder(Path(options.run_dir), options.env)
    seconds, start = _earlier_seconds(folder), time.perf_counter()
    if not folder.is_finished:
        exit_code = run_process(lambda: _start(words, options, folder))
        if exit_code != 0:
            return exit_code
        seconds += time.perf_counter() - start
    write_record(folder.result, {"seconds": seconds, "absolute_metrics": absolute_metrics(options, folder)})
    return 0


class MeasuredRun(TrainingRun):
    """Training whose policies are measured in every iteration where that can be done exactly."""

    def _learn(self, callbacks: list[BaseCallback]) -> None:
        hyperparameters = self.experiment.hyperparameters
        measure = exact_measure(self.experiment.options.env, hyperparameters)
        every = max(hyperparameters.n_timesteps // MEASUREMENTS, 1)
        measures = [] if measure is None else [ExactMeasures(measure, measures_file(self.folder), every)]
        super()._learn([*measures, *callbacks])


def _start(words: Sequence[str], options: TrainOptions, folder: RunFolder) -> TrainingRun:
    if folder.arguments.exists():
        return MeasuredRun.resume(folder.path, {"env": options.env}, False, folder.resume_command)
    return MeasuredRun.begin(options, command_line(words, options))


if __name__ == "__main__":
    sys.exit(main())
