"""One training with its run folder: trained, evaluated, saved and summarised."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import HumanOutputFormat

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.callbacks import ResumableCheckpointCallback, has_replay_buffer
from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.common.logger import ShortTable
from sb3_matrl.evaluation import EvaluationResult, MultiAgentEvalCallback, RandomPolicy, evaluate_policy
from sb3_matrl.files.checkpoints import restore_parts
from sb3_matrl.vec_env import EnvError
from sb3_matrl.zoo.common.listed_callbacks import ListedCallbacks
from sb3_matrl.zoo.common.references import References
from sb3_matrl.zoo.common.run_folder import RunFolder, create_run_folder
from sb3_matrl.zoo.common.signals import Interrupted, SignalWatch, exit_code
from sb3_matrl.zoo.common.yaml_files import write_yaml
from sb3_matrl.zoo.playing.players import open_run_folder
from sb3_matrl.zoo.training.curves import LearningCurve
from sb3_matrl.zoo.training.experiment import Experiment, prepare
from sb3_matrl.zoo.training.interrupts import (
    StopOnSignal,
    UpdateStopped,
    early_end,
    interruptible_updates,
    storage_failure,
    training_failure,
)
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.output_formats import RunLogger, event_file_errors_printed_once, make_logger
from sb3_matrl.zoo.training.resuming import prepare_resumed
from sb3_matrl.zoo.training.snapshots import SnapshotCallback, snapshot_folder
from sb3_matrl.zoo.training.tracking import Tracker, TrackEvaluations, WandbOptions
from sb3_matrl.zoo.training.training_summary import Duration, final_rewards, summary

# Errors of the disk, which end a run with a message. Other OSErrors are bugs and keep their traceback.
STORAGE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}
)
STORAGE_FAILURE = 1
TRAINING_FAILURE = 1


class TrainingRun:
    """
    One training with its run folder, which this process has locked.

    :meth:`begin` and :meth:`resume` make one. Then :meth:`run` does everything that a user expects of ``train.py``, and
    :meth:`train` only trains and evaluates. Either is called once, and calls :meth:`close`
    at its end.

    :param experiment: the training
    :param folder: run folder
    :param held: what is released at the end
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, held: ExitStack) -> None:
        self.experiment = experiment
        self.folder = folder
        self.tracker: Tracker | None = None
        self.watch = SignalWatch()
        self._held = held

    @classmethod
    def begin(cls, options: TrainOptions, command: str) -> TrainingRun:
        """
        Check everything and create the run folder, with the options in it.

        :param options: options of the command line
        :param command: command line that repeats this run
        :raises ValueError: on a user's mistake; nothing is left on the disk
        :raises ImportError: if an option needs a package that is missing
        :raises OSError: if a file cannot be read or written
        """
        with ExitStack() as held:
            experiment = prepare(options)
            held.callback(experiment.close)
            folder = _new_folder(options)
            held.enter_context(folder.locked())
            with _removed_on_error(folder):
                return cls._started(experiment, folder, command, held)

    @classmethod
    def resume(cls, path: Path, given: Mapping[str, Any], override: bool, command: str) -> TrainingRun:
        """
        Check everything and load the newest checkpoint of a run that was stopped.

        :param path: path of the run folder
        :param given: other options of the command line
        :param override: accept options that differ from the run's
        :param command: command line that resumes the run
        :raises ValueError: if the run cannot be resumed with these options
        :raises FileNotFoundError: if there is no such run, or it has no checkpoint
        """
        open_run_folder(path)
        with ExitStack() as held:
            # Lock before reading: another process that trains changes the files.
            held.enter_context(RunFolder(path, env_id="").locked())
            experiment, folder = prepare_resumed(path, given, override)
            held.callback(experiment.close)
            return cls._started(experiment, folder, command, held)

    @classmethod
    def _started(cls, experiment: Experiment, folder: RunFolder, command: str, held: ExitStack) -> TrainingRun:
        """The run, described in its folder, and tracked if that is wanted; takes over ``held``."""
        run = cls(experiment, folder, held)
        if experiment.options.tensorboard_log is not None:
            _require_folder("--tensorboard-log", Path(experiment.options.tensorboard_log))
        run._describe(command)
        if experiment.options.track:
            run.tracker = held.enter_context(run._make_tracker())
        run._held = held.pop_all()
        return run

    def _describe(self, command: str) -> None:
        """Write options, hyper-parameters and the command, which follows those of earlier starts."""
        write_yaml(self.folder.arguments, asdict(self.experiment.options))
        # Keyed by env id: the file is also a --conf-file of other runs.
        write_yaml(self.folder.config, {self.experiment.options.env: self.experiment.hyperparameters.as_mapping()})
        with self.folder.command.open("a", encoding="utf-8") as file:
            file.write(command + "\n")

    def _make_tracker(self) -> Tracker:
        """A new run at W&B, or the one whose id is in the folder."""
        options, id_file = self.experiment.options, self.folder.wandb_id
        name = f"{options.env}__{options.algo}__{options.seed}"
        place = WandbOptions(options.wandb_project_name, options.wandb_entity, options.wandb_group, options.wandb_tags)
        run_id = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else None
        tracker = Tracker(place, name, self.experiment.config, self.folder.path, run_id)
        id_file.write_text(f"{tracker.run.id}\n", encoding="utf-8")
        return tracker

    # ------------------------------------------------------------------ running

    def run(self) -> int:
        """
        Train, evaluate, save, and print a summary.

        :return: exit code: 0; 130 or 143 if a signal ended the training; 1 if the disk, the environment or a number did
        """
        try:
            with self._opened(keep_models=True):
                code = self._train_or_explain()
                if self.tracker is not None:
                    self.tracker.exit_code = code
                return code
        except OSError as error:
            if error.errno not in STORAGE_ERRORS:
                raise
            print(storage_failure(error, self.experiment.model, self.folder, self.experiment.documents), file=sys.stderr)
            return STORAGE_FAILURE

    def train(self, after_evaluation: BaseCallback | None = None) -> MultiAgentEvalCallback:
        """
        Train and evaluate only: the folder gets the log and the evaluations, but no models, and nothing is printed.

        :param after_evaluation: called after each evaluation; may end the training
        :return: the evaluations
        :raises KeyboardInterrupt: after Ctrl-C or SIGTERM
        """
        with self._opened(keep_models=False, after_evaluation=after_evaluation):
            self._learn([StopOnSignal(self.watch), self.evaluation])
        if self.watch.is_set():
            raise KeyboardInterrupt
        return self.evaluation

    def close(self) -> None:
        """Close the environments and unlock the folder, without training."""
        self._held.close()

    @contextmanager
    def _opened(self, keep_models: bool, after_evaluation: BaseCallback | None = None) -> Iterator[None]:
        """Inside, signals are noted and the log is open; at the end everything is closed and the folder unlocked."""
        with self.watch, self._held, event_file_errors_printed_once(), closing(self._make_logger()) as logger:
            self.experiment.model.set_logger(logger)
            if self.tracker is not None:
                after_evaluation = TrackEvaluations(self.tracker)
            self.listed = ListedCallbacks(self.experiment.hyperparameters.callbacks, self.folder.path)
            self.evaluation = self._make_evaluation(keep_models, after_evaluation)
            self.checkpoints = self._make_checkpoints(logger)
            yield

    def _train_or_explain(self) -> int:
        """Train; on an error of the environment or a number, save the training as it was before the rollout."""
        if self.experiment.checkpoint is not None:
            restore_parts(self.experiment.checkpoint, self.checkpoints.parts)
            self.folder.learning_curve.unlink(missing_ok=True)
        try:
            return self._train()
        except (EnvError, NonFiniteError) as error:
            print(training_failure(error, self.folder, self.checkpoints), file=sys.stderr)
            return TRAINING_FAILURE
        except Interrupted as error:
            text = f"{error.number.name} twice, in the middle of a step or update"
            # A replay buffer, and a state that is not kept from before the rollout, may be half changed.
            whole = not has_replay_buffer(self.experiment.model)
            print(early_end(text, self.folder, self.checkpoints, save=whole), file=sys.stderr)
            return exit_code(error)

    def _train(self) -> int:
        model = self.experiment.model
        start, steps_before = time.perf_counter(), model.num_timesteps
        self._learn([self.checkpoints, *self._make_snapshots(), StopOnSignal(self.watch), self.evaluation])
        length = Duration(model.num_timesteps - steps_before, model.num_timesteps, time.perf_counter() - start)
        model.save(self.folder.last_model, {**self.experiment.documents, **self.checkpoints.buffer})
        try:
            with self.watch.at_once():  # a resumed run repeats all of it
                self._finish(length)
        except Interrupted:
            self.folder.learning_curve.unlink(missing_ok=True)
        self._report_signal()
        self._track_model()
        return self.watch.exit_code

    def _learn(self, callbacks: list[BaseCallback]) -> None:
        options, model = self.experiment.options, self.experiment.model
        try:
            # Those of off-policy algorithms are short, and are not undone.
            with nullcontext() if has_replay_buffer(model) else interruptible_updates(model, self.watch):
                model.learn(
                    self.experiment.total_timesteps - model.num_timesteps,
                    callback=[*callbacks, self.listed],
                    log_interval=_log_interval(options, model),
                    tb_log_name=options.algo,
                    reset_num_timesteps=options.trained_agent is None and self.experiment.checkpoint is None,
                    progress_bar=options.progress,
                )
        except UpdateStopped:
            if self.checkpoints in callbacks:
                self.checkpoints.save()

    # ------------------------------------------------------------------ parts of the training

    def _make_logger(self) -> RunLogger:
        options, model = self.experiment.options, self.experiment.model
        # Below --tensorboard-log a run has the same place as below the log folder.
        tensorboard = None if options.tensorboard_log is None else Path(options.tensorboard_log) / options.algo
        events = self.folder.path if tensorboard is None else tensorboard / self.folder.path.name
        # A row of this step may have been written, and is not written again.
        purge_step = None if self.experiment.checkpoint is None else model.num_timesteps + 1
        return make_logger(self.folder, events, purge_step, _screen_table(options, model), self.tracker)

    def _make_evaluation(self, keep_models: bool, after_evaluation: BaseCallback | None) -> MultiAgentEvalCallback:
        options = self.experiment.options
        after = [one for one in (after_evaluation, *self.listed.after_evaluation) if one is not None]
        return MultiAgentEvalCallback(
            self.experiment.eval_env,
            callback_after_eval=CallbackList(after) if after else None,
            n_eval_episodes=options.eval_episodes,
            eval_freq=options.eval_freq,
            log_path=self.folder.path,
            best_model_save_path=self.folder.path if keep_models else None,
            seed=options.seed,
            verbose=options.verbose,
            should_stop=self.watch.is_set,
            documents=self.experiment.documents,
        )

    def _make_checkpoints(self, logger: RunLogger) -> ResumableCheckpointCallback:
        options = self.experiment.options
        return ResumableCheckpointCallback(
            self.folder.checkpoints,
            options.save_freq,
            every_minutes=options.save_every_minutes if options.save_every_minutes > 0 else None,
            keep=options.keep_checkpoints,
            parts={
                **{"evaluation": self.evaluation, "log": logger, "start": self.experiment.start},
                **({"callbacks": self.listed} if self.experiment.hyperparameters.callbacks else {}),
            },
            documents=self.experiment.documents,
        )

    def _make_snapshots(self) -> list[BaseCallback]:
        """The callback of ``--snapshots``, if there are to be any."""
        count, experiment = self.experiment.options.snapshots, self.experiment
        steps = experiment.start.steps, experiment.total_timesteps
        return [SnapshotCallback(snapshot_folder(self.folder), count, *steps, experiment.documents)] if count else []

    # ------------------------------------------------------------------ results

    def _finish(self, length: Duration) -> None:
        """Evaluate, film and summarise."""
        results = self._final_results()
        references = self._make_references(results["random"])
        self._film()
        evaluation, title = self.evaluation, self.experiment.title
        curve = LearningCurve(evaluation.timesteps, evaluation.sampled, evaluation.greedy, references.levels)
        curve.draw(self.folder.learning_curve, title)
        print(summary(title, length, self.folder, curve, results))
        if self.tracker is not None:
            self.tracker.summarise(final_rewards(results))
            self.tracker.log_results(length.total, self.folder.learning_curve, self.folder.video)

    def _make_references(self, random: EvaluationResult) -> References:
        """Returns for comparison, written to the folder."""
        options, world = self.experiment.options, self.experiment.hyperparameters
        env_kwargs = {**world.env_kwargs, **options.eval_env_kwargs}
        references = References.of(random, options.env, env_kwargs, wrapped=bool(world.env_wrapper))
        references.write(self.folder.references)
        return references

    def _final_results(self) -> dict[str, EvaluationResult]:
        """The last evaluation, sampled and greedy, and agents that act at random for comparison."""
        env, options = self.experiment.eval_env, self.experiment.options
        chance = RandomPolicy(env.observation_spaces, env.action_spaces, options.seed)
        return {
            "sampled": self.evaluation.sampled[-1],
            "greedy": self.evaluation.greedy[-1],
            "random": evaluate_policy(chance, env, options.eval_episodes, seed=options.seed),
        }

    def _film(self) -> None:
        """Film a greedy episode if that is wanted; without usable pictures, warn and keep the training."""
        options, world = self.experiment.options, self.experiment.hyperparameters
        if not options.record:
            return
        from sb3_matrl.evaluation.film import VideoError, record_video

        if options.verbose >= 1:
            print(f"Filming a greedy episode of the last model: {self.folder.video}")
        try:
            record_video(
                self.experiment.model,
                options.env,
                self.folder.video,
                env_kwargs=world.env_kwargs,
                env_wrapper=world.env_wrapper,
                deterministic=True,
                seed=options.seed,
            )
        except VideoError as error:
            print(f"warning: there is no video: {error}", file=sys.stderr)

    def _report_signal(self) -> None:
        if self.watch.received is not None:
            steps, path = self.experiment.model.resumable_timesteps, self.folder.last_model
            place = f"{self.watch.received.name} after {steps} steps: the model is saved in {path}"
            print(f"{place}; resume with: {self.folder.resume_command}", file=sys.stderr)

    def _track_model(self) -> None:
        if self.tracker is None:
            return
        if self.watch.is_set():
            self.tracker.mark_preempting()
        files = [self.folder.last_model, self.folder.best_model, self.folder.config]
        self.tracker.log_model(files, {"num_timesteps": self.experiment.model.resumable_timesteps})


