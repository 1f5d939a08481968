"""The env copies of one rollout worker, which errors name by their numbers in the whole training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sb3_matrl.vec_env import EnvDataError, EnvError, JointObservation, JointVecEnv
from sb3_matrl.vec_env.backend import AgentInfos
from sb3_matrl.vec_env.errors import CopyFailure, DataFault, WorkerLost

T = TypeVar("T")


@dataclass(frozen=True)
class ShardStart:
    """
    Situation of a worker's copies before their next step.

    :param observations: agent -> (n_copies, ...)
    :param episode_starts: bool (n_copies, n_agents), True where the agent's next step opens an episode
    :param alive: bool (n_copies, n_agents), agents that are present
    :param acting: bool (n_copies, n_agents), agents that choose the next action
    :param states: states of the env, float32 (n_copies, size); ``None`` if the algorithm does not read them
    :param infos: copy of the worker -> agent -> the env's info of the reset; empty except after a reset
    """

    observations: JointObservation
    episode_starts: np.ndarray
    alive: np.ndarray
    acting: np.ndarray
    states: np.ndarray | None
    infos: dict[int, AgentInfos]


class ShardVecEnv(JointVecEnv):
    """
    A :class:`~sb3_matrl.vec_env.JointVecEnv` that is a part of a larger one.

    :param env: environment of the worker's copies, whose backend is taken over
    :param first_copy: number of its first copy in the whole training
    """

    def __init__(self, env: JointVecEnv, first_copy: int) -> None:
        self.first_copy = first_copy
        super().__init__(env.backend)

    def seed_copies(self, seeds: Sequence[int | None]) -> None:
        """
        Set the seeds of the next reset.

        :param seeds: seed of each copy; ``None`` continues with the copy's own generator
        """
        self._seeds = list(seeds)

    def start(self, episode_starts: np.ndarray, observations: JointObservation, with_infos: bool) -> ShardStart:
        """
        :param episode_starts: as in :class:`ShardStart`
        :param observations: current observations
        :param with_infos: whether the copies have just been reset, so that their infos count
        :return: situation of the copies
        """
        infos = {copy: dict(info["agents"]) for copy, info in enumerate(self.reset_infos) if "agents" in info}
        return ShardStart(
            dict(observations),
            episode_starts,
            self.alive,
            self.acting,
            self.states if self.with_states else None,
            infos if with_infos else {},
        )

    def _with_context(self, call: Callable[..., T], *arguments: Any) -> T:
        """As the method of the base class, with the copies' numbers in the whole training."""
        try:
            return call(*arguments)
        except CopyFailure as failure:
            place = f"env copy {self.first_copy + failure.copy}"
            raise EnvError(f"{place}: {failure} in {self._moment(failure.copy)}") from failure.error
        except DataFault as fault:
            whole = DataFault(self.first_copy + fault.copy, fault.message)
            raise EnvDataError(f"{whole}. It happened in {self._moment(fault.copy)}") from None
        except WorkerLost as failure:
            raise self._lost(failure) from failure

    def _lost(self, failure: WorkerLost) -> EnvError:
        """Error for a lost process of ``vec_env="subproc"``."""
        numbers = {copy: self.first_copy + copy for copy in failure.copies or range(self.num_envs)}
        own, whole = (f"env copies {', '.join(map(str, found))})" for found in (failure.copies, numbers.values()))
        moments = [f"env copy {number} in {self._moment(copy)}" for copy, number in numbers.items()]
        return EnvError(f"{str(failure).replace(own, whole)}. It happened to {' or '.join(moments)}")
