"""One training run: checked first, then trained, evaluated, saved and summed up."""

from __future__ import annotations

import errno
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch as th

from sb3_matrl import MATRL
from sb3_matrl.common.callbacks import ResumableCheckpointCallback
from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.envs.making import check_env, env_source
from sb3_matrl.evaluation import EvaluationResult, MultiAgentEvalCallback, RandomPolicy, evaluate_policy
from sb3_matrl.files.checkpoints import Stateful, restore_parts
from sb3_matrl.vec_env import EnvError, JointVecEnv, make_joint_vec_env
from sb3_matrl.zoo.common.hyperparameters import ALGORITHMS, Hyperparameters, find_conf_file, load_hyperparameters
from sb3_matrl.zoo.common.policies import with_policies
from sb3_matrl.zoo.common.records import machine
from sb3_matrl.zoo.common.run_folder import RunFolder, RunStart, check_output_folder, create_run_folder
from sb3_matrl.zoo.common.signals import Interrupted, SignalWatch
from sb3_matrl.zoo.common.text_tables import returns_table
from sb3_matrl.zoo.common.yaml_files import write_yaml
from sb3_matrl.zoo.training.curves import ascii_curve, draw_curve
from sb3_matrl.zoo.training.interrupts import (
    StopOnSignal,
    UpdateStopped,
    interruptible_updates,
    storage_failure,
    training_failure,
)
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.output_formats import RunLogger, make_logger
from sb3_matrl.zoo.training.pretrained import load_pretrained
from sb3_matrl.zoo.training.tracking import Tracker, TrackEvaluations, WandbOptions, require_wandb

# Errors of the disk, which end a run with a message. Any other OSError comes from elsewhere and keeps its traceback.
STORAGE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}
)
STORAGE_FAILURE = 1
TRAINING_FAILURE = 1


@dataclass(frozen=True)
class Experiment:
    """
    A run that passed all checks and has not begun, or was stopped.

    :param options: from the command line
    :param hyperparameters: with the command line's changes
    :param model: not trained yet, or as it was when the run was stopped
    :param eval_env: for evaluations
    :param start: how far the model was trained before the run
    :param checkpoint: of the run from which it goes on; ``None`` for a run that begins
    """

    options: TrainOptions
    hyperparameters: Hyperparameters
    model: MATRL
    eval_env: JointVecEnv
    start: RunStart
    checkpoint: Path | None = None

    @property
    def title(self) -> str:
        """What is trained, in words."""
        return f"{self.options.algo} on {self.options.env}, seed {self.options.seed}"

    @property
    def total_timesteps(self) -> int:
        """Steps of the model at the end of the run."""
        return self.start.steps + self.hyperparameters.n_timesteps

    @property
    def config(self) -> dict[str, Any]:
        """Everything that determines the run, flat, and the machine with its versions."""
        return {**asdict(self.options), **self.hyperparameters.as_mapping(), "machine": machine()}

    @property
    def documents(self) -> dict[str, Any]:
        """What stands in every saved model beside it: which run it is of."""
        world = {"env": self.options.env, "env_wrapper": self.hyperparameters.env_wrapper}
        return {"run": {"algo": self.options.algo, **world}}

    def close(self) -> None:
        """Close the environments."""
        self.eval_env.close()
        if self.model.env is not None:
            self.model.env.close()


def prepare(options: TrainOptions) -> Experiment:
    """
    Check everything and build what is trained; writes nothing.

    :raises ValueError: on anything that the user got wrong
    :raises ImportError: when a package is missing that an option needs
    :raises OSError: when a file cannot be read
    """
    if options.run_dir is not None:
        check_output_folder(Path(options.run_dir))
    hyperparameters = read_hyperparameters(options)
    check_options(options, hyperparameters)
    model, hyperparameters = _build_model(options, hyperparameters)
    eval_env = evaluation_env(options, hyperparameters, model)
    return Experiment(options, hyperparameters, model, eval_env, RunStart(model.num_timesteps))


def check_options(options: TrainOptions, hyperparameters: Hyperparameters) -> None:
    """
    What can be checked before there is a model; also sets the number of threads.

    :raises ValueError: on anything that the user got wrong
    :raises ImportError: when a package is missing that an option needs
    """
    if options.track:
        require_wandb()
    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    check_env(options.env, hyperparameters.env_kwargs, hyperparameters.env_wrapper)
    if options.record:
        _check_recordable(options, hyperparameters)


