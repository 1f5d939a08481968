"""Backends for any ParallelEnv: SuperSuit batches the copies, in this process or in worker processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
from supersuit import pettingzoo_env_to_vec_env_v1
from supersuit.vector import ConcatVecEnv, ProcConcatVec

from sb3_matrl.vec_env.answers import results
from sb3_matrl.vec_env.backend import AgentInfos, BackendStep, Start
from sb3_matrl.vec_env.describe import EnvDescription
from sb3_matrl.vec_env.env_copy import EnvCopy
from sb3_matrl.vec_env.row_layout import ACTING, ALIVE, HEADER, RESET, REWARD, TERMINATED, TRUNCATED, RowLayout
from sb3_matrl.vec_env.separate import EnvFactory, SeparateBackend
from sb3_matrl.vec_env.step import JointObservation
from sb3_matrl.vec_env.uniform import COMMAND, UniformParallelEnv
from sb3_matrl.vec_env.workers import WorkerGroup, await_answers, ignore_interrupts, shares_of_workers, worker_failures


def _vectorised_copy(factory: EnvFactory, copy: int, remote: bool, description: EnvDescription) -> Any:
    return pettingzoo_env_to_vec_env_v1(UniformParallelEnv(EnvCopy(factory, copy, remote, description)))


def _worker_envs(copies: Sequence[Callable[[], Any]]) -> ConcatVecEnv:
    """Make the envs of one worker process; runs in that process."""
    ignore_interrupts()
    return ConcatVecEnv(copies)


class SuperSuitBackend(SeparateBackend):
    """
    Base class of the backends that use SuperSuit: encodes actions as rows and decodes observations from rows.

    :param vec: SuperSuit's vector env of copies of :class:`UniformParallelEnv`; rows are ordered by copy, then by agent
    :param description: agents and spaces of the env
    :param num_envs: number of copies
    """

    def __init__(self, vec: Any, description: EnvDescription, num_envs: int) -> None:
        super().__init__(description, num_envs)
        self.vec = vec
        self._layout = RowLayout(description, states=True)
        self._rows: np.ndarray = np.zeros(0, np.uint8)  # return value of the last command
        self._acting = np.zeros((num_envs, len(self.agents)), dtype=bool)

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Start:
        infos = self._command("begin", list(seeds), list(options))
        return self._start(_by_copy(infos, "agents"))

    def _start(self, infos: dict[int, AgentInfos]) -> Start:
        grid = self._grid(self._rows)
        self._acting = _flag(grid, ACTING)
        return Start(self._observations(grid), _flag(grid, ALIVE), self._acting, infos, self._states(grid))

    def step_async(self, actions: dict[str, np.ndarray]) -> None:
        self._check_range(actions, self._acting)
        rows = np.zeros((self.num_envs, len(self.agents), self._layout.action_size), np.uint8)
        for column, (agent, codec) in enumerate(self._layout.actions.items()):
            codec.write([actions[agent]], rows[:, column])
        self._send(rows.reshape(-1, self._layout.action_size))

    def step_wait(self) -> BackendStep:
        rows, row_infos = self._receive()
        grid = self._grid(rows)
        infos = [info for info in row_infos[:: len(self.agents)] if info]
        terminated, truncated = _flag(grid, TERMINATED), _flag(grid, TRUNCATED)
        self._acting = _flag(grid, ACTING)
        return BackendStep(
            observations=self._observations(grid),
            rewards=grid[:, :, REWARD].copy().view(np.float64)[:, :, 0],
            terminated=terminated,
            truncated=truncated,
            alive=_flag(grid, ALIVE),
            acting=self._acting,
            dones=_flag(grid, RESET)[:, 0],
            final_observations=self._final_observations(infos) if (terminated | truncated).any() else None,
            infos=_by_copy(infos, "agents"),
            reset_infos=_by_copy(infos, "reset"),
            states=self._states(grid),
            final_states=self._final_states(infos),
        )

    def _send(self, rows: np.ndarray) -> None:
        self.vec.step_async(rows)

    def _receive(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        rows, _, _, _, infos = self.vec.step_wait()
        return rows, infos

    @abstractmethod
    def _command(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        """
        Execute a command in every copy, and store all rows in ``_rows``.

        :param name: method of :class:`UniformParallelEnv`
        :param arguments: arguments of the method
        :return: non-empty infos of the copies
        """

    def _ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        infos = self._command("ask", name, dict(arguments))
        return results({info["copy"]: info["answer"] for info in infos})

    def _grid(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(self.num_envs, len(self.agents), self._layout.observation_size)

    def _observations(self, grid: np.ndarray) -> JointObservation:
        codecs = enumerate(self._layout.observations.items())
        return {agent: codec.read(grid[:, column, HEADER:]) for column, (agent, codec) in codecs}

    def _states(self, grid: np.ndarray) -> np.ndarray | None:
        return self._layout.states(grid) if self.with_states else None

    def _final_states(self, infos: list[dict[str, Any]]) -> np.ndarray | None:
        ended = {info["copy"]: info["final_state"] for info in infos if "final_state" in info}
        if self.state_space is None or not ended:
            return None
        states = np.zeros((self.num_envs, *self.state_space.shape), np.float32)
        for copy, state in ended.items():
            states[copy] = np.frombuffer(state, np.float32)
        return states

    def _final_observations(self, infos: list[dict[str, Any]]) -> JointObservation:
        grid = np.zeros((self.num_envs, len(self.agents), self._layout.observation_size), np.uint8)
        columns = {agent: column for column, agent in enumerate(self.agents)}
        for info in infos:
            for agent, row in info.get("final", {}).items():
                grid[info["copy"], columns[agent]] = np.frombuffer(row, np.uint8)
        return self._observations(grid)


class SuperSuitDummyBackend(SuperSuitBackend):
    """
    Steps all copies in this process, one after the other, through SuperSuit.

    :param factories: one factory per copy
    :param description: agents and spaces of copy 0; the other copies must have the same
    """

    def __init__(self, factories: Sequence[EnvFactory], description: EnvDescription) -> None:
        copies = [partial(_vectorised_copy, factory, copy, False, description) for copy, factory in enumerate(factories)]
        vec = ConcatVecEnv(copies)
        self._copies: list[EnvCopy] = [markov_env.par_env.env_copy for markov_env in vec.vec_envs]
        self._closed = False
        super().__init__(vec, description, len(copies))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.vec.close()

    def _command(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        self._rows, infos = self.vec.reset(options={COMMAND: (name, *arguments)})
        return [info for info in infos if info]

    def _ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        if name != "query":
            return super()._ask(name, arguments)
        # The objects themselves, not pickled copies, and no new rows.
        return {copy: self._copies[copy].query(*given) for copy, given in arguments.items()}


class _TimedWorkers(ProcConcatVec):  # type: ignore[misc]  # SuperSuit ships no types
    """
    SuperSuit's worker processes, with a limit to the time that they take for a command.

    :param shares: copies of each worker
    :param timeout: seconds; ``None`` for no limit
    :param arguments: arguments of SuperSuit's class
    """

    def __init__(self, shares: Sequence[Sequence[int]], timeout: float | None, *arguments: Any) -> None:
        self._shares = shares
        self._timeout = timeout
        super().__init__(*arguments)

    def _receive_info(self) -> Any:
        await_answers(self.pipes, self.procs, self._shares, self._timeout)
        return super()._receive_info()


class SuperSuitSubprocBackend(SuperSuitBackend):
    """
    Steps the copies in worker processes, through SuperSuit.

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
        copies = [partial(_vectorised_copy, factory, copy, True, description) for copy, factory in enumerate(factories)]
        shares = shares_of_workers(len(copies), num_cpus)
        layout = RowLayout(description, states=True)
        with worker_failures():
            vec = _TimedWorkers(
                shares,
                timeout,
                [partial(_worker_envs, [copies[copy] for copy in share]) for share in shares],
                layout.observation_space,
                layout.action_space,
                len(copies) * len(description.agents),
                description.metadata,
            )
        vec.close = lambda: None  # its __del__ calls it, also in processes forked later, where it fails
        # SuperSuit would kill the workers without closing the envs.
        self._workers = WorkerGroup(vec.pipes, vec.procs, shares)
        super().__init__(vec, description, len(copies))

    @property
    def processes(self) -> Sequence[Any]:
        """Worker processes."""
        return self._workers.processes

    def close(self) -> None:
        self._workers.close()

    def _send(self, rows: np.ndarray) -> None:
        with self._workers.ended_by_errors():
            super()._send(rows)

    def _receive(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        with self._workers.ended_by_errors():
            return super()._receive()

    def _command(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        with self._workers.ended_by_errors():
            self._rows, by_worker = self.vec.reset(options={COMMAND: cloudpickle.dumps((name, *arguments))})
        return [info for worker in by_worker for _, info in worker]


def _flag(grid: np.ndarray, position: int) -> np.ndarray:
    return grid[:, :, position].astype(bool)


def _by_copy(infos: list[dict[str, Any]], key: str) -> dict[int, AgentInfos]:
    return {info["copy"]: info[key] for info in infos if key in info}
