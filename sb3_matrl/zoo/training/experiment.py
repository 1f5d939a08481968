"""An experiment: a model with its environments and settings, built from the command line and checked before it is trained."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.callbacks import has_replay_buffer
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.envs.making import check_env, env_source
from sb3_matrl.stacked.native_kernel import set_kernel_threads
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters, find_conf_file, load_hyperparameters
from sb3_matrl.zoo.common.policies import with_learners
from sb3_matrl.zoo.common.records import machine
from sb3_matrl.zoo.common.run_folder import RunFolder, RunStart, check_output_folder
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.pretrained import load_pretrained
from sb3_matrl.zoo.training.tracking import require_wandb


@dataclass(frozen=True)
class Experiment:
    """
    A training that passed all checks and has not begun, or was stopped.

    :param options: options of the command line
    :param hyperparameters: hyper-parameters with the changes of the command line
    :param model: the model, not trained yet, or as it was when the training was stopped
    :param eval_env: environment for evaluations
    :param start: steps for which the model was trained before this run
    :param checkpoint: checkpoint of the run to resume; ``None`` for a new run
    """

    options: TrainOptions
    hyperparameters: Hyperparameters
    model: MultiAgentAlgorithm
    eval_env: JointVecEnv
    start: RunStart
    checkpoint: Path | None = None

    @property
    def title(self) -> str:
        """Algorithm, environment and seed."""
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
        """Description of the run, stored in every saved model."""
        world = {"env": self.options.env, "env_wrapper": self.hyperparameters.env_wrapper}
        return {"run": {"algo": self.options.algo, **world}}

    def close(self) -> None:
        """Close the environments."""
        self.eval_env.close()
        if self.model.env is not None:
            self.model.env.close()


def prepare(options: TrainOptions) -> Experiment:
    """
    Check everything and build the model; nothing is written.

    :param options: options of the command line
    :raises ValueError: on a user's mistake
    :raises ImportError: if an option needs a package that is missing
    """
    if options.run_dir is not None:
        check_output_folder(Path(options.run_dir))
    hyperparameters = read_hyperparameters(options)
    check_options(options, hyperparameters)
    model, hyperparameters = _build_model(options, hyperparameters)
    env = evaluation_env(options, hyperparameters, model)
    if has_replay_buffer(model):
        _check_turns(options, env)
    return Experiment(options, hyperparameters, model, env, RunStart(model.num_timesteps))


def read_hyperparameters(options: TrainOptions) -> Hyperparameters:
    """
    The YAML entry of the environment with the changes of the command line, and classes and policies of the learners chosen
    where it leaves them open.

    :param options: options of the command line
    :raises ValueError: on a wrong name or value, or options that contradict each other
    """
    changes = dict(options.hyperparams)
    if options.n_timesteps is not None and changes.setdefault("n_timesteps", options.n_timesteps) != options.n_timesteps:
        asked = f"{options.n_timesteps} and {changes['n_timesteps']}"
        raise ValueError(f"--n-timesteps and --hyperparams ask for different n_timesteps, {asked}: leave one of them out")
    path = find_conf_file(options.algo, options.conf_file)
    hyperparameters = load_hyperparameters(path, options.algo, options.env, changes, options.env_kwargs)
    return with_learners(hyperparameters, options.env, options.env_timeout)


def check_options(options: TrainOptions, hyperparameters: Hyperparameters) -> None:
    """
    Check what can be checked without a model; also set the numbers of threads.

    :param options: options of the command line
    :param hyperparameters: hyper-parameters of the training
    :raises ValueError: on a user's mistake
    :raises ImportError: if an option needs a package that is missing
    """
    if options.track:
        require_wandb()
    _check_workers(options)
    if options.num_threads > 0:
        th.set_num_threads(options.num_threads)
    set_kernel_threads(options.kernel_threads)
    check_env(options.env, hyperparameters.env_kwargs, hyperparameters.env_wrapper)
    if options.record:
        _check_recordable(options, hyperparameters)


def _check_workers(options: TrainOptions) -> None:
    """
    :raises ValueError: if a flag of rollout workers is given without them
    """
    if options.ray_address is not None and (options.rollout_workers is None or options.worker_backend != "ray"):
        raise ValueError("--ray-address needs --rollout-workers and --worker-backend ray")
    if options.ray_address is not None:
        os.environ["RAY_ADDRESS"] = options.ray_address


def _check_recordable(options: TrainOptions, hyperparameters: Hyperparameters) -> None:
    from sb3_matrl.evaluation.film import check_recordable

    video = RunFolder(Path(), options.env).video
    check_recordable(options.env, video, hyperparameters.env_kwargs, hyperparameters.env_wrapper)


def fixed_arguments(options: TrainOptions) -> dict[str, Any]:
    """
    Constructor arguments that no file of hyper-parameters sets: those of the algorithm's name, and of flags of their own.

    :param options: options of the command line
    """
    names = ("vec_env", "env_timeout", "seed", "rollout_workers")
    given = {name: getattr(options, name) for name in names}
    return {**algorithm_spec(options.algo).fixed, **accepted_arguments(options.algo, given)}


def accepted_arguments(algorithm: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Those of some arguments that an algorithm's constructor has.

    :param algorithm: name of the algorithm
    :param arguments: name -> value
    """
    known = inspect.signature(algorithm_spec(algorithm).load_class()).parameters
    return {name: value for name, value in arguments.items() if name in known}


