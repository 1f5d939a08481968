"""
Trials of a study as tasks of a Ray cluster.

This process chooses the values of every trial and starts a task for it; the task trains, reports its evaluations to the
study's storage, and stores the outcome there. A trial whose machine is lost is queued again with the same values.
"""

from __future__ import annotations

import socket
import sys
import time

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from sb3_matrl.zoo.common.ray_tasks import RayCluster, RayTask, ray_cluster
from sb3_matrl.zoo.sweeping.study import finished_trials, queue_again, show_progress, this_process
from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.sweeping.sweep_options import StudyFolder, SweepOptions
from sb3_matrl.zoo.sweeping.trial_processes import worker_command, worker_environment

POLL_SECONDS = 0.5
# Time for cancelled trials to end; that of their processes is less.
GRACE_SECONDS = 30.0
# After so many lost tasks without a trial that ended, the study stops.
MOST_LOST = 5


class RayTrialsError(RuntimeError):
    """The trials cannot be run on the cluster."""


class RayTrials:
    """
    Runs the trials of a study on a Ray cluster.

    :param study: the study
    :param options: options of the command line
    :param config: the sweep
    :param device: ``--device`` of the trials
    """

    def __init__(self, study: optuna.Study, options: SweepOptions, config: SweepConfig, device: str) -> None:
        self.study, self.options, self.config = study, options, config
        self.folder = StudyFolder.of(options)
        self.gpus = 1 if device.startswith("cuda") else 0
        self._active: dict[int, RayTask] = {}
        self._lost_in_a_row = 0

    def run(self, n_trials: int) -> None:
        """
        Run trials until the study has ``n_trials`` finished ones, with a progress bar and the best value.

        :param n_trials: number of finished trials
        :raises RayTrialsError: if the cluster cannot be used, or loses one task after the other
        :raises KeyboardInterrupt: after Ctrl-C or SIGTERM; another call continues the study
        """
        shown = {trial.number for trial in finished_trials(self.study)}
        if len(shown) >= n_trials:
            return
        try:
            with ray_cluster(self.options.ray_address, self.options.n_jobs) as cluster:
                cluster.check_resources(self.gpus)
                self._check_storage(cluster)
                with tqdm(total=n_trials, initial=len(shown), unit="trial", desc=self.study.study_name) as bar:
                    try:
                        self._loop(cluster, n_trials, bar, shown)
                    finally:
                        self._end()
        except ValueError as error:
            raise RayTrialsError(str(error)) from error

    def _check_storage(self, cluster: RayCluster) -> None:
        """
        :raises ValueError: if the data base is a file, and the cluster has other machines
        """
        storage = self.options.storage or self.folder.storage
        others = sorted(cluster.hosts - {socket.gethostname()})
        if storage.startswith("sqlite:") and others:
            raise ValueError(
                f"the cluster has other machines ({', '.join(others[:3])}), and {storage} is a file of this one: "
                "give --storage the URL of a data base that all can reach, such as postgresql://user@host/optuna"
            )

    def _loop(self, cluster: RayCluster, n_trials: int, bar: tqdm[None], shown: set[int]) -> None:
        while len(shown) < n_trials:
            while len(self._active) < self.options.n_jobs and len(shown) + len(self._active) < n_trials:
                self._start(cluster)
            time.sleep(POLL_SECONDS)
            for number, task in list(self._active.items()):
                code = task.poll()
                if code is not None:
                    del self._active[number]
                    self._settle(number, task, code)
            show_progress(self.study, bar, shown)

    def _start(self, cluster: RayCluster) -> None:
        """Choose the values of the next trial, and start its task."""
        trial = self.study.ask()
        trial.set_user_attr("process", this_process())
        values = {parameter.name: parameter.suggest(trial) for parameter in self.config.parameters}
        trial.set_user_attr("values", values)
        command = worker_command(self.options, self.config, trial._trial_id)
        log = self.folder.output_of_trial(trial.number)
        self._active[trial.number] = cluster.start(command, worker_environment(), log, self.gpus)

    def _settle(self, number: int, task: RayTask, code: int) -> None:
        """
        Give a trial whose task has ended an outcome, if the task did not.

        :raises RayTrialsError: if tasks are lost one after the other
        """
        trial, log = self._trial(number), self.folder.output_of_trial(number)
        lost = task.lost or (f"its process ended with signal {-code}" if code < 0 else "")
        self._lost_in_a_row = self._lost_in_a_row + 1 if lost else 0
        if trial.state.is_finished():
            return
        if not lost:
            self.study._storage.set_trial_user_attr(trial._trial_id, "error", f"exit code {code}: see {log}")
        self.study.tell(number, state=TrialState.FAIL)
        if lost:
            queue_again(self.study, trial)
            print(f"\ntrial {number} was lost and is run again: {lost}", file=sys.stderr)
        if self._lost_in_a_row >= MOST_LOST:
            raise RayTrialsError(f"{MOST_LOST} tasks of trials were lost in a row: {lost}; see {log}")

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _end(self) -> None:
        """Cancel the tasks of all trials, and mark those as interrupted that do not end by themselves."""
        try:
            for task in self._active.values():
                task.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            while any(task.poll() is None for task in self._active.values()) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 5)
        finally:
            for number, task in self._active.items():
                if task.poll() is None:
                    task.kill()
                if not self._trial(number).state.is_finished():
                    self.study.tell(number, state=TrialState.FAIL)
            self._active.clear()
