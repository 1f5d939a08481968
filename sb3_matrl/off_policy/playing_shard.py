"""A worker's share of an off-policy training: it plays the steps of a round, which the learner stores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.utils import should_collect_more_steps

from sb3_matrl.distributed.shard import CollectionStopped, Harvest, Shard, set_weights, weights_of
from sb3_matrl.off_policy.off_policy_player import OffPolicyPlayer
from sb3_matrl.off_policy.played_rounds import Round, RoundRecord
from sb3_matrl.utils.random_state import set_bit_generator


@dataclass(frozen=True)
class RoundOrder:
    """
    What all workers get at the start of a round.

    :param weights: name of an acting network -> name of a parameter or buffer -> array
    :param num_timesteps: joint steps of the whole training so far
    :param total_timesteps: joint steps at its end
    :param n_envs: number of copies of the whole training
    :param exploration_rate: share of random actions in the first step
    :param block: steps and episodes since the last gradient steps
    :param begins: whether ``learn`` has begun since the last round
    """

    weights: dict[str, dict[str, np.ndarray]]
    num_timesteps: int
    total_timesteps: int
    n_envs: int
    exploration_rate: float
    block: tuple[int, int]
    begins: bool

    @classmethod
    def of(cls, learner: OffPolicyPlayer, block: tuple[int, int], begins: bool) -> RoundOrder:
        """
        :param learner: model that learns
        :param block: as in the class
        :param begins: as in the class
        """
        return cls(
            {name: weights_of(network) for name, network in learner.acting_networks().items()},
            learner.num_timesteps,
            learner._total_timesteps,
            learner.n_envs,
            learner.exploration_rate,
            block,
            begins,
        )


@dataclass(frozen=True, kw_only=True)
class RoundHarvest(Harvest):
    """
    One worker's part of a round.

    :param played: steps of its copies
    """

    played: Round


class PlayingShard(Shard):
    """
    A worker's share of an off-policy training.

    :param plan: what it is built from
    """

    model: OffPolicyPlayer

    def seed_generators(self, seed: int) -> None:
        self.model.seed_exploration(seed)

    def own_state(self) -> dict[str, Any]:
        generators = {name: dict(generator.bit_generator.state) for name, generator in self.model.generators.items()}
        return {"exploration": generators, "extra": self.model.extra_state()}

    def restore_own_state(self, state: Mapping[str, Any]) -> None:
        for name, generator in self.model.generators.items():
            set_bit_generator(generator.bit_generator, state["exploration"][name])
        self.model.restore_extra_state(state["extra"])

    def collect(self, order: RoundOrder, proceed: Callable[[], bool]) -> RoundHarvest:
        """
        Play the steps of a round.

        :param order: networks, and how far the training is
        :param proceed: called after every step; False abandons the round
        :raises CollectionStopped: if ``proceed`` returned False
        :raises EnvError: if an env raises an error
        """
        began, model, record = time.perf_counter(), self.model, RoundRecord()
        self._take(order)
        steps, episodes = order.block
        with self.own_streams():
            while should_collect_more_steps(model.train_freq, steps, episodes):
                played = model.play_step()
                if not proceed():
                    raise CollectionStopped
                record.add(played)
                model.num_timesteps += order.n_envs
                steps, episodes = steps + 1, episodes + len(model.end_step(played.transition))
        return RoundHarvest(played=record.whole(), start=self.start(), state=self.state(), seconds=time.perf_counter() - began)

    def _take(self, order: RoundOrder) -> None:
        """Take over the networks and the progress of the learner."""
        model = self.model
        for name, network in model.acting_networks().items():
            set_weights(network, order.weights[name])
        model.num_timesteps, model._total_timesteps = order.num_timesteps, order.total_timesteps
        model.exploration_rate = order.exploration_rate
        model.set_training_mode(False)
        model.refresh()
        if order.begins:
            model.begin_playing()
