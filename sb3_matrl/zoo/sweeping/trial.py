"""One training of a sweep: from the words of its command line to its evaluations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.evaluation import MultiAgentEvalCallback
from sb3_matrl.zoo.common.signals import SignalWatch
from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.train import command_line, parse_options
from sb3_matrl.zoo.training.interrupts import StopOnSignal, interruptible_updates
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.output_formats import make_logger
from sb3_matrl.zoo.training.training_run import Experiment, create_folder, prepare, read_hyperparameters

# How a training that diverges or that nobody could run shows itself: NaNs in a distribution, impossible hyper-parameters.
DIVERGED = (ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError)
# What is called after each evaluation; training goes on if it returns true.
AfterEvaluation = Callable[[MultiAgentEvalCallback], bool]


@dataclass(frozen=True)
class Budget:
    """
    Changes to the length of every trial; ``None`` leaves what the sweep's command says.

    :param n_timesteps: steps to train for
    :param eval_freq: steps between evaluations
    :param n_evaluations: instead of ``eval_freq``: how many evaluations in a training
    :param eval_episodes: episodes per evaluation
    """

    n_timesteps: int | None
    eval_freq: int | None
    n_evaluations: int | None
    eval_episodes: int | None


def with_budget(config: SweepConfig, budget: Budget) -> SweepConfig:
    """
    The sweep with the changed length in its command.

    :raises ValueError: when the command is not one of ``train.py``
    """
    changes = {"n_timesteps": budget.n_timesteps, "eval_freq": budget.eval_freq, "eval_episodes": budget.eval_episodes}
    config = config.with_flags({name: value for name, value in changes.items() if value is not None})
    if budget.n_evaluations is None:
        return config
    options = parse_options(config.words({parameter.name: parameter.extremes()[0] for parameter in config.parameters}))
    eval_freq = max(read_hyperparameters(options).n_timesteps // budget.n_evaluations, 1)
    return config.with_flags({"eval_freq": eval_freq})


def trial_options(config: SweepConfig, values: dict[str, Any], seed: int, run_dir: Path | None = None) -> TrainOptions:
    """
    Options of one training; a parameter ``seed`` of the sweep goes before ``seed``.

    :param config: the sweep
    :param values: name of the parameter -> value
    :param seed: of the training
    :param run_dir: its folder
    :raises ValueError: on flags or values that ``train.py`` refuses
    """
    options = parse_options(config.words(values))
    seed = options.seed if "seed" in values else seed
    folder = None if run_dir is None else str(run_dir)
    return replace(options, seed=seed, run_dir=folder, verbose=0, progress=False, track=False)


def check_parameters(config: SweepConfig) -> TrainOptions:
    """
    Build a model for every end of every parameter by itself, and one for the first values of all together.

    :return: options of the latter
    :raises ValueError: names the parameter whose name, type or range is wrong
    """
    constants = {parameter.name: parameter.values[0] for parameter in config.parameters if parameter.is_constant}
    for parameter in config.parameters:
        for value in parameter.extremes():
            try:
                _try(trial_options(config, {**constants, parameter.name: value}, seed=0))
            except DIVERGED as error:
                raise ValueError(f"parameter {parameter.name} = {value!r}: {error}") from error
    first = trial_options(config, {parameter.name: parameter.extremes()[0] for parameter in config.parameters}, seed=0)
    _try(first)
    return first


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
    options: TrainOptions, words: Sequence[str] = (), after_evaluation: AfterEvaluation | None = None
) -> MultiAgentEvalCallback:
    """
    Train, silently. With a run folder, that holds its options, its command and its curves, but no models.

    :param options: of the training
    :param words: that gave the options, for the run folder
    :param after_evaluation: may stop it
    :return: the evaluations
    :raises KeyboardInterrupt: after Ctrl-C or SIGTERM
    :raises ValueError: and others of ``DIVERGED`` when the training fails
    """
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        experiment = prepare(options)
        stack.callback(experiment.close)
        watch = stack.enter_context(SignalWatch())
        evaluation = _evaluation_callback(experiment, after_evaluation, watch)
        if options.run_dir is not None:
            folder = create_folder(experiment, command_line(words, options))
            logger = make_logger(folder, 0, experiment.model.agents, None)
            stack.callback(logger.close)
            experiment.model.set_logger(logger)
        stack.enter_context(interruptible_updates(experiment.model, watch))
        callbacks = [StopOnSignal(watch), evaluation]
        experiment.model.learn(experiment.hyperparameters.n_timesteps, callback=callbacks, log_interval=None)
    if watch.is_set():
        raise KeyboardInterrupt
    return evaluation


def _evaluation_callback(
    experiment: Experiment, after_evaluation: AfterEvaluation | None, watch: SignalWatch
) -> MultiAgentEvalCallback:
    options = experiment.options
    return MultiAgentEvalCallback(
        experiment.eval_env,
        callback_after_eval=None if after_evaluation is None else _AfterEvaluation(after_evaluation),
        n_eval_episodes=options.eval_episodes,
        eval_freq=options.eval_freq,
        log_path=options.run_dir,
        seed=options.seed,
        verbose=0,
        should_stop=watch.is_set,
    )
