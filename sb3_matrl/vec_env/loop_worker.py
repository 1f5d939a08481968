"""Worker process that steps a share of the copies, and writes into arrays in shared memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_matrl.vec_env.backend import AgentInfos
from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.copy_loop import CopyLoop
from sb3_matrl.vec_env.describe import EnvDescription
from sb3_matrl.vec_env.env_copy import EnvCopy
from sb3_matrl.vec_env.errors import DataFault
from sb3_matrl.vec_env.separate import EnvFactory
from sb3_matrl.vec_env.workers import ignore_interrupts


class WorkerSetup:
    """
    What a worker process needs to make its copies.

    :param factories: copy -> factory, for the copies of the worker
    :param description: agents and spaces of the env
    :param num_envs: number of copies of all workers
    """

    def __init__(self, factories: dict[int, EnvFactory], description: EnvDescription, num_envs: int) -> None:
        self.factories = factories
        self.description = description
        self.num_envs = num_envs

    def make(self, memory: Any) -> CopyLoop:
        """
        Make the copies; runs in the worker.

        :param memory: memory of the arrays of all copies
        """
        copies = [EnvCopy(factory, copy, True, self.description) for copy, factory in self.factories.items()]
        return CopyLoop(copies, CopyArrays(self.description, self.num_envs, memory))


def started_workers(setups: Sequence[WorkerSetup], memory: Any) -> tuple[list[Any], list[Any]]:
    """
    Start one worker process per setup. They are no daemons, because envs may start processes.

    :param setups: setups of the workers
    :param memory: memory of the arrays of all copies, which can be given to processes
    :return: pipes and processes; every worker first answers that it is ready
    """
    pipes, processes = [], []
    for setup in setups:
        pipe, remote = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_work, args=(remote, pipe, CloudpickleWrapper(setup), memory))
        process.start()
        remote.close()
        pipes.append(pipe)
        processes.append(process)
    return pipes, processes


def _work(pipe: Any, other_end: Any, setup: CloudpickleWrapper, memory: Any) -> None:
    """
    Execute commands until ``"terminate"`` or the end of the parent process; the first error ends the worker.

    :param pipe: connection to the parent; errors are sent as tuples, and results are no tuples
    :param other_end: the parent's end of the pipe, which must be closed for its death to be noticed
    :param setup: :class:`WorkerSetup` of this worker
    :param memory: memory of the arrays
    """
    other_end.close()
    ignore_interrupts()
    try:
        loop = setup.var.make(memory)
        pipe.send([])
        while (command := _received(pipe)) != "terminate":
            _send(pipe, _executed(loop, command))
    except _ParentGone:
        loop.close()
    except BaseException as error:
        with suppress(OSError):  # the parent is gone
            pipe.send((error,))


class _ParentGone(Exception):
    """The parent process ended without ending its workers."""


def _received(pipe: Any) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        raise _ParentGone from None


def _executed(loop: CopyLoop, command: Any) -> Any:
    if command == "close":
        return loop.close()
    name, *arguments = command
    if name == "ask":
        return loop.ask(*cloudpickle.loads(arguments[0]))
    result = getattr(loop, name)(*arguments)
    return list(result) if isinstance(result, tuple) else result


def _send(pipe: Any, answer: Any) -> None:
    try:
        content = ForkingPickler.dumps(answer)
    except Exception as error:
        raise _fault_of_infos(answer, error) from None
    pipe.send_bytes(content)


def _fault_of_infos(answer: Any, error: Exception) -> Exception:
    """Name the info that cannot be pickled; everything else in an answer can be."""
    for copy, agent, info in _infos_in(answer):
        try:
            ForkingPickler.dumps(info)
        except Exception as reason:
            return DataFault(
                copy,
                f"agent {agent!r}: its info cannot be sent from the worker process ({type(reason).__name__}: {reason}); "
                "leave out what cannot be pickled, or use vec_env='dummy'",
            )
    return error


def _infos_in(answer: Any) -> Iterator[tuple[int, str, Any]]:
    parts: list[Mapping[int, AgentInfos]] = answer if isinstance(answer, list) else [answer]
    for part in parts:
        for copy, infos in part.items():
            for agent, info in infos.items():
                yield copy, agent, info
