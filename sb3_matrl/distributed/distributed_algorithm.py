"""The base class of algorithms whose environment rollout workers can step: arguments, environment, workers, loading."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from sb3_matrl.common.agents import Position
from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.distributed.backends import check_backend, make_crew
from sb3_matrl.distributed.shard import Shard, stream_seed
from sb3_matrl.distributed.worker_pool import WorkerPool
from sb3_matrl.distributed.workers_env import ShardSource, WorkersBackend, WorkersVecEnv, shares_of
from sb3_matrl.vec_env import JointVecEnv


class DistributedAlgorithm(MultiAgentAlgorithm):
    """
    Base class of algorithms that play in this process or, with ``rollout_workers``, by workers.

    A subclass has the arguments ``rollout_workers`` and ``worker_backend``, and defines

    - :attr:`shard_class`: what a worker does
    - :meth:`shard_arguments`: arguments of the model that a worker builds for its share of the copies
    """

    #: Class of a worker's share of the training.
    shard_class: ClassVar[type[Shard]]
    #: Arguments of a worker's model that do not matter there: it neither learns nor logs.
    _UNUSED_IN_WORKERS: ClassVar[Mapping[str, Any]] = {"rollout_workers": None, "verbose": 0, "tensorboard_log": None}

    def check_arguments(self) -> None:
        super().check_arguments()
        workers = self.arguments["rollout_workers"]
        if workers is not None:
            check_backend(self.arguments["worker_backend"])
        if workers is not None and workers < 1:
            raise ValueError(f"rollout_workers must be at least 1, or None for rollouts in this process, got {workers}")

    def shard_arguments(self) -> dict[str, Any]:
        """:return: constructor arguments in which a worker's model differs from this one"""
        return {}

    # ------------------------------------------------------------------ environment

    def _make_env(self, env: Any, env_kwargs: Mapping[str, Any] | None, states: bool | Literal["auto"]) -> JointVecEnv:
        workers = self.arguments["rollout_workers"]
        if workers is None:
            return super()._make_env(env, env_kwargs, states)
        source = ShardSource(env, env_kwargs, states)
        shares = shares_of(self.arguments["n_envs"], workers)
        description = source.describe(self.arguments["vec_env"])
        return WorkersVecEnv(WorkersBackend(description, shares, partial(self._make_pool, source, shares)))

    def _set_env(self, env: Any, force_reset: bool, env_kwargs: Mapping[str, Any] | None) -> None:
        if self.arguments["rollout_workers"] is not None and isinstance(env, JointVecEnv):
            ShardSource(env, env_kwargs, False)  # raises the error that says what to pass
        old = self.env
        super()._set_env(env, force_reset, env_kwargs)
        if isinstance(old, WorkersVecEnv):  # its workers are nobody else's
            old.close()

    @classmethod
    def _resumes(cls, saved: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
        before = saved.get("rollout_workers")
        now = given.get("rollout_workers", before)
        if now == before or not super()._resumes(saved, given):
            return super()._resumes(saved, given)
        warnings.warn(
            f"the training was saved with {before or 'no'} rollout workers and is loaded with {now or 'none'}: it continues "
            "with new episodes and fresh draws, not as the training that was never stopped",
            stacklevel=3,
        )
        return False

    # ------------------------------------------------------------------ workers

    def _make_pool(self, source: ShardSource, shares: Sequence[range]) -> WorkerPool:
        own = [self._arguments_of(worker, share, source) for worker, share in enumerate(shares)]
        plans = source.plans(type(self), own, shares, self.shard_class)
        crew = make_crew(self.arguments["worker_backend"], plans, self._goes_on)
        return WorkerPool(crew, shares, self._stops)

    def _stops(self) -> bool:
        return self.stop_requested is not None and self.stop_requested()

    def _goes_on(self) -> bool:
        return not self._stops()

    def _arguments_of(self, worker: int, share: range, source: ShardSource) -> dict[str, Any]:
        """Constructor arguments of a worker's model."""
        changed: dict[str, Any] = {
            "n_envs": len(share),
            "env_kwargs": source.env_kwargs,
            "seed": None if self.seed is None else stream_seed(self.seed, worker),
        }
        if "frozen" in self.arguments:
            changed["frozen"] = self._frozen_in_workers() or None
        return {**self.arguments, **self._UNUSED_IN_WORKERS, **self.shard_arguments(), **changed}

    def _frozen_in_workers(self) -> dict[str, Any]:
        """Frozen agents; classes such as ``RandomPolicy`` as given, so that every worker has generators of its own."""
        given = self.arguments["frozen"] or {}
        of_class = {
            agent: source
            for agent, source in given.items()
            if isinstance(source[0] if isinstance(source, tuple) else source, type)
        }
        return {**self.team.frozen, **of_class}

    def collect_by_workers(self, env: WorkersVecEnv, order: Any) -> list[Any]:
        """
        Let all workers play for one iteration, and move on to where their copies are then.

        :param env: environment of the training
        :param order: what their shares' ``collect`` gets
        :return: what it returned, in the order of the workers
        :raises CollectionStopped: if the training is to end; nothing has been changed then
        """
        harvests = env.backend.pool.collect(order)
        whole = env.take([harvest.start for harvest in harvests])
        self.position = Position(whole.observations, whole.episode_starts)
        self.logger.record("time/worker_seconds", max(harvest.seconds for harvest in harvests))
        return harvests