def _check_recordable(options: TrainOptions, hyperparameters: Hyperparameters) -> None:
    from sb3_matrl.evaluation.film import check_recordable

    video = RunFolder(Path(), options.env).video
    check_recordable(options.env, video, hyperparameters.env_kwargs, hyperparameters.env_wrapper)


def _build_model(options: TrainOptions, hyperparameters: Hyperparameters) -> tuple[MATRL, Hyperparameters]:
    """The model, new or as it was saved, and the hyper-parameters that it has."""
    arguments: dict[str, Any] = {**ALGORITHMS[options.algo], "vec_env": options.vec_env, "seed": options.seed}
    arguments |= {"device": options.device, "verbose": options.verbose}
    source = env_source(options.env, hyperparameters.env_wrapper)
    if options.trained_agent is not None:
        path = Path(options.trained_agent)
        return load_pretrained(path, source, hyperparameters, options.hyperparams, options.trust, **arguments)
    return MATRL(env=source, **hyperparameters.model_arguments(), **arguments), hyperparameters


def evaluation_env(options: TrainOptions, hyperparameters: Hyperparameters, model: MATRL) -> JointVecEnv:
    """
    Copies of the environment for evaluations.

    :raises ValueError: when ``--eval-env-kwargs`` give it other agents or spaces than the training's
    """
    env_kwargs = {**hyperparameters.env_kwargs, **options.eval_env_kwargs}
    check_env(options.env, env_kwargs, hyperparameters.env_wrapper)
    copies = options.n_eval_envs or min(options.eval_episodes, hyperparameters.n_envs)
    env = make_joint_vec_env(env_source(options.env, hyperparameters.env_wrapper), n_envs=copies, env_kwargs=env_kwargs)
    trained = model.env
    assert trained is not None
    for kind in ("observation_spaces", "action_spaces"):
        theirs, ours = getattr(env, kind), getattr(trained, kind)
        if dict(theirs) != dict(ours):
            env.close()
            raise ValueError(f"--eval-env-kwargs {options.eval_env_kwargs}: {kind} are {theirs}, in training {ours}")
    return env


def read_hyperparameters(options: TrainOptions) -> Hyperparameters:
    """
    The YAML entry of the environment with the changes of the command line, and policies chosen where it leaves that open.

    :raises ValueError: on a wrong name or value, or when the command line contradicts itself
    """
    changes = dict(options.hyperparams)
    if options.n_timesteps is not None and changes.setdefault("n_timesteps", options.n_timesteps) != options.n_timesteps:
        asked = f"{options.n_timesteps} and {changes['n_timesteps']}"
        raise ValueError(f"--n-timesteps and --hyperparams ask for different n_timesteps, {asked}: leave one of them out")
    path = find_conf_file(options.algo, options.conf_file)
    return with_policies(load_hyperparameters(path, options.env, changes, options.env_kwargs), options.env)


def create_folder(experiment: Experiment, command: str) -> RunFolder:
    """
    Make the run's folder, with what was asked for in it.

    :param command: the command line that repeats this run
    :raises OSError: when it cannot be written
    """
    options = experiment.options
    if options.run_dir is None:
        folder = create_run_folder(Path(options.log_folder), options.algo, options.env, options.uuid)
    else:
        Path(options.run_dir).mkdir(parents=True, exist_ok=True)
        folder = RunFolder(Path(options.run_dir), options.env)
    with _removed_on_error(experiment, folder):
        describe(experiment, folder, command)
    return folder


def describe(experiment: Experiment, folder: RunFolder, command: str) -> None:
    """
    Write down what was asked for.

    :param folder: of the run
    :param command: the command line, added to those that were given before
    :raises OSError: when it cannot be written
    """
    write_yaml(folder.arguments, asdict(experiment.options))
    # Keyed by env id: the file works as --conf-file of another run.
    write_yaml(folder.config, {experiment.options.env: experiment.hyperparameters.as_mapping()})
    with folder.command.open("a", encoding="utf-8") as file:
        file.write(command + "\n")


@contextmanager
def _removed_on_error(experiment: Experiment, folder: RunFolder) -> Iterator[None]:
    """Take a new run's folder away when something fails before anything was trained."""
    try:
        yield
    except (ValueError, OSError):
        if experiment.checkpoint is None:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def start_tracking(experiment: Experiment, folder: RunFolder) -> Tracker:
    """
    Start a W&B run, or go on with the one that the folder names.

    :raises ValueError: when that fails; a new run's folder is gone then
    """
    options = experiment.options
    name = f"{options.env}__{options.algo}__{options.seed}"
    place = WandbOptions(options.wandb_project_name, options.wandb_entity, options.wandb_group, options.wandb_tags)
    run_id = folder.wandb_id.read_text(encoding="utf-8").strip() if folder.wandb_id.is_file() else None
    with _removed_on_error(experiment, folder):
        tracker = Tracker(place, name, experiment.config, folder.path, run_id)
        folder.wandb_id.write_text(f"{tracker.run.id}\n", encoding="utf-8")
    return tracker


