"""Rollouts of on-policy algorithms, played here or by rollout workers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.common.agents import Position
from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.distributed.backends import check_backend, make_crew
from sb3_matrl.distributed.columns import fill_buffer, fill_stack, member_columns
from sb3_matrl.distributed.gathered_moments import merge_moments, set_statistics
from sb3_matrl.distributed.shard import CollectionStopped, Harvest, Order, stream_seed
from sb3_matrl.distributed.worker_pool import WorkerPool
from sb3_matrl.distributed.workers_env import ShardSource, WorkersBackend, WorkersVecEnv, shares_of
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.rollout import RolloutCollector
from sb3_matrl.vec_env import JointVecEnv


class OnPolicyMultiAgent(MultiAgentAlgorithm):
    """
    Base class of on-policy algorithms, whose rollouts are played in this process or, with ``rollout_workers``, by workers.

    A subclass has the arguments ``rollout_workers`` and ``worker_backend``, and defines

    - :meth:`make_collector`: collector that plays in ``self.env``
    - :attr:`joint`: which learners act together
    - :meth:`shard_arguments`: arguments of the model that a worker builds for its share of the copies
    """

    #: Arguments of a worker's model that do not matter there: it neither learns nor logs.
    _UNUSED_IN_WORKERS: ClassVar[Mapping[str, Any]] = {"rollout_workers": None, "verbose": 0, "tensorboard_log": None}

    def check_arguments(self) -> None:
        super().check_arguments()
        workers = self.arguments["rollout_workers"]
        if workers is not None:
            check_backend(self.arguments["worker_backend"])
        if workers is not None and workers < 1:
            raise ValueError(f"rollout_workers must be at least 1, or None for rollouts in this process, got {workers}")

    # ------------------------------------------------------------------ hooks of subclasses

    def make_collector(self) -> RolloutCollector:
        """:return: collector that plays in ``self.env``"""
        raise NotImplementedError

    @property
    def joint(self) -> JointUpdates:
        """Which learners act together."""
        raise NotImplementedError

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
        return WorkersVecEnv(WorkersBackend(description, shares, lambda: self._make_pool(source, shares)))

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

    def _make_pool(self, source: ShardSource, shares: Sequence[range]) -> WorkerPool:
        own = [self._arguments_of(worker, share, source) for worker, share in enumerate(shares)]
        crew = make_crew(self.arguments["worker_backend"], source.plans(type(self), own, shares), lambda: not self._stops())
        return WorkerPool(crew, shares, self._stops)

    def _stops(self) -> bool:
        return self.stop_requested is not None and self.stop_requested()

    def _arguments_of(self, worker: int, share: range, source: ShardSource) -> dict[str, Any]:
        """Constructor arguments of a worker's model."""
        changed = {
            "n_envs": len(share),
            "env_kwargs": source.env_kwargs,
            "seed": None if self.seed is None else stream_seed(self.seed, worker),
            "frozen": self._frozen_in_workers() or None,
        }
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

    # ------------------------------------------------------------------ rollouts

    def play_rollout(self, callback: BaseCallback, n_steps: int) -> bool:
        """
        Fill the learners' rollout buffers with one joint rollout.

        :param callback: SB3 callback
        :param n_steps: steps per copy
        :return: False if the callback asked to stop
        """
        position = self.start_rollout(callback)
        self.joint.refresh()
        if isinstance(self.env, WorkersVecEnv):
            complete = self._play_by_workers(self.env, callback, n_steps)
        else:
            collector = self.make_collector()
            self.position, complete = collector.collect(position, n_steps, lambda seen: self.on_env_step(callback, seen))
        if complete:
            callback.on_rollout_end()
        return complete

    def _play_by_workers(self, env: WorkersVecEnv, callback: BaseCallback, n_steps: int) -> bool:
        pool = env.backend.pool
        try:
            harvests = pool.collect(Order.of(self.team, n_steps))
        except CollectionStopped:
            return False
        self._take_rollouts(pool.shares, harvests)
        whole = env.take([harvest.start for harvest in harvests])
        self.position = Position(whole.observations, whole.episode_starts)
        self.logger.record("time/worker_seconds", max(harvest.seconds for harvest in harvests))
        return self._replay(pool.shares, harvests, callback)

    def _take_rollouts(self, shares: Sequence[range], harvests: Sequence[Harvest]) -> None:
        """Put what the workers collected into buffers, stacks and normalisers."""
        columns = {
            name: [member_columns(len(members), self.n_envs, share) for share in shares]
            for name, members in self.team.members.items()
        }
        for name, learner in self.team.learners.items():
            fill_buffer(learner.rollout_buffer, [harvest.buffers[name] for harvest in harvests], columns[name])
        for stack in self.joint.usable()[0]:
            if all(stack.names in harvest.stacks for harvest in harvests):
                fill_stack(stack, [harvest.stacks[stack.names] for harvest in harvests], columns[stack.names[0]])
        for name, normalizer in self.team.normalizers.items():
            if len(harvests) == 1:  # it has seen everything, in the same order as in this process
                set_statistics(normalizer, harvests[0].statistics[name])
            else:
                merge_moments(normalizer, [harvest.moments[name] for harvest in harvests])
            for harvest, places in zip(harvests, columns[name], strict=True):
                normalizer.running[places] = harvest.state["normalizers"][name]["running"]

    def _replay(self, shares: Sequence[range], harvests: Sequence[Harvest], callback: BaseCallback) -> bool:
        """Call the callback once per step of the rollout, which has ended; False if it asked to stop."""
        rewards, dones = (
            np.concatenate([getattr(harvest, name) for harvest in harvests], axis=1) for name in ("rewards", "dones")
        )
        for n in range(len(rewards)):
            infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
            for share, harvest in zip(shares, harvests, strict=True):
                for copy, info in harvest.infos.get(n, {}).items():
                    infos[share.start + copy] = info
            if not self.on_env_step(callback, {"n_steps": n, "rewards": rewards[n], "dones": dones[n], "infos": infos}):
                return False
        return True
