"""One rollout worker's share of a training: env copies, a model that acts in them, and random generators of its own."""

from __future__ import annotations

import platform
import random
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

from sb3_matrl.common.agents import Position
from sb3_matrl.distributed.shard_env import ShardStart, ShardVecEnv
from sb3_matrl.envs.snapshot import check_keys
from sb3_matrl.utils.random_state import random_generators, restore_random_generators
from sb3_matrl.vec_env import EnvError

# First element of the spawn key of the workers' generators; 0 belongs to the learner's own.
_SPAWN_KEY = 1
_STATE_KEYS = ("generators", "episode_starts", "env")
# Packages whose versions must be the same wherever a worker runs: they decide about the last bit of a result.
_SAME_VERSIONS = ("sb3-matrl", "torch", "numpy", "stable-baselines3", "sb3-contrib", "gymnasium", "pettingzoo")


class RolloutWorkerError(EnvError):
    """Rollout workers cannot be had: they die, or the machines have too few resources or other versions of packages."""


class CollectionStopped(Exception):
    """A rollout was abandoned before its end; the worker's state is that of no moment in particular."""


class ShardModel(Protocol):
    """What a worker needs of a model, which it builds for its share of the copies."""

    env: Any
    position: Position


@dataclass(frozen=True)
class ShardPlan:
    """
    What a worker needs to build its share.

    :param content: model's class, constructor arguments and env as cloudpickle stores them
    :param copies: copies of the worker, in the whole training
    :param versions: versions of Python and packages at the learner
    :param module: name of the module of the model's class
    :param shard_class: class of the share, which knows how the model acts
    """

    content: bytes
    copies: range
    versions: Mapping[str, str]
    module: str
    shard_class: type[Shard]

    def make(self) -> Shard:
        """
        Build the worker's share.

        :raises RolloutWorkerError: as :meth:`build`
        """
        return self.shard_class(self)

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
class Harvest:
    """
    What every worker hands back with what it has collected.

    :param start: situation afterwards
    :param state: state from which the worker continues
    :param seconds: time that it took
    """

    start: ShardStart
    state: dict[str, Any]
    seconds: float


class Shard:
    """
    A worker's share of a training. All its random draws come from generators of its own, in whatever process it runs.

    A subclass defines :meth:`collect`, and the hooks for what its model keeps from one call to the next.

    :param plan: what it is built from
    """

    model: Any

    def __init__(self, plan: ShardPlan) -> None:
        before = random_generators()
        try:
            self.model = plan.build()
        finally:
            self._generators = random_generators()
            restore_random_generators(before)

    # ------------------------------------------------------------------ hooks of subclasses

    def collect(self, order: Any, proceed: Callable[[], bool]) -> Harvest:
        """
        Play for one iteration.

        :param order: what all workers get at its start
        :param proceed: called after every step; False abandons what was played
        :raises CollectionStopped: if ``proceed`` returned False
        :raises EnvError: if an env raises an error
        """
        raise NotImplementedError

    def seed_generators(self, seed: int) -> None:
        """
        Seed random generators that the model has beside the global ones.

        :param seed: see :func:`stream_seed`
        """

    def begin_episodes(self) -> None:
        """Called when new episodes have begun in all copies."""

    def own_state(self) -> dict[str, Any]:
        """:return: what the model keeps from one call to the next: nested dicts of arrays, numbers and texts"""
        return {}

    def restore_own_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: dict with the entries of :meth:`own_state`
        :raises ValueError: if it does not fit
        """

    # ------------------------------------------------------------------ calls of the pool

    @contextmanager
    def own_streams(self) -> Iterator[None]:
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
            self.seed_generators(stream)
        with self.own_streams():
            env = self.model.env
            env.seed_copies(seeds)
            env.set_options(list(options))
            observations = env.reset()
            self.begin_episodes()
            self.model.position = Position(observations, np.ones_like(env.alive))
        return self.start(with_infos=True), self.state()

    def restore(self, state: Mapping[str, Any], seeds: Sequence[int]) -> tuple[ShardStart, dict[str, Any]]:
        """
        Continue from a state.

        :param state: return value of :meth:`state`
        :param seeds: seeds of new episodes, for envs that cannot save their state
        :return: situation of the copies, and the state of the worker
        :raises ValueError: if the state does not fit
        """
        check_keys("state of a rollout worker", state, [*_STATE_KEYS, *self.own_state()])
        state = deepcopy(dict(state))  # the caller keeps it for another time
        model = self.model
        self.restore_own_state(state)
        self._generators = state["generators"]
        with self.own_streams():
            if state["env"] is None:
                model.env.seed_copies(seeds)
                model.position = Position(model.env.reset(), np.ones_like(model.env.alive))
            else:
                model.position = Position(model.env.restore(state["env"]), np.array(state["episode_starts"]))
        return self.start(with_infos=state["env"] is None), self.state()

    def state(self) -> dict[str, Any]:
        """:return: all that decides how the worker continues, given the policies: nested dicts of arrays, numbers and texts"""
        env = self.model.env
        return {
            "generators": self._generators,
            "episode_starts": np.array(self.model.position.episode_starts),
            "env": env.snapshot() if env.can_snapshot else None,
            **self.own_state(),
        }

    def start(self, with_infos: bool = False) -> ShardStart:
        """
        :param with_infos: whether the copies have just been reset, so that their infos count
        :return: situation of the copies
        """
        position, env = self.model.position, self.model.env
        return env.start(position.episode_starts, position.observations, with_infos)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the copies."""
        self.model.env.close()


def infos_of_ends(dones: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """
    What callbacks get to know of the infos of a step.

    :param dones: bool (n_copies,)
    :param infos: infos of the copies
    :return: copy -> its info without the terminal observation, where an episode ended
    """
    return {
        copy: {name: value for name, value in infos[copy].items() if name != "terminal_observation"}
        for copy in np.flatnonzero(dones).tolist()
    }


def joined_infos(shares: Sequence[range], parts: Sequence[Mapping[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """
    :param shares: copies of each worker
    :param parts: return value of :func:`infos_of_ends` of each worker
    :return: one info per copy of the whole training, empty where no episode ended
    """
    infos: list[dict[str, Any]] = [{} for _ in range(shares[-1].stop)]
    for share, part in zip(shares, parts, strict=True):
        for copy, info in part.items():
            infos[share.start + copy] = info
    return infos


def _tensors(network: th.nn.Module) -> dict[str, th.Tensor]:
    """Parameters and buffers, those that several modules share once."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def weights_of(network: th.nn.Module) -> dict[str, np.ndarray]:
    """
    :param network: network, on any device
    :return: name of a parameter or buffer -> array, which may share its memory
    """
    return {name: tensor.detach().cpu().numpy() for name, tensor in _tensors(network).items()}


def set_weights(network: th.nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """
    :param network: network like that of the learner
    :param weights: return value of :func:`weights_of`
    """
    own = _tensors(network)
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