def run(experiment: Experiment, folder: RunFolder, tracker: Tracker | None = None) -> int:
    """
    Train, evaluate, save, and print a summary.

    :param experiment: what to train
    :param folder: where everything goes
    :param tracker: a W&B run, or ``None``
    :return: exit code: 0, or 130 or 143 when a signal ended it early, or 1 when the disk or the environment did
    """
    try:
        with ExitStack() as stack:
            watch = stack.enter_context(SignalWatch())
            stack.callback(experiment.close)
            if tracker is not None:
                stack.enter_context(tracker)
            logger = _logger(experiment, folder, tracker)
            stack.callback(logger.close)
            experiment.model.set_logger(logger)
            evaluation = _evaluation_callback(experiment, folder, tracker, watch)
            checkpoints = _checkpoint_callback(experiment, folder, {"evaluation": evaluation, "log": logger})
            exit_code = _train_or_explain(experiment, folder, tracker, watch, evaluation, checkpoints)
            if tracker is not None:
                tracker.exit_code = exit_code
            return exit_code
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        print(storage_failure(error, experiment.model, folder, experiment.documents), file=sys.stderr)
        return STORAGE_FAILURE


def _train_or_explain(
    experiment: Experiment,
    folder: RunFolder,
    tracker: Tracker | None,
    watch: SignalWatch,
    evaluation: MultiAgentEvalCallback,
    checkpoints: ResumableCheckpointCallback,
) -> int:
    """Train; when the environment or a number fails, save the training as it was before the rollout, and say what happened."""
    if experiment.checkpoint is not None:
        restore_parts(experiment.checkpoint, checkpoints.parts)
        folder.learning_curve.unlink(missing_ok=True)
    try:
        return _train(experiment, folder, tracker, watch, evaluation, checkpoints)
    except (EnvError, NonFiniteError) as error:
        print(training_failure(error, folder, checkpoints), file=sys.stderr)
        return TRAINING_FAILURE


def _train(
    experiment: Experiment,
    folder: RunFolder,
    tracker: Tracker | None,
    watch: SignalWatch,
    evaluation: MultiAgentEvalCallback,
    checkpoints: ResumableCheckpointCallback,
) -> int:
    model = experiment.model
    start, steps_before = time.perf_counter(), model.num_timesteps
    _learn(experiment, watch, evaluation, checkpoints)
    seconds, steps = time.perf_counter() - start, model.num_timesteps - steps_before
    model.save(folder.last_model, experiment.documents)
    try:
        with watch.at_once():  # a resumed run does all of it anew
            _finish(experiment, folder, tracker, evaluation, steps, seconds)
    except Interrupted:
        folder.learning_curve.unlink(missing_ok=True)
    if watch.received is not None:
        place = f"{watch.received.name} after {model.resumable_timesteps} steps: the model is saved in {folder.last_model}"
        print(f"{place}; go on with: {folder.resume_command}", file=sys.stderr)
    if tracker is not None:
        if watch.is_set():
            tracker.mark_preempting()
        files = [folder.last_model, folder.best_model, folder.config]
        tracker.log_model(files, {"num_timesteps": model.resumable_timesteps})
    return watch.exit_code


def _learn(
    experiment: Experiment, watch: SignalWatch, evaluation: MultiAgentEvalCallback, checkpoints: ResumableCheckpointCallback
) -> None:
    options, model = experiment.options, experiment.model
    try:
        with interruptible_updates(model, watch):
            model.learn(
                experiment.total_timesteps - model.num_timesteps,
                callback=[checkpoints, StopOnSignal(watch), evaluation],
                log_interval={-1: 1, -2: None}.get(options.log_interval, options.log_interval),
                tb_log_name=options.algo,
                reset_num_timesteps=options.trained_agent is None and experiment.checkpoint is None,
                progress_bar=options.progress,
            )
    except UpdateStopped:
        checkpoints.save()


