"""One rollout worker's share of a training: env copies, learners that act in them, and random generators of its own."""

from __future__ import annotations

import platform
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

import cloudpickle
import numpy as np
import torch as th

from sb3_matrl.common.agents import Position, Team
from sb3_matrl.common.training_state import normalizer_states, recurrent_states, restore_recurrent_states
from sb3_matrl.distributed.columns import BufferArrays, buffer_arrays, stack_arrays
from sb3_matrl.distributed.gathered_moments import (
    Moments,
    begin_gathering,
    gather,
    gathered_moments,
    set_statistics,
    statistics_of,
)
from sb3_matrl.distributed.shard_env import ShardStart, ShardVecEnv
from sb3_matrl.envs.snapshot import check_keys
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.rollout import RolloutCollector
from sb3_matrl.utils.random_state import random_generators, restore_random_generators
from sb3_matrl.vec_env import EnvError

# First element of the spawn key of the workers' generators; 0 belongs to the learner's own.
_SPAWN_KEY = 1
_STATE_KEYS = ("generators", "episode_starts", "env", "normalizers", "memories")
# Packages whose versions must be the same wherever a worker runs: they decide about the last bit of a result.
_SAME_VERSIONS = ("sb3-matrl", "torch", "numpy", "stable-baselines3", "sb3-contrib", "gymnasium", "pettingzoo")


class RolloutWorkerError(EnvError):
    """Rollout workers cannot be had: they die, or the machines have too few resources or other versions of packages."""


class CollectionStopped(Exception):
    """A rollout was abandoned before its end; the worker's state is that of no moment in particular."""


class ShardModel(Protocol):
    """What a worker needs of a model, which it builds for its share of the copies."""

    env: Any
    team: Team
    position: Position

    @property
    def joint(self) -> JointUpdates:
        """Which learners act together."""
        ...

    def make_collector(self) -> RolloutCollector:
        """:return: collector that plays in the model's env"""
        ...


@dataclass(frozen=True)
class ShardPlan:
    """
    What a worker needs to build its share.

    :param content: model's class, constructor arguments and env as cloudpickle stores them
    :param copies: copies of the worker, in the whole training
    :param versions: versions of Python and packages at the learner
    :param module: name of the module of the model's class
    """

    content: bytes
    copies: range
    versions: Mapping[str, str]
    module: str

    def make(self) -> Shard:
        """
        Build the worker's share.

        :raises RolloutWorkerError: as :meth:`build`
        """
        return Shard(self)

    def build(self) -> ShardModel:
        """
        Build the model, whose copies are those of the worker.

        :raises RolloutWorkerError: if Python or a package has another version here
        """
        check_versions(self.versions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the learner has shown them
            model_class, env, arguments = cloudpickle.loads(self.content)
            model: ShardModel = model_class(env=env, device="cpu", **arguments)
        model.env = ShardVecEnv(model.env, self.copies.start)
        return model


@dataclass(frozen=True)
class Order:
    """
    What all workers get at the start of an iteration.

    :param weights: learner -> name of a parameter or buffer of its policy -> array
    :param statistics: learner -> statistics of its normaliser
    :param n_steps: steps per copy
    """

    weights: dict[str, dict[str, np.ndarray]]
    statistics: dict[str, dict[str, Any]]
    n_steps: int

    @classmethod
    def of(cls, team: Team, n_steps: int) -> Order:
        """
        :param team: team of the learner
        :param n_steps: steps per copy
        """
        statistics = {name: statistics_of(normalizer) for name, normalizer in team.normalizers.items()}
        return cls({name: _weights(learner.policy) for name, learner in team.learners.items()}, statistics, n_steps)


@dataclass(frozen=True)
class Harvest:
    """
    One worker's part of a rollout.

    :param buffers: learner -> arrays of its rollout buffer, advantages and returns included
    :param stacks: names of learners that acted together -> outputs of their actors and log-densities
    :param rewards: float32 (n_steps, n_copies, n_agents)
    :param dones: bool (n_steps, n_copies)
    :param infos: step -> copy of the worker -> info, where an episode ended; without the terminal observations
    :param moments: learner -> moments that its normaliser gathered
    :param statistics: learner -> statistics of its normaliser after the rollout, by what this worker has seen
    :param start: situation after the rollout
    :param state: state from which the worker continues
    :param seconds: time that the rollout took
    """

    buffers: dict[str, BufferArrays]
    stacks: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]
    rewards: np.ndarray
    dones: np.ndarray
    infos: dict[int, dict[int, dict[str, Any]]]
    moments: dict[str, list[Moments]]
    statistics: dict[str, dict[str, Any]]
    start: ShardStart
    state: dict[str, Any]
    seconds: float


