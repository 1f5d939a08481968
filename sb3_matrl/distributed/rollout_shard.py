"""A worker's share of an on-policy training: learners that fill rollout buffers with what they play."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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
from sb3_matrl.distributed.shard import CollectionStopped, Harvest, Shard, ShardPlan, infos_of_ends, set_weights, weights_of
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.rollout import RolloutCollector


class RolloutModel(Protocol):
    """What a worker needs of an on-policy model, which it builds for its share of the copies."""

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
class RolloutOrder:
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
    def of(cls, team: Team, n_steps: int) -> RolloutOrder:
        """
        :param team: team of the learner
        :param n_steps: steps per copy
        """
        statistics = {name: statistics_of(normalizer) for name, normalizer in team.normalizers.items()}
        return cls({name: weights_of(learner.policy) for name, learner in team.learners.items()}, statistics, n_steps)


@dataclass(frozen=True, kw_only=True)
class RolloutHarvest(Harvest):
    """
    One worker's part of a rollout.

    :param buffers: learner -> arrays of its rollout buffer, advantages and returns included
    :param stacks: names of learners that acted together -> outputs of their actors and log-densities
    :param rewards: float32 (n_steps, n_copies, n_agents)
    :param dones: bool (n_steps, n_copies)
    :param infos: step -> copy of the worker -> info, where an episode ended; without the terminal observations
    :param moments: learner -> moments that its normaliser gathered
    :param statistics: learner -> statistics of its normaliser after the rollout, by what this worker has seen
    """

    buffers: dict[str, BufferArrays]
    stacks: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]
    rewards: np.ndarray
    dones: np.ndarray
    infos: dict[int, dict[int, dict[str, Any]]]
    moments: dict[str, list[Moments]]
    statistics: dict[str, dict[str, Any]]


class RolloutShard(Shard):
    """
    A worker's share of an on-policy training.

    :param plan: what it is built from
    """

    model: RolloutModel

    def __init__(self, plan: ShardPlan) -> None:
        super().__init__(plan)
        for normalizer in self.model.team.normalizers.values():
            gather(normalizer)

    def begin_episodes(self) -> None:
        for normalizer in self.model.team.normalizers.values():
            normalizer.begin()

    def own_state(self) -> dict[str, Any]:
        return {"normalizers": normalizer_states(self.model.team), "memories": recurrent_states(self.model.team)}

    def restore_own_state(self, state: Mapping[str, Any]) -> None:
        for name, normalizer in self.model.team.normalizers.items():
            normalizer.restore(state["normalizers"][name])
        restore_recurrent_states(self.model.team, state["memories"])

    def collect(self, order: RolloutOrder, proceed: Callable[[], bool]) -> RolloutHarvest:
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
        with self.own_streams():
            model.joint.refresh()
            model.position, _ = model.make_collector().collect(model.position, order.n_steps, record.on_step)
        normalizers = model.team.normalizers
        return RolloutHarvest(
            buffers={name: buffer_arrays(learner.rollout_buffer) for name, learner in model.team.learners.items()},
            stacks={stack.names: stack_arrays(stack) for stack in model.joint.usable()[0]},
            rewards=np.stack(record.rewards),
            dones=np.stack(record.dones),
            infos=record.infos,
            moments={name: gathered_moments(normalizer) for name, normalizer in normalizers.items()},
            statistics={name: statistics_of(normalizer) for name, normalizer in normalizers.items()},
            start=self.start(),
            state=self.state(),
            seconds=time.perf_counter() - began,
        )

    def _take(self, order: RolloutOrder) -> None:
        """Take over the policies and the statistics of the learner."""
        team = self.model.team
        for name, weights in order.weights.items():
            set_weights(team.learners[name].policy, weights)
        for name, normalizer in team.normalizers.items():
            set_statistics(normalizer, order.statistics[name])
            begin_gathering(normalizer)


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
        if ended := infos_of_ends(seen["dones"], seen["infos"]):
            self.infos[seen["n_steps"]] = ended
        return True
