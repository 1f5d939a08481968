"""One training of a sweep."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.evaluation import MultiAgentEvalCallback
from sb3_matrl.zoo.common.trusted_envs import check_env_of_file
from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.sweeping.sweep_options import Budget
from sb3_matrl.zoo.train import command_line, parse_options
from sb3_matrl.zoo.training.experiment import prepare, read_hyperparameters
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.training_run import TrainingRun

# Errors of trainings that diverge or cannot be run: NaNs in a distribution, impossible hyper-parameters.
DIVERGED = (ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError)
# Value of --log-interval.
EVALUATIONS_ONLY = -2
# Parameters of a sweep that decide which other ones there are.
CHOICES = ("algo", "env")
# Called after each evaluation; training continues if it returns true.
AfterEvaluation = Callable[[MultiAgentEvalCallback], bool]


def with_budget(config: SweepConfig, budget: Budget) -> SweepConfig:
    """
    The sweep with the changed length in its command.

    :param config: the sweep
    :param budget: changes
    :raises ValueError: if the command is not one of ``train.py``
    """
    changes = {"n_timesteps": budget.n_timesteps, "eval_freq": budget.eval_freq, "eval_episodes": budget.eval_episodes}
    config = config.with_flags({name: value for name, value in changes.items() if value is not None})
    if budget.n_evaluations is None:
        return config
    options = first_options(config)
    eval_freq = max(read_hyperparameters(options).n_timesteps // budget.n_evaluations, 1)
    return config.with_flags({"eval_freq": eval_freq})


def trial_options(config: SweepConfig, values: dict[str, Any], seed: int, run_dir: Path | None = None) -> TrainOptions:
    """
    Options of one training.

    :param config: the sweep
    :param values: name of the parameter -> value
    :param seed: seed of the training, unless the sweep has a parameter ``seed``
    :param run_dir: run folder
    :raises ValueError: on flags or values that ``train.py`` rejects
    """
    options = _read_words(config, values)
    seed = options.seed if "seed" in values else seed
    folder = None if run_dir is None else str(run_dir)
    return replace(
        options, seed=seed, run_dir=folder, verbose=0, progress=False, track=False, record=False, log_interval=EVALUATIONS_ONLY
    )


def first_options(config: SweepConfig) -> TrainOptions:
    """
    Options of a training with the first values of all parameters.

    :param config: the sweep
    :raises ValueError: on flags or values that ``train.py`` rejects
    """
    return trial_options(config, {parameter.name: parameter.extremes()[0] for parameter in config.parameters}, seed=0)


def _read_words(config: SweepConfig, values: dict[str, Any]) -> TrainOptions:
    """
    Options in the command line of a trial.

    :raises ValueError: if ``train.py`` rejects them, or they run code that only the sweep file names
    """
    options = parse_options(config.words(values))
    check_env_of_file(options.env, "the sweep", trust=config.trust, flag="")
    if options.trust and not config.trust:
        raise ValueError("the sweep gives trials --trust, which can run code of a file: if you trust it, add --trust")
    return options


def check_parameters(config: SweepConfig) -> TrainOptions:
    """
    Build a model for both ends of every parameter, with every algorithm and environment of the sweep, and one for the first
    values of all parameters.

    :param config: the sweep
    :return: options with the first values of all parameters
    :raises ValueError: on a parameter with a wrong name, type or range
    """
    for settings in _settings(config):
        for parameter in config.parameters:
            for value in parameter.extremes() if parameter.name not in CHOICES else ():
                try:
                    _try(trial_options(config, {**settings, parameter.name: value}, seed=0))
                except DIVERGED as error:
                    raise ValueError(f"parameter {parameter.name} = {value!r}: {error}") from error
    first = first_options(config)
    _try(first)
    return first


def _settings(config: SweepConfig) -> list[dict[str, Any]]:
    """Constants of a sweep, with every choice of the parameters that decide which hyper-parameters there are."""
    constants = {parameter.name: parameter.values[0] for parameter in config.parameters if parameter.is_constant}
    worlds = [parameter for parameter in config.parameters if parameter.name in CHOICES]
    choices = product(*(parameter.extremes() for parameter in worlds))
    return [{**constants, **{one.name: value for one, value in zip(worlds, chosen, strict=True)}} for chosen in choices]


def _try(options: TrainOptions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SB3's about a last minibatch that is not full
        prepare(options).close()


class _AfterEvaluation(BaseCallback):
    """Adapter: SB3 calls it after each evaluation."""

    def __init__(self, function: AfterEvaluation) -> None:
        super().__init__()
        self._function = function

    def _on_step(self) -> bool:
        assert isinstance(self.parent, MultiAgentEvalCallback)
        return self._function(self.parent)


def train(
    options: TrainOptions, words: Sequence[str], after_evaluation: AfterEvaluation | None = None
) -> MultiAgentEvalCallback:
    """
    Train silently. The run folder gets options, command, log and evaluations, but no models.

    :param options: options of the training, with ``run_dir``
    :param words: command line of the options, for the run folder
    :param after_evaluation: called after each evaluation; training ends if it returns false
    :return: the evaluations
    :raises KeyboardInterrupt: after Ctrl-C or SIGTERM
    :raises ValueError: and others of ``DIVERGED`` if the training fails
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = TrainingRun.begin(options, command_line(words, options))
        return run.train(None if after_evaluation is None else _AfterEvaluation(after_evaluation))