class Shard:
    """
    A worker's share of a training. All its random draws come from generators of its own, in whatever process it runs.

    :param plan: what it is built from
    """

    def __init__(self, plan: ShardPlan) -> None:
        before = random_generators()
        try:
            self.model = plan.build()
        finally:
            self._generators = random_generators()
            restore_random_generators(before)
        for normalizer in self.model.team.normalizers.values():
            gather(normalizer)

    @contextmanager
    def _own_streams(self) -> Iterator[None]:
        """Inside, the global random generators are those of the worker, and torch has one thread."""
        before, threads = random_generators(), th.get_num_threads()
        restore_random_generators(self._generators)
        th.set_num_threads(1)
        try:
            yield
        finally:
            self._generators = random_generators()
            restore_random_generators(before)
            th.set_num_threads(threads)

    def reset(
        self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]], stream: int | None
    ) -> tuple[ShardStart, dict[str, Any]]:
        """
        Begin new episodes in all copies.

        :param seeds: seed of each copy; ``None`` continues with the copy's generator
        :param options: options of each copy's reset
        :param stream: seed of the worker's generators, see :func:`stream_seed`; ``None`` continues with them
        :return: situation of the copies, and the state of the worker
        :raises EnvError: if an env raises an error
        """
        if stream is not None:
            self._generators = _seeded_generators(stream)
        with self._own_streams():
            env = self.model.env
            env.seed_copies(seeds)
            env.set_options(list(options))
            observations = env.reset()
            for normalizer in self.model.team.normalizers.values():
                normalizer.begin()
            self.model.position = Position(observations, np.ones_like(env.alive))
        return self._start(with_infos=True), self.state()

    def restore(self, state: Mapping[str, Any], seeds: Sequence[int]) -> tuple[ShardStart, dict[str, Any]]:
        """
        Continue from a state.

        :param state: return value of :meth:`state`
        :param seeds: seeds of new episodes, for envs that cannot save their state
        :return: situation of the copies, and the state of the worker
        :raises ValueError: if the state does not fit
        """
        check_keys("state of a rollout worker", state, _STATE_KEYS)
        state = deepcopy(dict(state))  # the caller keeps it for another time
        model = self.model
        for name, normalizer in model.team.normalizers.items():
            normalizer.restore(state["normalizers"][name])
        restore_recurrent_states(model.team, state["memories"])
        self._generators = state["generators"]
        with self._own_streams():
            if state["env"] is None:
                model.env.seed_copies(seeds)
                model.position = Position(model.env.reset(), np.ones_like(model.env.alive))
            else:
                model.position = Position(model.env.restore(state["env"]), np.array(state["episode_starts"]))
        return self._start(with_infos=state["env"] is None), self.state()

    def state(self) -> dict[str, Any]:
        """:return: all that decides how the worker continues, given the policies: nested dicts of arrays, numbers and texts"""
        env, team = self.model.env, self.model.team
        return {
            "generators": self._generators,
            "episode_starts": np.array(self.model.position.episode_starts),
            "env": env.snapshot() if env.can_snapshot else None,
            "normalizers": normalizer_states(team),
            "memories": recurrent_states(team),
        }

    def _start(self, with_infos: bool = False) -> ShardStart:
        position, env = self.model.position, self.model.env
        return env.start(position.episode_starts, position.observations, with_infos)  # type: ignore[no-any-return]

    def collect(self, order: Order, proceed: Callable[[], bool]) -> Harvest:
        """
        Play a part of a rollout.

        :param order: policies and statistics to begin with
        :param proceed: called after every step; False abandons the rollout
        :raises CollectionStopped: if ``proceed`` returned False
        :raises EnvError: if an env raises an error
        :raises NonFiniteError: if a policy's output is NaN or infinite
        """
        began, model = time.perf_counter(), self.model
        self._take(order)
        record = _Record(proceed)
        with self._own_streams():
            model.joint.refresh()
            model.position, _ = model.make_collector().collect(model.position, order.n_steps, record.on_step)
        normalizers = model.team.normalizers
        return Harvest(
            buffers={name: buffer_arrays(learner.rollout_buffer) for name, learner in model.team.learners.items()},
            stacks={stack.names: stack_arrays(stack) for stack in model.joint.usable()[0]},
            rewards=np.stack(record.rewards),
            dones=np.stack(record.dones),
            infos=record.infos,
            moments={name: gathered_moments(normalizer) for name, normalizer in normalizers.items()},
            statistics={name: statistics_of(normalizer) for name, normalizer in normalizers.items()},
            start=self._start(),
            state=self.state(),
            seconds=time.perf_counter() - began,
        )

    def _take(self, order: Order) -> None:
        """Take over the policies and the statistics of the learner."""
        team = self.model.team
        for name, weights in order.weights.items():
            _set_weights(team.learners[name].policy, weights)
        for name, normalizer in team.normalizers.items():
            set_statistics(normalizer, order.statistics[name])
            begin_gathering(normalizer)

    def close(self) -> None:
        """Close the copies."""
        self.model.env.close()


