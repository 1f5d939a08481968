"""
Seconds of learning iterations, and returns, of an algorithm of BenchMARL in one of this repository's environments.

Runs in the virtual environment that `make benchmarl` makes, which has no Stable-Baselines3:

    .venv-benchmarl/bin/python -m benchmarks.benchmarl_peer '{"env": "checkers_v0", ...}'

The argument is a :class:`Task` as JSON; the last line of the output is the result as JSON. Every agent has networks of its
own, as independent learners do; critics of MAPPO and the mixer of QMIX see the environment's state. Evaluation, logging to
files and checkpoints are off. An iteration lasts from the end of one rollout to the end of the next: its gradient steps, and
the collection of the next rollout. Observations are not normalised, because BenchMARL does not do that by default.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch as th
from benchmarl.algorithms import IppoConfig, MappoConfig, QmixConfig, VdnConfig  # type: ignore[import-not-found]
from benchmarl.environments.common import TaskClass  # type: ignore[import-not-found]
from benchmarl.experiment import Experiment, ExperimentConfig  # type: ignore[import-not-found]
from benchmarl.experiment.callback import Callback  # type: ignore[import-not-found]
from benchmarl.models.mlp import MlpConfig  # type: ignore[import-not-found]
from pettingzoo.utils import BaseParallelWrapper
from torchrl.data import Composite  # type: ignore[import-not-found]
from torchrl.envs import EnvBase, MarlGroupMapType, PettingZooWrapper  # type: ignore[import-not-found]

from sb3_matrl.envs import make

ALGORITHMS = {"ippo": IppoConfig, "mappo": MappoConfig, "vdn": VdnConfig, "qmix": QmixConfig}
# Those that read the environment's state.
WITH_STATE = ("mappo", "qmix")


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    What is measured.

    :param env: id of the environment
    :param env_kwargs: its options
    :param n_envs: number of copies
    :param n_steps: steps of a rollout per copy
    :param batch_size: rows of a minibatch
    :param n_epochs: epochs; of VDN and QMIX gradient steps after a rollout
    :param net_arch: units of the hidden layers
    :param activation: class of the hidden layers' activation in ``torch.nn``
    :param iterations: measured iterations
    :param warm_up: iterations before them
    :param algorithm: name of one of :data:`ALGORITHMS`
    :param settings: name -> value of settings of BenchMARL's algorithm or experiment that are not its defaults
    :param seed: seed of the experiment
    """

    env: str
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    iterations: int
    warm_up: int = 1
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    net_arch: list[int] = field(default_factory=lambda: [64, 64])
    activation: str = "Tanh"
    algorithm: str = "ippo"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def rows(self) -> int:
        """Joint steps of a rollout over all copies."""
        return self.n_envs * self.n_steps


class WithoutInfos(BaseParallelWrapper):  # type: ignore[misc]
    """An environment without infos: TorchRL stores them, and fails if their keys change."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observations, infos = super().reset(seed, options)
        return observations, {agent: {} for agent in infos}

    def step(self, actions: dict[str, Any]) -> Any:
        *outcome, infos = super().step(actions)
        return *outcome, {agent: {} for agent in infos}


class WorldTask(TaskClass):  # type: ignore[misc]
    """One of this repository's environments as a task of BenchMARL."""

    def get_env_fun(self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any) -> Callable[[], EnvBase]:
        return lambda: PettingZooWrapper(
            env=WithoutInfos(make(self.config["env"], **self.config["env_kwargs"])),
            categorical_actions=True,
            device=device,
            seed=seed,
            return_state=self.config["state"],
            # Agents of a group would need like spaces.
            group_map=MarlGroupMapType.ONE_GROUP_PER_AGENT if self.config["unlike"] else None,
        )

    def supports_continuous_actions(self) -> bool:
        return bool(self.config["continuous"])

    def supports_discrete_actions(self) -> bool:
        return not self.config["continuous"]

    def has_render(self, env: EnvBase) -> bool:
        return False

    def max_steps(self, env: EnvBase) -> int:
        return 1000

    def group_map(self, env: EnvBase) -> dict[str, list[str]]:
        return dict(env.group_map)

    def state_spec(self, env: EnvBase) -> Composite | None:
        return Composite({"state": env.observation_spec["state"].clone()}) if self.config["state"] else None

    def action_mask_spec(self, env: EnvBase) -> Composite | None:
        return None

    def info_spec(self, env: EnvBase) -> Composite | None:
        return None

    def observation_spec(self, env: EnvBase) -> Composite:
        spec = env.observation_spec
        groups = {
            name: Composite({"observation": spec[name, "observation"].clone()}, shape=spec[name].shape)
            for name in env.group_map
        }
        return Composite(groups)

    def action_spec(self, env: EnvBase) -> Composite:
        return env.full_action_spec

    @staticmethod
    def env_name() -> str:
        return "sb3-matrl"