def _finish(
    experiment: Experiment,
    folder: RunFolder,
    tracker: Tracker | None,
    evaluation: MultiAgentEvalCallback,
    steps: int,
    seconds: float,
) -> None:
    """Evaluate, film and sum up."""
    results = final_results(experiment, evaluation)
    _record(experiment, folder)
    print(summary(experiment, folder, results, evaluation, steps, seconds))
    if tracker is not None:
        tracker.summarise({f"final/{name}_reward": result.mean for name, result in results.items()})
        tracker.log_results(experiment.model.num_timesteps, folder.learning_curve, folder.video)


def _record(experiment: Experiment, folder: RunFolder) -> None:
    """Film a greedy episode if that is wanted; a training is not lost because its environment draws no good pictures."""
    options = experiment.options
    if not options.record:
        return
    from sb3_matrl.evaluation.film import VideoError, record_video

    world = experiment.hyperparameters
    try:
        record_video(
            experiment.model,
            options.env,
            folder.video,
            env_kwargs=world.env_kwargs,
            env_wrapper=world.env_wrapper,
            deterministic=True,
            seed=options.seed,
        )
    except VideoError as error:
        print(f"warning: there is no video: {error}", file=sys.stderr)


def _logger(experiment: Experiment, folder: RunFolder, tracker: Tracker | None) -> RunLogger:
    options, model = experiment.options, experiment.model
    # A row of this step may have been written, and is not written again.
    purge_step = None if experiment.checkpoint is None else model.num_timesteps + 1
    return make_logger(folder, options.verbose, model.agents, tracker, _tensorboard_folder(options, folder), purge_step)


def _tensorboard_folder(options: TrainOptions, folder: RunFolder) -> Path:
    """Below ``--tensorboard-log`` a run has the same place as below the log folder."""
    if options.tensorboard_log is None:
        return folder.path
    return Path(options.tensorboard_log) / options.algo / folder.path.name


def _evaluation_callback(
    experiment: Experiment, folder: RunFolder, tracker: Tracker | None, watch: SignalWatch
) -> MultiAgentEvalCallback:
    options = experiment.options
    return MultiAgentEvalCallback(
        experiment.eval_env,
        callback_after_eval=None if tracker is None else TrackEvaluations(tracker),
        n_eval_episodes=options.eval_episodes,
        eval_freq=options.eval_freq,
        log_path=folder.path,
        best_model_save_path=folder.path,
        seed=options.seed,
        verbose=options.verbose,
        should_stop=watch.is_set,
        documents=experiment.documents,
    )


def _checkpoint_callback(
    experiment: Experiment, folder: RunFolder, parts: Mapping[str, Stateful]
) -> ResumableCheckpointCallback:
    options = experiment.options
    return ResumableCheckpointCallback(
        folder.checkpoints,
        options.save_freq,
        every_minutes=options.save_every_minutes if options.save_every_minutes > 0 else None,
        keep=options.keep_checkpoints,
        parts={**parts, "start": experiment.start},
        documents=experiment.documents,
    )


def final_results(experiment: Experiment, evaluation: MultiAgentEvalCallback) -> dict[str, EvaluationResult]:
    """The last evaluation, sampled and greedy, and agents that act at random for comparison."""
    env, options = experiment.eval_env, experiment.options
    chance = RandomPolicy(env.observation_spaces, env.action_spaces, options.seed)
    return {
        "sampled": evaluation.sampled[-1],
        "greedy": evaluation.greedy[-1],
        "random": evaluate_policy(chance, env, options.eval_episodes, seed=options.seed),
    }


def summary(
    experiment: Experiment,
    folder: RunFolder,
    results: Mapping[str, EvaluationResult],
    evaluation: MultiAgentEvalCallback,
    steps: int,
    seconds: float,
) -> str:
    """Draw the learning curve into the run's folder, and say in text how the training went, in how many steps and seconds."""
    title, total = experiment.title, experiment.model.num_timesteps
    draw_curve(folder.learning_curve, title, evaluation.timesteps, evaluation.sampled, evaluation.greedy)
    in_all = f", {total} in all" if total > steps else ""
    parts = [f"{title}: {steps} steps in {seconds:.1f} s ({steps / seconds:.0f} steps/s with evaluations){in_all}"]
    if len(evaluation.timesteps) > 1:
        sampled, greedy = ([result.mean for result in kind] for kind in (evaluation.sampled, evaluation.greedy))
        parts.append(ascii_curve(evaluation.timesteps, sampled, greedy))
    parts.append(returns_table(results))
    video = f", {folder.video.name} shows it" if folder.video.is_file() else ""
    models = f"the last model is {folder.last_model.name}{video}, the best {folder.best_model.name}"
    parts.append(f"Everything is in {folder.path}; {models}.")
    return "\n" + "\n\n".join(parts)
