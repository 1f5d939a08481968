"""A sweep by a local study, from the first trial to the record."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock

from sb3_matrl.zoo.common.invocation import command_prefix
from sb3_matrl.zoo.common.records import write_record
from sb3_matrl.zoo.common.signals import SignalWatch, exit_code
from sb3_matrl.zoo.sweeping.best_vs_default import Comparison, compare, comparison_table
from sb3_matrl.zoo.sweeping.objective import Objective
from sb3_matrl.zoo.sweeping.ray_trials import RayTrials, RayTrialsError
from sb3_matrl.zoo.sweeping.study import best_trial, finished_trials, grid_size, open_study, requeue_lost_trials, run_trials
from sb3_matrl.zoo.sweeping.study_results import (
    best_hyperparameters,
    draw_study,
    importances,
    trial_rows,
    trials_table,
    write_best,
    write_csv,
)
from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.sweeping.sweep_options import DEFAULT_TRIALS, StudyFolder, SweepOptions
from sb3_matrl.zoo.sweeping.trial import DIVERGED, trial_options
from sb3_matrl.zoo.sweeping.trial_processes import trial_processes
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from sb3_matrl.zoo.training.options import TrainOptions

FAILED = 1


class LocalSweep:
    """
    A study that is open and ready to be run.

    :param options: options of the command line
    :param config: the sweep, checked
    :param first: options of a training with the first values of all parameters
    :raises ValueError: if storage, folder or sampler do not fit
    """

    def __init__(self, options: SweepOptions, config: SweepConfig, first: TrainOptions) -> None:
        self.options = options
        self.config = config
        self.first = first
        self.folder = StudyFolder.of(options)
        self.n_trials = self._number_of_trials()
        self.folder.trials.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # run_trials prints one line per trial
        n_evaluations = max(read_hyperparameters(first).n_timesteps // first.eval_freq, 1) if first.eval_freq > 0 else 1
        self.study = open_study(config, options, n_evaluations, options.storage or self.folder.storage)
        if not self.study.trials and not options.worker and any(self.folder.trials.iterdir()):
            raise ValueError(
                f"{self.folder.trials} has trials of a study that is not in {options.storage or self.folder.storage}; "
                "choose another --study-name or --optimization-log-path"
            )

    def _number_of_trials(self) -> int:
        wanted = self.options.n_trials or self.config.run_cap
        if self.options.sampler_for(self.config) != "grid":
            return wanted or DEFAULT_TRIALS
        size = grid_size(self.config)
        return min(wanted or size, size)

    def run(self, command: str) -> int:
        """
        Run the remaining trials, then write and print the results.

        :param command: command line that continues the study, for the message after an interruption
        :return: exit code: 0; 1 if no trial was complete or a file could not be written; 130 or 143 after Ctrl-C or SIGTERM
        """
        lost = requeue_lost_trials(self.study)
        if lost:
            print(f"trials {', '.join(map(str, lost))} were interrupted or killed; they are run again", file=sys.stderr)
        try:
            with SignalWatch() as signals, signals.at_once():
                if self.options.backend == "ray":
                    RayTrials(self.study, self.options, self.config, self.first.device).run(self.n_trials)
                else:
                    with trial_processes(self._useful_jobs(), self.config) as others:
                        run_trials(self.study, self._objective, self.n_trials, self._turn, others.are_active)
                return self._finish()
        except KeyboardInterrupt as error:
            reason, code = "interrupted", exit_code(error)
        except (OSError, optuna.exceptions.StorageInternalError, RayTrialsError) as error:  # a full disk, say
            reason, code = f"error: {error}", FAILED
        print(f"\n{reason}; the study is kept; continue it with: {command}", file=sys.stderr)
        return code

    def _useful_jobs(self) -> SweepOptions:
        """The options with no more processes than trials that are left."""
        left = self.n_trials - len(finished_trials(self.study))
        return replace(self.options, n_jobs=min(self.options.n_jobs, max(left, 1)))

    def run_beside(self) -> int:
        """
        Run trials beside the process that :meth:`run` is called in, while that lives.

        :return: exit code: 0, or 130 or 143 after Ctrl-C or SIGTERM
        """
        parent = os.getppid()
        try:
            run_trials(self.study, self._objective, self.n_trials, self._turn, abandoned=lambda: os.getppid() != parent)
        except KeyboardInterrupt as error:
            return exit_code(error)
        return 0

    def run_trial(self, trial_id: int) -> int:
        """
        Run one trial that another process has started, and store its outcome.

        :param trial_id: number of the trial in the data base
        :return: exit code: 0; 130 or 143 after Ctrl-C or SIGTERM
        """
        # The values are chosen, and at the end of a trial a grid's sampler would stop a study that this process does not run.
        self.study.sampler = optuna.samplers.RandomSampler()
        trial = optuna.Trial(self.study, trial_id)
        try:
            self.study.tell(trial, self._objective(trial))
        except optuna.TrialPruned:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except DIVERGED:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        except KeyboardInterrupt as error:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return exit_code(error)
        return 0

    @property
    def _objective(self) -> Objective:
        return Objective(self.config, self.options.seed, self.folder.trials)

    @property
    def _turn(self) -> FileLock:
        return FileLock(self.folder.turn)

    def _finish(self) -> int:
        write_csv(self.folder.table, trial_rows(self.study))
        print("\n" + trials_table(self.study))
        best = best_trial(self.study)
        if best is None:
            print(f"error: no trial was complete; {self.folder.table} says why", file=sys.stderr)
            return FAILED
        draw_study(self.folder.picture, self.study, self.config.metric)
        values = best.user_attrs["values"]
        chosen = trial_options(self.config, values, best.user_attrs["seed"])
        best_file = Path(self.options.out or self.folder.best)
        write_best(best_file, chosen)
        comparison = self._compare(values)
        summary = Path(self.options.summary or self.folder.summary)
        write_record(summary, self._record(best, chosen, comparison))
        train = shlex.join(
            [*command_prefix("train"), "--algo", chosen.algo, "--env", chosen.env, "--conf-file", str(best_file)]
        )
        print(f"\nEverything is in {self.folder.path}, the record in {summary}.\nTrain with the best: {train}")
        return 0

    def _compare(self, values: dict[str, Any]) -> Comparison | None:
        if not self.options.comparison_seeds:
            return None
        comparison = compare(self.config, values, range(self.options.comparison_seeds), self.options.comparison_episodes)
        print("\n" + comparison_table(comparison, self.config.metric))
        return comparison

    def _record(self, best: optuna.trial.FrozenTrial, chosen: TrainOptions, comparison: Comparison | None) -> dict[str, Any]:
        return {
            "sweep": self.config.source,
            "study": self.options.name,
            "sampler": type(self.study.sampler).__name__,
            "pruner": type(self.study.pruner).__name__,
            "seed": self.options.seed,
            "n_timesteps_per_trial": read_hyperparameters(chosen).n_timesteps,
            "best": {
                "trial": best.number,
                "value": best.value,
                "parameters": best.user_attrs["values"],
                "algo": chosen.algo,
                "env": chosen.env,
                "hyperparameters": best_hyperparameters(chosen).as_mapping(),
            },
            "importances": importances(self.study),
            "comparison": None if comparison is None else {**asdict(comparison), "table": comparison.rows()},
            "trials": trial_rows(self.study),
        }
