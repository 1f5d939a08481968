"""Speed and memory of trainings on two devices, and the crossover between them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO

from benchmarks.shared import zoo_settings
from benchmarks.speed_columns import MANY_AGENTS
from sb3_matrl import MATRL
from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.stacked.kernels import make_kernel
from sb3_matrl.stacked.lockstep import StepSettings
from sb3_matrl.stacked.minibatches import Columns, StackedBatch
from sb3_matrl.stacked.native_kernel import native_obstacle, set_kernel_threads
from sb3_matrl.stacked.storage import Stack
from sb3_matrl.zoo.common.hyperparameters import find_conf_file, load_hyperparameters

N_FEATURES, N_ACTIONS = 16, 5


@dataclass(frozen=True)
class Scale:
    """
    Size of the measurements.

    :param agents: numbers of agents of the trainings
    :param grid_agents: numbers of agents of the crossover
    :param minibatches: sizes of minibatches of the crossover
    :param widths: widths of the two hidden layers of the crossover
    :param rows: rows of the rollouts of the crossover
    :param pong: hyper-parameters of Pong from pixels that differ from the zoo's file
    :param iterations: iterations or epochs that are measured, after one that is not
    :param replay_batches: sizes of batches of the off-policy algorithms
    """

    agents: tuple[int, ...]
    grid_agents: tuple[int, ...]
    minibatches: tuple[int, ...]
    widths: tuple[int, ...]
    rows: int
    pong: dict[str, Any]
    iterations: int
    replay_batches: tuple[int, ...]


FULL = Scale(
    agents=(2, 8, 16, 64),
    grid_agents=(2, 8, 32),
    minibatches=(64, 512, 4096),
    widths=(64, 256),
    rows=4096,
    pong={"n_envs": 16, "n_steps": 16, "n_epochs": 1, "br_n_epochs": 1},
    iterations=2,
    replay_batches=(128, 1024, 8192),
)
TINY = Scale(
    agents=(2,),
    grid_agents=(2,),
    minibatches=(8, 16),
    widths=(64,),
    rows=16,
    pong={"n_envs": 2, "n_steps": 4, "n_epochs": 1, "br_n_epochs": 1, "batch_size": 8},
    iterations=1,
    replay_batches=(16,),
)


def backends(device: str) -> list[str]:
    """
    Backends that can be measured.

    :param device: device of the networks
    """
    if device != "cpu":
        return ["sb3", "torch"]
    return ["sb3", "torch", *(["native"] if native_obstacle() is None else [])]


def synchronize(device: str) -> None:
    """Wait until a device has done all its work."""
    if th.device(device).type == "cuda":
        th.cuda.synchronize(device)


def training_speed(build: Callable[[], Any], iterations: int, device: str) -> dict[str, float]:
    """
    Seconds of the phases of an iteration, and the peak of the device's memory.

    :param build: returns a model of MATRL; its environment is closed at the end
    :param iterations: iterations that are measured, after one that is not
    :param device: device of its networks
    :return: ``collect`` and ``update`` (medians), ``steps_per_second``, ``device_mib`` on a GPU
    """
    on_gpu = th.device(device).type == "cuda"
    gc.collect()  # models of earlier measurements
    left = th.cuda.memory_allocated(device) if on_gpu else 0
    model = build()
    seconds: dict[str, list[float]] = {"collect": [], "update": []}

    def timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            synchronize(device)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            synchronize(device)
            times.append(time.perf_counter() - start)
            return result

        return call

    model.collect_rollouts = timed(model.collect_rollouts, seconds["collect"])
    model.train = timed(model.train, seconds["update"])
    if on_gpu:
        th.cuda.reset_peak_memory_stats(device)
    rows = model.n_envs * model.n_steps
    with closing(model.env):
        model.learn((1 + iterations) * rows, log_interval=None)
    found = {name: float(np.median(times[1:])) for name, times in seconds.items()}
    found["steps_per_second"] = rows / sum(found.values())
    if on_gpu:
        found["device_mib"] = (th.cuda.max_memory_allocated(device) - left) / 2**20
    return found


def pong_model(scale: Scale, device: str) -> MATRL:
    """
    MATRL in Pong from pixels.

    :param scale: size of the measurement
    :param device: device of the networks
    """
    settings = zoo_settings("matrl", "pong_v3", "pixels", **scale.pong)
    return _model(settings, "pong_v3", device)


def many_agents_model(n_agents: int, backend: str, device: str) -> MATRL:
    """
    MATRL in a world of many agents, with the settings of Checkers.

    :param n_agents: number of agents
    :param backend: argument of MATRL
    :param device: device of the networks
    """
    changes: dict[str, Any] = {"env_kwargs": {"n_agents": n_agents}, "n_steps": 25, "batch_size": 500, "backend": backend}
    return _model(zoo_settings("matrl", "checkers_v0", **changes), MANY_AGENTS, device)


def replay_seconds(algorithm: str, batch_size: int, device: str, n_steps: int = 20) -> float:
    """
    Seconds of a gradient step of an off-policy algorithm in Checkers, with the zoo's settings.

    :param algorithm: its name
    :param batch_size: size of its batches
    :param device: device of its networks
    :param n_steps: number of steps
    """
    changes = {"batch_size": batch_size, "learning_starts": 10_000, "buffer_size": 10_000}
    spec = algorithm_spec(algorithm)
    settings = load_hyperparameters(find_conf_file(algorithm, None), algorithm, "checkers_v0", changes)
    model = spec.load_class()(env="checkers_v0", seed=0, device=device, **settings.model_arguments(), **spec.fixed)
    with closing(model.env):
        model.learn(1000, log_interval=None)
        times = []
        for _ in range(3):
            synchronize(device)
            start = time.perf_counter()
            model.train(n_steps)
            synchronize(device)
            times.append(time.perf_counter() - start)
    return float(np.median(times[1:])) / n_steps


def _model(settings: Any, env: str, device: str) -> MATRL:
    fixed = algorithm_spec(settings.algorithm).fixed
    return MATRL(env=env, seed=0, device=device, **settings.model_arguments(), **fixed)


@dataclass(frozen=True)
class Point:
    """
    A point of the crossover's grid.

    :param n_agents: number of agents
    :param minibatch: rows of a minibatch
    :param width: width of the two hidden layers
    """

    n_agents: int
    minibatch: int
    width: int

    @property
    def work(self) -> int:
        """Rows of all agents in a minibatch, times the parameters of an agent."""
        n_parameters: int = sum(one.numel() for one in _policy(self.width, "cpu").parameters())
        return self.n_agents * self.minibatch * n_parameters

    def seconds(self, scale: Scale, device: str, backend: str, together: bool = True, threads: int | None = None) -> float:
        """
        Seconds of an epoch of all agents.

        :param scale: size of the measurement
        :param device: device of the networks
        :param backend: ``torch`` or ``native``
        :param together: whether agents are updated as one stack, or one by one
        :param threads: threads of ``native``, see :func:`~sb3_matrl.stacked.native_kernel.set_kernel_threads`
        """
        set_kernel_threads(threads)
        sizes = [self.n_agents] if together else [1] * self.n_agents
        updates = [_Update(size, self, scale.rows, device, backend) for size in sizes]
        times = []
        for _ in range(1 + scale.iterations):
            synchronize(device)
            start = time.perf_counter()
            for update in updates:
                update.epoch()
            synchronize(device)
            times.append(time.perf_counter() - start)
        return float(np.median(times[1:]))


def _policy(width: int, device: str) -> Any:
    env = SpacesVecEnv(1, spaces.Box(-1.0, 1.0, (N_FEATURES,), np.float32), spaces.Discrete(N_ACTIONS))
    arguments = {"device": device, "n_steps": 8, "batch_size": 8, "policy_kwargs": {"net_arch": [width, width]}}
    return build_learner(PPO, "MlpPolicy", env, arguments, None).policy


class _Update:
    """An update of some agents on random data."""

    def __init__(self, n_agents: int, point: Point, rows: int, device: str, backend: str) -> None:
        policies = [_policy(point.width, device) for _ in range(n_agents)]
        self.kernel = make_kernel(Stack(policies), backend)
        self.optimizers: list[th.optim.Optimizer] = [policy.optimizer for policy in policies]
        generator = th.Generator().manual_seed(0)
        shape = (n_agents, rows)
        columns = Columns(*(th.rand(shape, generator=generator).to(device) for _ in range(5)))
        actions = th.randint(N_ACTIONS, (*shape, 1), generator=generator).float().to(device)
        self.batch = StackedBatch(th.rand((*shape, N_FEATURES), generator=generator).to(device), actions, columns, None)
        self.rng, self.rows, self.minibatch = np.random.default_rng(0), rows, point.minibatch
        self.settings = StepSettings(
            learning_rate=1e-4,
            betas=(0.9, 0.999),
            eps=1e-5,
            clip_range=0.2,
            clip_range_vf=None,
            normalize_advantage=True,
            ent_coef=0.01,
            vf_coef=0.5,
            kl_coef=0.0,
            max_grad_norm=0.5,
            target_kl=None,
        )

    def epoch(self) -> None:
        """Take the steps of one epoch."""
        cuts = range(self.minibatch, self.rows, self.minibatch)
        epochs = [[np.split(self.rng.permutation(self.rows), cuts)] for _ in self.optimizers]
        self.kernel.update(self.optimizers, self.batch, epochs, [self.settings] * len(epochs))


def crossover(rows: Sequence[dict[str, Any]]) -> int | None:
    """
    The smallest work per minibatch from which on the device is faster than the CPU.

    :param rows: measured points with their ``work`` and the seconds ``cpu`` and ``device``
    :return: ``None`` if the CPU is faster at the largest work, or nothing was measured
    """
    found = None
    for row in sorted(rows, key=lambda row: row["work"], reverse=True):
        if row["device"] >= row["cpu"]:
            break
        found = int(row["work"])
    return found
