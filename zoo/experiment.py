"""One training run: checked first, then trained, evaluated, saved and summed up."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger, make_output_format

from sb3_matrl import MATRL
from sb3_matrl.common.callbacks import MultiAgentEvalCallback
from sb3_matrl.evaluation import EvaluationResult, RandomPolicy, evaluate_policy
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env
from zoo.config import ALGORITHMS, Hyperparameters, find_conf_file, load_hyperparameters, write_yaml
from zoo.curves import ascii_curve, draw_curve
from zoo.environments import check_env
from zoo.interrupts import StopOnSignal
from zoo.runs import CHECKPOINT_PREFIX, RunFolder, check_output_folder, create_run_folder
from zoo.tables import returns_table
from zoo.tracking import Tracker, require_wandb

TABLE_WIDTH = 72


@dataclass(frozen=True)
class TrainOptions:
    """
    The command line of ``train.py``, which ``--help`` explains; the schema of ``args.yml``.

    :param seed: already drawn when none was given
    """

    algo: str
    env: str
    n_timesteps: int | None
    seed: int
    log_folder: str
    run_dir: str | None
    conf_file: str | None
    hyperparams: dict[str, Any]
    env_kwargs: dict[str, Any]
    eval_freq: int
    eval_episodes: int
    save_freq: int
    vec_env: str
    device: str
    num_threads: int
    verbose: int
    progress: bool
    track: bool
    wandb_project_name: str
    wandb_entity: str | None


@dataclass(frozen=True)
class Experiment:
    """
    A run that passed all checks and has not begun.

    :param options: from the command line
    :param hyperparameters: with the command line's changes
    :param model: not trained yet
    :param eval_env: for evaluations
    """

    options: TrainOptions
    hyperparameters: Hyperparameters
    model: MATRL
    eval_env: JointVecEnv

    @property
    def config(self) -> dict[str, Any]:
        """Everything that determines the run, flat."""
        return {**asdict(self.options), **self.hyperparameters.as_mapping()}

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
    if options.track:
        require_wandb()
    if options.run_dir is not None:
        check_output_folder(Path(options.run_dir))
    th.set_num_threads(options.num_threads)
    hyperparameters = read_hyperparameters(options)
    check_env(options.env, hyperparameters.env_kwargs)
    model = MATRL(
        env=options.env,
        **{**hyperparameters.model_arguments(), **ALGORITHMS[options.algo]},
        vec_env=options.vec_env,
        seed=options.seed,
        device=options.device,
        verbose=options.verbose,
    )
    copies = min(options.eval_episodes, hyperparameters.n_envs)
    eval_env = make_joint_vec_env(options.env, n_envs=copies, env_kwargs=hyperparameters.env_kwargs)
    return Experiment(options, hyperparameters, model, eval_env)


def read_hyperparameters(options: TrainOptions) -> Hyperparameters:
    """The YAML entry of the environment with the changes of the command line."""
    changes = dict(options.hyperparams)
    if options.n_timesteps is not None:
        changes["n_timesteps"] = options.n_timesteps
    path = find_conf_file(options.algo, options.conf_file)
    return load_hyperparameters(path, options.env, changes, options.env_kwargs)


def create_folder(experiment: Experiment, command: str) -> RunFolder:
    """
    Make the run's folder, with what was asked for in it.

    :param command: the command line that repeats this run
    :raises OSError: when it cannot be written
    """
    options = experiment.options
    if options.run_dir is None:
        folder = create_run_folder(Path(options.log_folder), options.algo, options.env)
    else:
        Path(options.run_dir).mkdir(parents=True, exist_ok=True)
        folder = RunFolder(Path(options.run_dir), options.env)
    write_yaml(folder.arguments, asdict(options))
    # Keyed by env id: the file works as --conf-file of another run.
    write_yaml(folder.config, {options.env: experiment.hyperparameters.as_mapping()})
    folder.command.write_text(command + "\n", encoding="utf-8")
    return folder


def start_tracking(experiment: Experiment, folder: RunFolder) -> Tracker:
    """
    Start a W&B run.

    :raises ValueError: when that fails; the run's folder is gone then
    """
    options = experiment.options
    name = f"{options.env}__{options.algo}__{options.seed}"
    try:
        return Tracker(options.wandb_project_name, options.wandb_entity, name, experiment.config, folder.path)
    except ValueError:
        shutil.rmtree(folder.path)
        raise


def run(experiment: Experiment, folder: RunFolder, tracker: Tracker | None = None) -> int:
    """
    Train, evaluate, save, and print a summary.

    :param experiment: what to train
    :param folder: where everything goes
    :param tracker: a W&B run, or ``None``
    :return: exit code: 0, or 130 or 143 when a signal ended it early
    """
    with ExitStack() as stack:
        stack.callback(experiment.close)
        if tracker is not None:
            stack.enter_context(tracker)
        logger = make_logger(folder, experiment.options.verbose, experiment.model.agents, tracker)
        stack.callback(logger.close)
        experiment.model.set_logger(logger)
        evaluation = _evaluation_callback(experiment, folder)
        start = time.perf_counter()
        stop = _learn(experiment, folder, evaluation)
        seconds = time.perf_counter() - start
        experiment.model.save(folder.last_model)
        if stop.signal is not None:
            steps = experiment.model.num_timesteps
            print(f"{stop.signal.name} after {steps} steps: the model is saved in {folder.last_model}", file=sys.stderr)
            return stop.exit_code
        results = final_results(experiment, evaluation)
        if tracker is not None:
            tracker.summarise({f"final/{name}_reward": result.mean for name, result in results.items()})
        print(summary(experiment, folder, results, evaluation, seconds))
        return 0


def _learn(experiment: Experiment, folder: RunFolder, evaluation: MultiAgentEvalCallback) -> StopOnSignal:
    callbacks: list[BaseCallback] = [evaluation, *_checkpoint_callbacks(experiment, folder)]
    with StopOnSignal(evaluation) as stop:
        experiment.model.learn(
            experiment.hyperparameters.n_timesteps,
            callback=[stop, *callbacks],
            tb_log_name=experiment.options.algo,
            progress_bar=experiment.options.progress,
        )
    return stop


class ScreenTable(HumanOutputFormat):
    """
    SB3's table on the screen, without what the agents' learners say about themselves.

    :param agents: keys that begin with one of these names are left out, except the agents' returns
    """

    def __init__(self, agents: Iterable[str]) -> None:
        # Wider than SB3's 36, which cuts off (and then refuses) long names of agents.
        super().__init__(sys.stdout, max_length=TABLE_WIDTH)
        self._hidden = tuple(f"{agent}/" for agent in agents)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Print the keys that are shown."""
        shown = [key for key in key_values if not key.startswith(self._hidden) or key.endswith("/ep_rew_mean")]
        super().write({key: key_values[key] for key in shown}, {key: key_excluded[key] for key in shown}, step)