def _log_interval(options: TrainOptions, model: MultiAgentAlgorithm) -> int | None:
    """Argument of ``learn``: for -1 its default, which is in iterations, or in episodes for off-policy algorithms."""
    default: int | None = inspect.signature(model.learn).parameters["log_interval"].default
    return {-1: default, -2: None}.get(options.log_interval, options.log_interval)


def _screen_table(options: TrainOptions, model: MultiAgentAlgorithm) -> HumanOutputFormat | None:
    """What ``--verbose`` prints of the log: nothing, the numbers that one watches, or all keys."""
    if options.verbose == 0:
        return None
    names = [*model.possible_agents, *model.learners]
    return ShortTable(names) if options.verbose == 1 else HumanOutputFormat(sys.stdout)


def _new_folder(options: TrainOptions) -> RunFolder:
    if options.run_dir is None:
        return create_run_folder(Path(options.log_folder), options.algo, options.env, options.uuid)
    Path(options.run_dir).mkdir(parents=True, exist_ok=True)
    return RunFolder(Path(options.run_dir), options.env)


def _require_folder(flag: str, path: Path) -> None:
    """
    Make a folder for output of the run, if there is none.

    :raises ValueError: if that is not possible, or it cannot be written
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{flag} {path} is no folder and cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {path} cannot be written")


@contextmanager
def _removed_on_error(folder: RunFolder) -> Iterator[None]:
    """Remove a new run's folder if something fails before the training."""
    try:
        yield
    except (ValueError, OSError):
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
