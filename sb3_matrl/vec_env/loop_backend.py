"""Backends for any ParallelEnv: a loop over the copies, in this process or in worker processes over shared memory."""

from __future__ import annotations

import ctypes
import multiprocessing
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import cloudpickle
import numpy as np

from sb3_matrl.vec_env.answers import results
from sb3_matrl.vec_env.backend import AgentInfos, BackendStep, Start
from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.copy_loop import CopyLoop, StepInfos
from sb3_matrl.vec_env.describe import EnvDescription
from sb3_matrl.vec_env.env_copy import EnvCopy
from sb3_matrl.vec_env.loop_worker import WorkerSetup, started_workers
from sb3_matrl.vec_env.separate import EnvFactory, SeparateBackend
from sb3_matrl.vec_env.spaces import mask_rows
from sb3_matrl.vec_env.step import JointObservation
from sb3_matrl.vec_env.workers import WorkerGroup, shares_of_workers


class LoopBackend(SeparateBackend):
    """
    Base class of the backends whose copies write into arrays, which are copied for the caller.

    :param description: agents and spaces of the env
    :param num_envs: number of copies
    :param arrays: arrays of all copies
    """

    def __init__(self, description: EnvDescription, num_envs: int, arrays: CopyArrays) -> None:
        super().__init__(description, num_envs)
        self._arrays = arrays
        self._acting = np.zeros((num_envs, len(self.agents)), dtype=bool)

    @abstractmethod
    def _begin(self, seeds: list[int | None], options: list[dict[str, Any]]) -> dict[int, AgentInfos]:
        """Start an episode in every copy; see :meth:`CopyLoop.begin`."""

    @abstractmethod
    def _start_step(self) -> None:
        """Start a step with the actions in the arrays."""

    @abstractmethod
    def _finish_step(self) -> StepInfos:
        """Finish the step and return the infos."""

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Start:
        return self._start(self._begin(list(seeds), list(options)))

    def _start(self, infos: dict[int, AgentInfos]) -> Start:
        arrays = self._arrays
        self._acting = arrays.acting.copy()
        return Start(arrays.copied(arrays.observations), arrays.alive.copy(), self._acting, infos, self._states())

    def step_async(self, actions: dict[str, np.ndarray]) -> None:
        self._check_range(actions, self._acting)
        for agent, array in self._arrays.actions.items():
            array[...] = actions[agent]
        self._start_step()

    def step_wait(self) -> BackendStep:
        infos, reset_infos = self._finish_step()
        arrays = self._arrays
        alive, self._acting, terminated, truncated = arrays.flags.copy()
        return BackendStep(
            observations=arrays.copied(arrays.observations),
            rewards=arrays.rewards.copy(),
            terminated=terminated,
            truncated=truncated,
            alive=alive,
            acting=self._acting,
            dones=arrays.dones.copy(),
            final_observations=self._final_observations(terminated | truncated),
            infos=infos,
            reset_infos=reset_infos,
            states=self._states(),
            final_states=self._final_states(arrays.dones),
        )

    def _states(self) -> np.ndarray | None:
        return self._arrays.states.copy() if self.with_states else None

    def _final_states(self, dones: np.ndarray) -> np.ndarray | None:
        if not self.with_states or not np.count_nonzero(dones):
            return None
        return np.where(dones[:, None], self._arrays.final_states, np.float32(0.0))

    def _final_observations(self, ended: np.ndarray) -> JointObservation | None:
        if not np.count_nonzero(ended):
            return None
        observations = self._arrays.copied(self._arrays.final)
        for column, agent in enumerate(self.agents):
            mask_rows(observations[agent], ended[:, column])
        return observations


class DummyBackend(LoopBackend):
    """
    Steps all copies in this process, one after the other.

    :param factories: one factory per copy
    :param description: agents and spaces of copy 0; the other copies must have the same
    """

    def __init__(self, factories: Sequence[EnvFactory], description: EnvDescription) -> None:
        copies = [EnvCopy(factory, copy, False, description) for copy, factory in enumerate(factories)]
        super().__init__(description, len(copies), CopyArrays(description, len(copies)))
        self._loop = CopyLoop(copies, self._arrays)
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.close()

    def _begin(self, seeds: list[int | None], options: list[dict[str, Any]]) -> dict[int, AgentInfos]:
        return self._loop.begin(seeds, options)

    def _start_step(self) -> None:
        pass  # the copies are stepped when the step is to be finished

    def _finish_step(self) -> StepInfos:
        return self._loop.step()

    def _ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        return self._loop.call(name, arguments)


class SubprocBackend(LoopBackend):
    """
    Steps the copies in worker processes, each of which owns a contiguous share of them.

    Actions, observations, rewards and flags are in memory that the processes share; commands and infos go through pipes.

    :param factories: one factory per copy, called in its worker
    :param description: agents and spaces of the env; all copies must have them
    :param num_cpus: number of worker processes, at most one per copy; by default one per CPU core, at least two
    :param timeout: seconds that a worker has for one command, such as a step of its copies; ``None`` for no limit
    """

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        description: EnvDescription,
        num_cpus: int | None = None,
        timeout: float | None = None,
    ) -> None:
        num_envs = len(factories)
        # Anonymous memory: it needs no name that could outlive the processes.
        memory = multiprocessing.RawArray(ctypes.c_uint8, CopyArrays.nbytes(description, num_envs))
        super().__init__(description, num_envs, CopyArrays(description, num_envs, memory))
        shares = shares_of_workers(num_envs, num_cpus)
        setups = [WorkerSetup({copy: factories[copy] for copy in share}, description, num_envs) for share in shares]
        self._workers = WorkerGroup(*started_workers(setups, memory), shares, timeout)
        self._workers.receive()

    @property
    def processes(self) -> Sequence[Any]:
        """Worker processes."""
        return self._workers.processes

    def close(self) -> None:
        self._workers.close()

    def _begin(self, seeds: list[int | None], options: list[dict[str, Any]]) -> dict[int, AgentInfos]:
        self._workers.send_all(("begin", seeds, options))
        return {copy: infos for answer in self._workers.receive() for copy, infos in answer.items()}

    def _start_step(self) -> None:
        self._workers.send_all(("step",))

    def _finish_step(self) -> StepInfos:
        infos: dict[int, AgentInfos] = {}
        reset_infos: dict[int, AgentInfos] = {}
        for step_infos, begin_infos in self._workers.receive():
            infos.update(step_infos)
            reset_infos.update(begin_infos)
        return infos, reset_infos

    def _ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        parts = [{copy: arguments[copy] for copy in share if copy in arguments} for share in self._workers.shares]
        self._workers.send([("ask", cloudpickle.dumps((name, part))) for part in parts])
        return results({copy: answer for answers in self._workers.receive() for copy, answer in answers.items()})
