"""Backends for any ParallelEnv: SuperSuit batches the copies, in this process or in worker processes."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import cloudpickle
import numpy as np
from supersuit import pettingzoo_env_to_vec_env_v1
from supersuit.vector import ConcatVecEnv, ProcConcatVec

from sb3_matrl.envs.snapshot import Snapshot
from sb3_matrl.vec_env.backend import AgentInfos, Backend, BackendStep, Start, separate_copies
from sb3_matrl.vec_env.describe import EnvDescription
from sb3_matrl.vec_env.step import JointObservation
from sb3_matrl.vec_env.uniform import (
    ACTING,
    ALIVE,
    COMMAND,
    HEADER,
    RESET,
    REWARD,
    TERMINATED,
    TRUNCATED,
    EnvAccess,
    Layout,
    UniformParallelEnv,
)
from sb3_matrl.vec_env.value_checks import ActionRangeCheck
from sb3_matrl.vec_env.workers import await_answers, end_workers, ignore_interrupts, worker_failures

EnvFactory = Callable[[], Any]


def _vectorised_copy(factory: EnvFactory, copy: int, remote: bool, description: EnvDescription) -> Any:
    return pettingzoo_env_to_vec_env_v1(UniformParallelEnv(factory, copy, remote, description))


def _worker_envs(copies: Sequence[Callable[[], Any]]) -> ConcatVecEnv:
    """Make the envs of one worker process; runs in that process."""
    ignore_interrupts()
    return ConcatVecEnv(copies)


class SuperSuitBackend(Backend):
    """
    Base class of the backends that use SuperSuit: encodes actions as rows and decodes observations from rows.

    :param vec: SuperSuit's vector env of copies of :class:`UniformParallelEnv`; rows are ordered by copy, then by agent
    :param description: agents and spaces of the env
    :param num_envs: number of copies
    """

    layout = "separate"

    def __init__(self, vec: Any, description: EnvDescription, num_envs: int) -> None:
        self.vec = vec
        self.num_envs = num_envs
        self.agents = description.agents
        self.renamed = description.renamed
        self.one_mask = description.one_mask
        self.observation_spaces = description.observation_spaces
        self.action_spaces = description.action_spaces
        self.render_mode = description.render_mode
        self.snapshot_obstacle = description.snapshot_obstacle
        self._layout = Layout(description)
        self._check_range = ActionRangeCheck(self.action_spaces)
        self._acting = np.zeros((num_envs, len(self.agents)), dtype=bool)

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Start:
        rows, infos = self._command("begin", list(seeds), list(options))
        return self._start(rows, _by_copy(infos, "agents"))

    def snapshot(self) -> Snapshot:
        _, snapshots = self._ask("save")
        return {"copies": [snapshots[copy] for copy in range(self.num_envs)]}

    def restore(self, snapshot: Snapshot) -> Start:
        rows, _ = self._ask("restore", separate_copies(snapshot, self.num_envs))
        return self._start(rows, {})

    def _start(self, rows: np.ndarray, infos: dict[int, AgentInfos]) -> Start:
        grid = self._grid(rows)
        self._acting = _flag(grid, ACTING)
        return Start(self._observations(grid), _flag(grid, ALIVE), self._acting, infos)

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
        )

    def get_attr(self, name: str, copies: Sequence[int]) -> list[Any]:
        return self._query(copies, "get_attr", name)

    def set_attr(self, name: str, value: Any, copies: Sequence[int]) -> None:
        self._query(copies, "set_attr", name, value)

    def env_method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], copies: Sequence[int]) -> list[Any]:
        return self._query(copies, "env_method", name, args, kwargs)

    def env_is_wrapped(self, wrapper_class: type[Any], copies: Sequence[int]) -> list[bool]:
        return self._query(copies, "env_is_wrapped", wrapper_class)

    def render(self, mode: str | None) -> Any:
        if mode is None or mode != self.render_mode:
            warnings.warn(
                f"nothing is drawn in mode {mode!r}: the env was made with render_mode={self.render_mode!r}; "
                "choose the mode when the env is made",
                stacklevel=3,
            )
            return None
        return self.env_method("render", (), {}, [0])[0]

    def _send(self, rows: np.ndarray) -> None:
        self.vec.step_async(rows)

    def _receive(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        rows, _, _, _, infos = self.vec.step_wait()
        return rows, infos

    @abstractmethod
    def _command(self, name: str, *arguments: Any) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """
        Execute a command in every copy.

        :param name: method of :class:`UniformParallelEnv`
        :param arguments: arguments of the method
        :return: all rows, and the non-empty infos of the copies
        """

    def _ask(self, name: str, *arguments: Any) -> tuple[np.ndarray, dict[int, Any]]:
        """
        Execute a command that returns an answer.

        :param name: method of :class:`UniformParallelEnv`
        :param arguments: arguments of the method
        :return: all rows, and copy -> answer
        """
        rows, infos = self._command(name, *arguments)
        answers = {info["copy"]: cloudpickle.loads(info["answer"]) for info in infos}
        for succeeded, result in answers.values():
            if not succeeded:
                raise result
        return rows, {copy: result for copy, (_, result) in answers.items()}

    @abstractmethod
    def _query(self, copies: Sequence[int], name: str, *arguments: Any) -> list[Any]:
        """Call a method of :class:`EnvAccess` for each of the copies."""

    def _grid(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(self.num_envs, len(self.agents), self._layout.observation_size)

    def _observations(self, grid: np.ndarray) -> JointObservation:
        codecs = enumerate(self._layout.observations.items())
        return {agent: codec.read(grid[:, column, HEADER:]) for column, (agent, codec) in codecs}

    def _final_observations(self, infos: list[dict[str, Any]]) -> JointObservation:
        grid = np.zeros((self.num_envs, len(self.agents), self._layout.observation_size), np.uint8)
        columns = {agent: column for column, agent in enumerate(self.agents)}
        for info in infos:
            for agent, row in info.get("final", {}).items():
                grid[info["copy"], columns[agent]] = np.frombuffer(row, np.uint8)
        return self._observations(grid)


class DummyBackend(SuperSuitBackend):
    """
    Steps all copies in this process, one after the other.

    :param factories: one factory per copy
    :param description: agents and spaces of copy 0; the other copies must have the same
    """

    def __init__(self, factories: Sequence[EnvFactory], description: EnvDescription) -> None:
        copies = [partial(_vectorised_copy, factory, copy, False, description) for copy, factory in enumerate(factories)]
        vec = ConcatVecEnv(copies)
        self._copies: list[UniformParallelEnv] = [markov_env.par_env for markov_env in vec.vec_envs]
        self._closed = False
        super().__init__(vec, description, len(copies))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.vec.close()

    def _command(self, name: str, *arguments: Any) -> tuple[np.ndarray, list[dict[str, Any]]]:
        rows, infos = self.vec.reset(options={COMMAND: (name, *arguments)})
        return rows, [info for info in infos if info]

    def _query(self, copies: Sequence[int], name: str, *arguments: Any) -> list[Any]:
        return [getattr(EnvAccess, name)(self._copies[copy].env, *arguments) for copy in copies]


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


class SubprocBackend(SuperSuitBackend):
    """
    Steps the copies in worker processes.

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
        workers = min(len(factories), num_cpus or max(2, os.cpu_count() or 2))
        copies = [partial(_vectorised_copy, factory, copy, True, description) for copy, factory in enumerate(factories)]
        self._shares = [share.tolist() for share in np.array_split(np.arange(len(copies)), workers)]
        layout = Layout(description)
        with worker_failures():
            vec = _TimedWorkers(
                self._shares,
                timeout,
                [partial(_worker_envs, [copies[copy] for copy in share]) for share in self._shares],
                layout.observation_space,
                layout.action_space,
                len(copies) * len(description.agents),
                description.metadata,
            )
        vec.close = lambda: None  # its __del__ calls it, also in processes forked later, where it fails
        # Workers are no daemons, because envs may start processes. They end with this object or at exit, before Python
        # waits for them. SuperSuit would kill them without closing the envs.
        self._end_workers = Finalize(self, end_workers, (vec.pipes, vec.procs), exitpriority=10)
        super().__init__(vec, description, len(copies))

    def close(self) -> None:
        error = self._end_workers()
        if error is not None:
            raise error

    def _send(self, rows: np.ndarray) -> None:
        with self._failures():
            super()._send(rows)

    def _receive(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        with self._failures():
            return super()._receive()

    def _command(self, name: str, *arguments: Any) -> tuple[np.ndarray, list[dict[str, Any]]]:
        with self._failures():
            rows, by_worker = self.vec.reset(options={COMMAND: cloudpickle.dumps((name, *arguments))})
        return rows, [info for worker in by_worker for _, info in worker]

    def _query(self, copies: Sequence[int], name: str, *arguments: Any) -> list[Any]:
        _, answers = self._ask("query", list(copies), name, *arguments)
        return [answers[copy] for copy in copies]

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """End all workers after an error, because SuperSuit's workers do not survive one."""
        if not self._end_workers.still_active():
            raise RuntimeError("the worker processes have ended after an earlier error; make a new JointVecEnv")
        try:
            with worker_failures(self.vec.procs, self._shares):
                yield
        except BaseException:
            self._end_workers()
            raise


def _flag(grid: np.ndarray, position: int) -> np.ndarray:
    return grid[:, :, position].astype(bool)


def _by_copy(infos: list[dict[str, Any]], key: str) -> dict[int, AgentInfos]:
    return {info["copy"]: info[key] for info in infos if key in info}