def make_logger(folder: RunFolder, verbose: int, agents: Iterable[str], tracker: Tracker | None) -> Logger:
    """
    SB3's logger: CSV and TensorBoard in the run's folder, and what is asked for beside them.

    :param folder: of the run
    :param verbose: 1 for a table on the screen, 2 for one with everything
    :param agents: their names
    :param tracker: W&B, or ``None``
    """
    formats: list[KVWriter] = [make_output_format(name, str(folder.path)) for name in ("csv", "tensorboard")]
    if verbose > 0:
        formats.append(ScreenTable(agents if verbose == 1 else ()))
    if tracker is not None:
        formats.append(tracker.writer())
    return Logger(str(folder.path), formats)


def _evaluation_callback(experiment: Experiment, folder: RunFolder) -> MultiAgentEvalCallback:
    options = experiment.options
    return MultiAgentEvalCallback(
        experiment.eval_env,
        n_eval_episodes=options.eval_episodes,
        eval_freq=options.eval_freq,
        log_path=folder.path,
        best_model_save_path=folder.path,
        seed=options.seed,
        verbose=options.verbose,
    )


def _checkpoint_callbacks(experiment: Experiment, folder: RunFolder) -> list[BaseCallback]:
    if experiment.options.save_freq <= 0:
        return []
    # SB3 counts calls, one for a step of all copies.
    calls = max(experiment.options.save_freq // experiment.model.n_envs, 1)
    return [CheckpointCallback(calls, str(folder.checkpoints), name_prefix=CHECKPOINT_PREFIX)]


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
    seconds: float,
) -> str:
    """Draw the learning curve into the run's folder, and say in text how the training went."""
    options, steps = experiment.options, experiment.model.num_timesteps
    title = f"{options.algo} on {options.env}, seed {options.seed}"
    draw_curve(folder.learning_curve, title, evaluation.timesteps, evaluation.sampled, evaluation.greedy)
    parts = [f"{title}: {steps} steps in {seconds:.1f} s ({steps / seconds:.0f} steps/s with evaluations)"]
    if len(evaluation.timesteps) > 1:
        sampled, greedy = ([result.mean for result in kind] for kind in (evaluation.sampled, evaluation.greedy))
        parts.append(ascii_curve(evaluation.timesteps, sampled, greedy))
    parts.append(returns_table(results))
    parts.append(
        f"Everything is in {folder.path}; the last model is {folder.last_model.name}, the best {folder.best_model.name}."
    )
    return "\n" + "\n\n".join(parts)
