"""The environment of a training with rollout workers: its copies live in the workers, which step them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import cloudpickle
import numpy as np

from sb3_matrl.distributed.array_trees import joined_arrays
from sb3_matrl.distributed.shard import Shard, ShardPlan, versions
from sb3_matrl.distributed.shard_env import ShardStart
from sb3_matrl.distributed.worker_pool import WorkerPool
from sb3_matrl.envs.snapshot import Snapshot, check_keys
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env
from sb3_matrl.vec_env.backend import AgentInfos, Backend, BackendStep, Start

_ELSEWHERE = (
    "the copies of this environment live in rollout workers, so {what} here: use an environment of its own, such as "
    "make_joint_vec_env(...)"
)


def shares_of(n_envs: int, n_workers: int) -> list[range]:
    """
    :param n_envs: number of copies
    :param n_workers: number of workers
    :return: consecutive copies of each worker, as equally many as possible
    :raises ValueError: if there are more workers than copies
    """
    if n_workers > n_envs:
        raise ValueError(
            f"rollout_workers={n_workers} share the copies of the environment, and n_envs={n_envs} are too few: pass more "
            "copies or fewer workers"
        )
    bounds = np.linspace(0, n_envs, n_workers + 1).astype(int).tolist()
    return [range(first, end) for first, end in pairwise(bounds)]


class WorkersBackend(Backend):
    """
    Copies that live in rollout workers. They are reset, saved and restored here, and stepped there.

    The workers start at the first reset.

    :param description: environment with agents and spaces of the copies
    :param shares: copies of each worker
    :param make_pool: makes the pool of the workers
    """

    layout = "workers"

    def __init__(self, description: Backend, shares: Sequence[range], make_pool: Callable[[], WorkerPool]) -> None:
        self.num_envs = shares[-1].stop
        self.shares = list(shares)
        self.snapshot_obstacle = description.snapshot_obstacle
        self.agents = list(description.agents)
        self.observation_spaces = dict(description.observation_spaces)
        self.action_spaces = dict(description.action_spaces)
        self.render_mode = None
        self.renamed, self.one_mask = description.renamed, description.one_mask
        self.state_space, self.with_states = description.state_space, description.with_states
        self._make_pool = make_pool
        self._pool: WorkerPool | None = None

    @property
    def pool(self) -> WorkerPool:
        """The workers."""
        if self._pool is None:
            self._pool = self._make_pool()
        return self._pool

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Start:
        return self._joined(self.pool.reset(seeds, options))

    def snapshot(self) -> Snapshot:
        return {"workers": list(self.pool.states)}

    def restore(self, snapshot: Snapshot) -> Start:
        check_keys("snapshot of rollout workers", snapshot, ["workers"])
        states = snapshot["workers"]
        if not isinstance(states, list) or len(states) != len(self.shares):
            raise ValueError(
                f"the training was saved with {len(states)} rollout workers, this one has {len(self.shares)}: resume with as "
                "many"
            )
        return self._joined(self.pool.restore(states))

    def _joined(self, starts: Sequence[ShardStart]) -> Start:
        infos: dict[int, AgentInfos] = {}
        for share, start in zip(self.shares, starts, strict=True):
            infos |= {share.start + copy: agents for copy, agents in start.infos.items()}
        whole = joined_start(starts)
        return Start(whole.observations, whole.alive, whole.acting, infos, whole.states)

    def step_async(self, actions: dict[str, np.ndarray]) -> None:
        raise RuntimeError(_ELSEWHERE.format(what="they cannot be stepped"))

    def step_wait(self) -> BackendStep:
        raise RuntimeError(_ELSEWHERE.format(what="they cannot be stepped"))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.end()

    def get_attr(self, name: str, copies: Sequence[int]) -> list[Any]:
        raise AttributeError(_ELSEWHERE.format(what=f"{name!r} cannot be read"))

    def set_attr(self, name: str, value: Any, copies: Sequence[int]) -> None:
        raise NotImplementedError(_ELSEWHERE.format(what=f"{name!r} cannot be set"))

    def env_method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], copies: Sequence[int]) -> list[Any]:
        raise NotImplementedError(_ELSEWHERE.format(what=f"{name}() cannot be called"))

    def env_is_wrapped(self, wrapper_class: type[Any], copies: Sequence[int]) -> list[bool]:
        return [False for _ in copies]

    def render(self, mode: str | None) -> Any:
        raise NotImplementedError(_ELSEWHERE.format(what="they cannot be drawn"))


class WorkersVecEnv(JointVecEnv):
    """
    :class:`~sb3_matrl.vec_env.JointVecEnv` whose copies live in rollout workers.

    :param backend: the copies
    """

    backend: WorkersBackend

    def __init__(self, backend: WorkersBackend) -> None:
        super().__init__(backend)

    def take(self, starts: Sequence[ShardStart]) -> ShardStart:
        """
        Note where the copies are after a rollout.

        :param starts: situations of the workers' copies
        :return: situation of all copies
        """
        whole = joined_start(starts)
        self.alive, self.acting, self._states = whole.alive, whole.acting, whole.states
        return whole


def joined_start(starts: Sequence[ShardStart]) -> ShardStart:
    """
    :param starts: situations of the workers' copies
    :return: situation of all copies, without infos
    """
    names = ("observations", "episode_starts", "alive", "acting", "states")
    return ShardStart(**{name: joined_arrays([getattr(start, name) for start in starts]) for name in names}, infos={})


class ShardSource:
    """
    The env of a training as its workers make it.

    :param env: factory, env or id, as in the constructor of an algorithm
    :param env_kwargs: keyword arguments of the factory
    :param states: whether the copies give their global state
    :raises ValueError: if it cannot be sent to workers
    """

    def __init__(self, env: Any, env_kwargs: Mapping[str, Any] | None, states: bool | Literal["auto"]) -> None:
        if isinstance(env, JointVecEnv):
            raise ValueError(
                "rollout_workers make the copies of the environment themselves: pass a factory, an env or an id in place of a "
                "JointVecEnv, or leave rollout_workers out"
            )
        self.env = env
        self.env_kwargs = None if env_kwargs is None else dict(env_kwargs)
        self._states = states
        self._pickled((env, env_kwargs), "the environment")

    @staticmethod
    def _pickled(content: Any, what: str) -> bytes:
        try:
            return bytes(cloudpickle.dumps(content))
        except Exception as error:
            raise ValueError(
                f"{what} cannot be sent to rollout workers ({type(error).__name__}: {error}): pass a factory or an id, and "
                "arguments that pickle can store"
            ) from error

    def describe(self, vec_env: str) -> Backend:
        """
        Agents and spaces of the copies.

        :param vec_env: how the copies are stepped
        :return: backend of one copy, which is closed
        """
        env, kwargs = cloudpickle.loads(self._pickled((self.env, self.env_kwargs), "the environment"))
        kind = {"subproc": "dummy", "supersuit-subproc": "supersuit"}.get(vec_env, vec_env)
        joint = make_joint_vec_env(env, vec_env=kind, env_kwargs=kwargs, states=self._states)
        joint.close()
        return joint.backend

    def plans(
        self,
        model_class: type[Any],
        arguments: Sequence[Mapping[str, Any]],
        shares: Sequence[range],
        shard_class: type[Shard],
    ) -> list[ShardPlan]:
        """
        Plans of the workers.

        :param model_class: class of the model
        :param arguments: constructor arguments of each worker's model
        :param shares: copies of each worker
        :param shard_class: class of the workers' shares
        """
        here = versions()
        contents = [self._pickled((model_class, self.env, dict(own)), "an argument of the model") for own in arguments]
        return [
            ShardPlan(content, share, here, model_class.__module__, shard_class)
            for content, share in zip(contents, shares, strict=True)
        ]