def _build_model(options: TrainOptions, hyperparameters: Hyperparameters) -> tuple[MultiAgentAlgorithm, Hyperparameters]:
    """The model, new or as it was saved, and its hyper-parameters."""
    given = {"device": options.device, "verbose": options.verbose, "worker_backend": options.worker_backend}
    arguments = {**fixed_arguments(options), **accepted_arguments(options.algo, given)}
    source = env_source(options.env, hyperparameters.env_wrapper)
    if options.trained_agent is not None:
        return load_pretrained(options, source, hyperparameters, arguments)
    algorithm = algorithm_spec(options.algo).load_class()
    model: MultiAgentAlgorithm = algorithm(env=source, **hyperparameters.model_arguments(), **arguments)
    return model, hyperparameters


def _check_turns(options: TrainOptions, env: JointVecEnv) -> None:
    """
    :raises ValueError: if agents take turns, which off-policy algorithms would find out in the training
    :raises EnvError: if the env fails in its reset
    """
    env.seed(options.seed)
    env.reset()
    if not np.array_equal(env.acting, env.alive):
        raise ValueError(f"in {options.env} agents take turns: --algo {options.algo} needs agents that all act in every step")


def evaluation_env(options: TrainOptions, hyperparameters: Hyperparameters, model: MultiAgentAlgorithm) -> JointVecEnv:
    """
    Copies of the environment for evaluations.

    :param options: options of the command line
    :param hyperparameters: hyper-parameters of the training
    :param model: the model, with its training environment
    :raises ValueError: if ``--eval-env-kwargs`` give the copies other agents or spaces than those of the training
    """
    env_kwargs = {**hyperparameters.env_kwargs, **options.eval_env_kwargs}
    check_env(options.env, env_kwargs, hyperparameters.env_wrapper)
    copies = options.n_eval_envs or min(options.eval_episodes, hyperparameters.n_envs)
    source = env_source(options.env, hyperparameters.env_wrapper)
    env = make_joint_vec_env(source, n_envs=copies, env_kwargs=env_kwargs, env_timeout=options.env_timeout)
    trained = model.env
    assert trained is not None
    for kind in ("observation_spaces", "action_spaces"):
        theirs, ours = getattr(env, kind), getattr(trained, kind)
        if dict(theirs) != dict(ours):
            env.close()
            raise ValueError(f"--eval-env-kwargs {options.eval_env_kwargs}: {kind} are {theirs}, in training {ours}")
    return env