class Clock(Callback):  # type: ignore[misc]
    """Time and mean return of the episodes at the end of every rollout, and the number of gradient steps."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.cpu_times: list[float] = []
        self.rows: list[int] = []
        self.returns: list[float | None] = []
        self.gradient_steps = 0

    def on_batch_collected(self, batch: Any) -> None:
        self.times.append(time.perf_counter())
        self.cpu_times.append(time.process_time())
        self.rows.append(batch.numel())
        groups = self.experiment.train_group_map
        # (..., n_agents, 1) per group; a copy's episode ends with that of its last agent.
        returns = sum(batch["next", group, "episode_reward"].sum(dim=-2) for group in groups)
        ended = returns[batch["next", "done"]]
        self.returns.append(float(ended.mean()) if len(ended) else None)

    def on_train_step(self, batch: Any, group: str) -> None:
        self.gradient_steps += 1


def experiment_config(task: Task, folder: str) -> ExperimentConfig:
    """
    BenchMARL's settings, with everything off that is no part of learning.

    :param task: sizes
    :param folder: folder for what BenchMARL writes all the same
    """
    config = ExperimentConfig.get_from_yaml()
    changes: dict[str, Any] = {
        "share_policy_params": False,
        "max_n_frames": None,
        "max_n_iters": task.warm_up + task.iterations + 1,
        "on_policy_collected_frames_per_batch": task.rows,
        "on_policy_n_envs_per_worker": task.n_envs,
        "on_policy_n_minibatch_iters": task.n_epochs,
        "on_policy_minibatch_size": task.batch_size,
        "off_policy_collected_frames_per_batch": task.rows,
        "off_policy_n_envs_per_worker": task.n_envs,
        "off_policy_n_optimizer_steps": task.n_epochs,
        "off_policy_train_batch_size": task.batch_size,
        "evaluation": False,
        "render": False,
        "loggers": [],
        "create_json": False,
        "save_folder": folder,
        **{
            name: value for name, value in task.settings.items() if name not in ALGORITHMS[task.algorithm].__dataclass_fields__
        },
    }
    for name, value in changes.items():
        if not hasattr(config, name):
            raise AttributeError(f"BenchMARL's ExperimentConfig has no {name}: is another version installed?")
        setattr(config, name, value)
    return config


def describe_env(task: Task) -> dict[str, Any]:
    """The environment's options for :class:`WorldTask`."""
    env = make(task.env, **task.env_kwargs)
    observations = [env.observation_space(agent).shape for agent in env.possible_agents]
    continuous = [bool(env.action_space(agent).shape) for agent in env.possible_agents]
    env.close()
    return {
        "env": task.env,
        "env_kwargs": task.env_kwargs,
        "continuous": any(continuous),
        "unlike": len(set(observations)) > 1,
        "state": task.algorithm in WITH_STATE,
        "n_agents": len(observations),
    }


def measure(task: Task) -> dict[str, Any]:
    """
    Train and measure.

    :param task: what is measured
    :return: seconds of the iterations, on the clock and of this process, joint steps and gradient steps of one iteration (of
        one agent's networks, summed over agents), the team's mean return of the episodes that ended in each rollout, and
        versions
    """
    clock, options = Clock(), describe_env(task)
    algorithm = ALGORITHMS[task.algorithm].get_from_yaml()
    if hasattr(algorithm, "share_param_critic"):
        algorithm.share_param_critic = False
    for name in task.settings.keys() & vars(algorithm).keys():
        setattr(algorithm, name, task.settings[name])
    layers = {"num_cells": task.net_arch, "layer_class": th.nn.Linear, "activation_class": getattr(th.nn, task.activation)}
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(
            task=WorldTask(name="WORLD", config=options),
            algorithm_config=algorithm,
            model_config=MlpConfig(**layers),
            critic_model_config=MlpConfig(**layers),
            seed=task.seed,
            config=experiment_config(task, folder),
            callbacks=[clock],
        )
        experiment.run()
    seconds, cpu_seconds = (
        [end - start for start, end in pairwise(times)][task.warm_up :] for times in (clock.times, clock.cpu_times)
    )
    groups = len(experiment.train_group_map)
    steps = clock.gradient_steps // len(clock.times) // groups * options["n_agents"]
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "env_steps": clock.rows[-1],
        "gradient_steps": steps,
        "returns": clock.returns,
        "versions": {name: version(name) for name in ("benchmarl", "torchrl", "tensordict", "torch")},
    }


def main() -> None:
    th.set_num_threads(1)
    print(json.dumps(measure(Task(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
