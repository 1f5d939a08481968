"""A sweep as a local Optuna study in a data base, so that it can be continued."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from filelock import BaseFileLock
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.sweeping.sweep_options import SweepOptions
from sb3_matrl.zoo.sweeping.trial import DIVERGED

POLL_SECONDS = 0.5


def grid_size(config: SweepConfig) -> int:
    """
    Number of different trials.

    :param config: the sweep
    :raises ValueError: if they cannot be counted
    """
    return math.prod(len(parameter.grid()) for parameter in config.searched)


def make_sampler(config: SweepConfig, options: SweepOptions, n_trials: int) -> BaseSampler:
    """
    :param config: the sweep
    :param options: options of the command line
    :param n_trials: number of earlier trials, so that a continued study does not sample its first trials again
    """
    sampler = options.sampler_for(config)
    if sampler == "grid":
        # The seed orders the grid, and trials store their place in it: it is the same in all processes and calls.
        return GridSampler({parameter.name: parameter.grid() for parameter in config.searched}, seed=0)
    process = [options.worker] if options.worker else []
    seed = int(np.random.SeedSequence([options.seed, n_trials, *process]).generate_state(1)[0])
    if sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(n_startup_trials=options.n_startup_trials, seed=seed)


def make_pruner(config: SweepConfig, options: SweepOptions, n_evaluations: int) -> BasePruner:
    """
    The rule that stops trials early.

    ``early_terminate`` becomes asynchronous successive halving, because W&B's Hyperband is one bracket of it.

    :param config: the sweep
    :param options: options of the command line
    :param n_evaluations: evaluations in a complete trial
    """
    hyperband = config.early_terminate
    if options.pruner is None and hyperband is not None:
        return SuccessiveHalvingPruner(min_resource=hyperband.first_evaluation, reduction_factor=hyperband.eta)
    if options.pruner == "median":
        # As in rl-baselines3-zoo, no trial is stopped before a third of its evaluations.
        return MedianPruner(n_startup_trials=options.n_startup_trials, n_warmup_steps=n_evaluations // 3)
    if options.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    if options.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=n_evaluations)
    return NopPruner()


def open_study(config: SweepConfig, options: SweepOptions, n_evaluations: int, storage: str) -> optuna.Study:
    """
    Create a study, or open one of the same name and the same sweep.

    :param config: the sweep
    :param options: options of the command line
    :param n_evaluations: evaluations in a complete trial
    :param storage: URL of a data base for Optuna, e.g. ``sqlite:///study.db``
    :raises ValueError: if the data base cannot be opened, or its study of that name belongs to another sweep
    """
    name, pruner = options.name, make_pruner(config, options, n_evaluations)
    try:
        study = optuna.create_study(
            study_name=name, storage=storage, direction=config.goal, pruner=pruner, load_if_exists=True
        )
    except Exception as error:  # of any data base's driver
        reason = str(error).splitlines()[0]
        raise ValueError(f"storage {storage} cannot be used: {reason}; expected a URL like sqlite:///study.db") from error
    study.sampler = make_sampler(config, options, len(study.trials))
    definition = {key: config.source.get(key) for key in ("parameters", "metric", "command")}
    stored = study.user_attrs.get("sweep", definition if not study.trials else {})
    different = [_difference(key, stored.get(key), value) for key, value in definition.items() if stored.get(key) != value]
    if different:
        raise ValueError(f"study {name} in {storage} has other {' and '.join(different)}; choose another --study-name")
    study.set_user_attr("sweep", definition)
    return study


def _difference(key: str, stored: Any, given: Any) -> str:
    """Name of a part of a sweep that changed, with the entries that only the study has, and those that only the sweep has."""
    if not (isinstance(stored, (list, dict)) and isinstance(given, type(stored))):
        return key
    there, here = ([one if isinstance(value, list) else (one, value[one]) for one in value] for value in (stored, given))
    texts = [
        [_entry(one) for one in left if one not in right] or ["nothing"] for left, right in ((there, here), (here, there))
    ]
    return f"{key} ({' '.join(texts[0])} there, {' '.join(texts[1])} here)"


def _entry(entry: Any) -> str:
    return f"{entry[0]}: {entry[1]}" if isinstance(entry, tuple) else str(entry)


def requeue_lost_trials(study: optuna.Study) -> list[int]:
    """
    Mark trials whose process is gone as failed, and queue killed or interrupted ones again.

    :param study: the study
    :return: numbers of the lost trials
    """
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if _process_is_gone(trial):
            study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    queued_again = {trial.user_attrs.get("retry_of") for trial in trials}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and not _says_why(trial)]
    lost = [trial for trial in failed if trial.params and trial.number not in queued_again]
    for trial in lost:
        queue_again(study, trial)
    return [trial.number for trial in lost]


def queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """
    Queue the values of a trial that was lost.

    :param study: the study
    :param trial: the trial
    """
    study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def _process_is_gone(trial: FrozenTrial) -> bool:
    """Whether the process of a trial has ended; processes on other machines count as alive."""
    host, process = trial.user_attrs.get("process", (None, 0))
    if host != socket.gethostname():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(process == os.getpid())


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are not run again, by number: complete, stopped early, or failed with an error."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and (trial.state != TrialState.FAIL or _says_why(trial))]


def _says_why(trial: FrozenTrial) -> bool:
    """Whether a failed trial has an error; killed or interrupted trials have none."""
    return "error" in trial.user_attrs


def run_trials(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    n_trials: int,
    turn: BaseFileLock,
    others_work: Callable[[], bool] = lambda: False,
    abandoned: Callable[[], bool] = lambda: False,
) -> None:
    """
    Run trials until the study has ``n_trials`` finished ones, with a progress bar and the best value.

    Other processes may do the same at the same time.

    :param study: the study
    :param objective: function that runs one trial
    :param n_trials: number of finished trials
    :param turn: lock of the processes on this machine, held while a trial is started, so that there are not too many
    :param others_work: whether to wait for other processes, and run the trials of those that fail
    :param abandoned: whether to start no more trials, asked between two of them
    :raises KeyboardInterrupt: after Ctrl-C or SIGTERM; another call continues the study
    """

    def started(trial: optuna.Trial) -> float:
        trial.set_user_attr("process", this_process())
        turn.release()
        return objective(trial)

    shown = {trial.number for trial in finished_trials(study)}
    with tqdm(total=n_trials, initial=len(shown), unit="trial", desc=study.study_name) as bar:
        while not abandoned():
            waits = others_work()
            if _begins(study, n_trials, turn):
                try:
                    study.optimize(started, n_trials=1, catch=DIVERGED)
                finally:
                    turn.release()
            elif waits:
                time.sleep(POLL_SECONDS)
            running = _running_elsewhere(study)  # before trials are counted: those that end meanwhile are then among them
            show_progress(study, bar, shown)
            if len(shown) + running >= n_trials and not (waits and running):
                return


def _begins(study: optuna.Study, n_trials: int, turn: BaseFileLock) -> bool:
    """Whether this process starts another trial; it then holds the lock."""
    turn.acquire()
    begins = len(finished_trials(study)) + _running_elsewhere(study) < n_trials
    if not begins:
        turn.release()
    return begins


def show_progress(study: optuna.Study, bar: Any, shown: set[int]) -> None:
    """
    Print trials that were finished since the last call, by whichever process.

    :param study: the study
    :param bar: progress bar
    :param shown: numbers of the trials that were printed; changed in place
    """
    for trial in finished_trials(study):
        if trial.number not in shown:
            shown.add(trial.number)
            bar.write(trial_line(trial))
    bar.n = len(shown)
    best = best_trial(study)
    bar.set_postfix_str("" if best is None else f"best {best.value:.2f} of trial {best.number}")


def this_process() -> list[Any]:
    """Machine and number of this process, as trials store them."""
    return [socket.gethostname(), os.getpid()]


def _running_elsewhere(study: optuna.Study) -> int:
    """Number of active trials of other processes on this machine."""
    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    here = [trial for trial in running if trial.user_attrs.get("process", [None])[0] == socket.gethostname()]
    return sum(not _process_is_gone(trial) for trial in here)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the best value; ``None`` if no trial is complete."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return study.best_trial if complete else None


def trial_line(trial: FrozenTrial) -> str:
    """Outcome of a trial in one line."""
    outcome = trial.user_attrs.get("error") or f"{trial.value:.2f}"
    values = "  ".join(f"{name}={_short(value)}" for name, value in trial.user_attrs["values"].items() if name in trial.params)
    return f"trial {trial.number:<4} {trial.state.name.lower():<9} {outcome:>8} {trial_seconds(trial):6.0f} s  {values}"


def trial_seconds(trial: FrozenTrial) -> float:
    """Seconds of a finished trial; NaN if unknown."""
    return math.nan if trial.duration is None else trial.duration.total_seconds()


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
