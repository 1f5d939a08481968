"""Rollouts of on-policy algorithms, played here or by rollout workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.distributed.columns import fill_buffer, fill_stack, member_columns
from sb3_matrl.distributed.distributed_algorithm import DistributedAlgorithm
from sb3_matrl.distributed.gathered_moments import merge_moments, set_statistics
from sb3_matrl.distributed.rollout_shard import RolloutHarvest, RolloutOrder, RolloutShard
from sb3_matrl.distributed.shard import CollectionStopped, joined_infos
from sb3_matrl.distributed.workers_env import WorkersVecEnv
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.rollout import RolloutCollector


class OnPolicyMultiAgent(DistributedAlgorithm):
    """
    Base class of on-policy algorithms, whose rollouts are played in this process or, with ``rollout_workers``, by workers.

    A subclass defines, beside what :class:`~sb3_matrl.distributed.distributed_algorithm.DistributedAlgorithm` says,

    - :meth:`make_collector`: collector that plays in ``self.env``
    - :attr:`joint`: which learners act together
    """

    shard_class = RolloutShard

    # ------------------------------------------------------------------ hooks of subclasses

    def make_collector(self) -> RolloutCollector:
        """:return: collector that plays in ``self.env``"""
        raise NotImplementedError

    @property
    def joint(self) -> JointUpdates:
        """Which learners act together."""
        raise NotImplementedError

    # ------------------------------------------------------------------ rollouts

    def play_rollout(self, callback: BaseCallback, n_steps: int) -> bool:
        """
        Fill the learners' rollout buffers with one joint rollout.

        :param callback: SB3 callback
        :param n_steps: steps per copy
        :return: False if the callback asked to stop
        :raises ValueError: if a learner's rollout buffer was exchanged for one that cannot be used
        """
        position = self.start_rollout(callback)
        self.joint.check_buffers()
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
        try:
            harvests = self.collect_by_workers(env, RolloutOrder.of(self.team, n_steps))
        except CollectionStopped:
            return False
        shares = env.backend.shares
        self._take_rollouts(shares, harvests)
        return self._replay(shares, harvests, callback)

    def _take_rollouts(self, shares: Sequence[range], harvests: Sequence[RolloutHarvest]) -> None:
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

    def _replay(self, shares: Sequence[range], harvests: Sequence[RolloutHarvest], callback: BaseCallback) -> bool:
        """Call the callback once per step of the rollout, which has ended; False if it asked to stop."""
        rewards, dones = (
            np.concatenate([getattr(harvest, name) for harvest in harvests], axis=1) for name in ("rewards", "dones")
        )
        for n in range(len(rewards)):
            infos = joined_infos(shares, [harvest.infos.get(n, {}) for harvest in harvests])
            if not self.on_env_step(callback, {"n_steps": n, "rewards": rewards[n], "dones": dones[n], "infos": infos}):
                return False
        return True