class _Record:
    """What callbacks see of a rollout, step by step."""

    def __init__(self, proceed: Callable[[], bool]) -> None:
        self._proceed = proceed
        self.rewards: list[np.ndarray] = []
        self.dones: list[np.ndarray] = []
        self.infos: dict[int, dict[int, dict[str, Any]]] = {}

    def on_step(self, seen: dict[str, Any]) -> bool:
        """Note a step; called by the collector."""
        if not self._proceed():
            raise CollectionStopped
        self.rewards.append(seen["rewards"])
        self.dones.append(seen["dones"])
        ended = np.flatnonzero(seen["dones"]).tolist()
        if ended:
            self.infos[seen["n_steps"]] = {copy: _without_observation(seen["infos"][copy]) for copy in ended}
        return True


def _without_observation(info: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in info.items() if name != "terminal_observation"}


def _tensors(policy: th.nn.Module) -> dict[str, th.Tensor]:
    """Parameters and buffers, those that several modules share once."""
    return {**dict(policy.named_parameters()), **dict(policy.named_buffers())}


def _weights(policy: th.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in _tensors(policy).items()}


def _set_weights(policy: th.nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    own = _tensors(policy)
    with th.no_grad():
        for name, array in weights.items():
            own[name].copy_(th.from_numpy(np.array(array)))  # arrays of Ray cannot be written to


def stream_seed(seed: int, worker: int) -> int:
    """
    Seed of a worker's random generators.

    :param seed: seed of the training
    :param worker: index of the worker
    :return: seed that depends on both; the workers' generators are independent of each other and of the learner's
    """
    return int(np.random.SeedSequence(seed, spawn_key=(_SPAWN_KEY, worker)).generate_state(1)[0])


def _seeded_generators(seed: int) -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's global generators, seeded as by SB3's ``set_random_seed``."""
    before = random_generators()
    try:
        random.seed(seed)
        np.random.seed(seed)
        th.default_generator.manual_seed(seed)
        return random_generators()
    finally:
        restore_random_generators(before)


def versions() -> dict[str, str]:
    """:return: versions of Python and of the packages that decide about results"""
    return {"Python": platform.python_version(), **{name: metadata.version(name) for name in _SAME_VERSIONS}}


def check_versions(expected: Mapping[str, str]) -> None:
    """
    :param expected: return value of :func:`versions` at the learner
    :raises RolloutWorkerError: if a version is another one here; names machine, package and both versions
    """
    for name, here in versions().items():
        if here != expected[name]:
            raise RolloutWorkerError(
                f"the machine {platform.node()} has {name} {here}, that of the learner {expected[name]}: install the same "
                "version on all machines of the cluster"
            )
