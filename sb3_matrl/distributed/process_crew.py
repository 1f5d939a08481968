"""Workers in processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.distributed.crew import Crew, WorkerDied
from sb3_matrl.distributed.shard import CollectionStopped, Shard, ShardPlan
from sb3_matrl.vec_env.errors import exit_cause
from sb3_matrl.vec_env.workers import ignore_interrupts

# Seconds that a worker has to close its envs before it is killed, and that a dead one has to report its exit code.
_PATIENCE = 10.0
_END = "end"
_GUARD = " before it was ready. In a script, start the training below: if __name__ == '__main__':"
# Modules that every worker needs; torch imports the second one with the first optimiser.
_PRELOADED = (__name__, "torch._dynamo")


@dataclass(frozen=True)
class Message:
    """
    A pickled value, whose arrays are sent as they lie in memory.

    :param content: pickle of the value without its arrays
    :param arrays: memory of the arrays
    """

    content: bytes
    arrays: tuple[memoryview, ...]

    @classmethod
    def of(cls, value: Any) -> Message:
        """
        :param value: value that pickle can store
        """
        arrays: list[pickle.PickleBuffer] = []
        content = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
        return cls(content, tuple(array.raw() for array in arrays))

    def send(self, pipe: Any) -> None:
        """
        :param pipe: connection
        :raises OSError: if the other end is closed
        """
        pipe.send_bytes(pickle.dumps((self.content, [array.nbytes for array in self.arrays])))
        for array in self.arrays:
            while len(array):
                array = array[os.write(pipe.fileno(), array) :]

    @staticmethod
    def receive(pipe: Any) -> Any:
        """
        :param pipe: connection
        :return: value that the other end sent
        :raises EOFError: if the other end is closed
        """
        content, sizes = pickle.loads(pipe.recv_bytes())
        arrays = [np.empty(size, dtype=np.uint8) for size in sizes]
        for array in arrays:
            _fill(pipe.fileno(), array.data)
        return pickle.loads(content, buffers=arrays)


def _fill(descriptor: int, memory: memoryview) -> None:
    while len(memory):
        count = os.readv(descriptor, [memory])
        if not count:
            raise EOFError
        memory = memory[count:]


@dataclass(frozen=True)
class _Shared:
    """An argument that is pickled once for all workers."""

    message: Message


class ProcessCrew(Crew):
    """
    One process per worker, started by a server without threads (multiprocessing's ``forkserver``).

    The processes ignore Ctrl-C and SIGTERM, which this process handles, and end with this process, however that ends.

    :param plans: plan of each worker
    """

    def __init__(self, plans: Sequence[ShardPlan]) -> None:
        super().__init__(plans)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*_PRELOADED, *dict.fromkeys(plan.module for plan in plans)])
        self._running: dict[int, tuple[Any, Any]] = {}
        self._built: set[int] = set()  # workers that have answered
        # Before Python waits for the processes, which are no daemons, because envs may start processes.
        self._finalize = Finalize(self, _end_all, (self._running,), exitpriority=10)

    def __reduce__(self) -> Any:
        # Copies of the pipes would close those of the original.
        raise TypeError(
            "rollout workers in processes cannot be copied or pickled: save() and load() the model, or use "
            "worker_backend='in-turn'"
        )

    @property
    def processes(self) -> dict[int, Any]:
        """Worker -> its process."""
        return {worker: process for worker, (_, process) in self._running.items()}

    def is_running(self, worker: int) -> bool:
        return worker in self._running

    def launch(self, worker: int) -> None:
        pipe, remote = self._context.Pipe()
        process = self._context.Process(target=_work, args=(remote,), name=f"rollout worker {worker}")
        try:
            process.start()
        except (EOFError, ConnectionError):  # the server ended at this moment; the next start begins with another one
            process.start()
        remote.close()
        self._running[worker] = pipe, process
        self._send(worker, Message.of(self.plans[worker]))

    def shared(self, argument: Any) -> Any:
        return _Shared(Message.of(argument))

    def call(self, worker: int, method: str, arguments: Sequence[Any]) -> None:
        given = [None if isinstance(one, _Shared) else one for one in arguments]
        self._send(worker, Message.of((method, given, [isinstance(one, _Shared) for one in arguments])))
        for one in arguments:
            if isinstance(one, _Shared):
                self._send(worker, one.message)

    def _send(self, worker: int, message: Message) -> None:
        with suppress(OSError):  # the answer will say that the worker has died
            message.send(self._running[worker][0])

    def ready(self, workers: Collection[int], seconds: float) -> list[int]:
        by_pipe = {self._running[worker][0]: worker for worker in workers}
        return sorted(by_pipe[pipe] for pipe in wait(list(by_pipe), seconds))

    def answer(self, worker: int) -> Any:
        pipe, process = self._running[worker]
        try:
            succeeded, answer = Message.receive(pipe)
        except (EOFError, OSError):
            del self._running[worker]
            pipe.close()
            process.join(_PATIENCE)
            raise WorkerDied(exit_cause(process.exitcode) + ("" if worker in self._built else _GUARD)) from None
        self._built.add(worker)
        if not succeeded:
            raise answer
        return answer

    def end(self, at_once: bool = False) -> None:
        running = dict(self._running)
        self._running.clear()
        _end_all(running, at_once)


def _end_all(running: dict[int, tuple[Any, Any]], at_once: bool = False) -> None:
    for pipe, process in running.values():
        if at_once:
            process.kill()
        else:
            with suppress(OSError):
                Message.of(_END).send(pipe)
    deadline = time.monotonic() + _PATIENCE
    for pipe, process in running.values():
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        pipe.close()
    running.clear()


# ---------------------------------------------------------------- in the worker


def _work(pipe: Any) -> None:
    """
    Answer calls until the end of the parent process, or until it says so.

    :param pipe: connection to the parent
    """
    ignore_interrupts()
    th.set_num_threads(1)
    shard: Shard | None = None
    with suppress(EOFError, OSError, CollectionStopped):  # the parent is gone, or wants nothing more
        try:
            shard = _built(pipe)
            while shard is not None and (command := Message.receive(pipe)) != _END:
                _reply(pipe, partial(_executed, shard, command, pipe))
        finally:
            if shard is not None:
                shard.close()


def _built(pipe: Any) -> Shard | None:
    """The worker's share; ``None`` if it cannot be built, after the parent got the error."""
    plan, built = Message.receive(pipe), []
    _reply(pipe, lambda: built.append(plan.make()))
    return built[0] if built else None


def _reply(pipe: Any, call: Callable[[], Any]) -> None:
    """Send the result of a call, or its error."""
    try:
        message = Message.of((True, call()))
    except (EOFError, CollectionStopped):
        raise
    except Exception as error:
        message = _failure(error)
    message.send(pipe)


def _executed(shard: Shard, command: Any, pipe: Any) -> Any:
    method, given, shared = command
    arguments = [Message.receive(pipe) if is_shared else one for one, is_shared in zip(given, shared, strict=True)]
    more = [_Silence(pipe).lasts] if method == "collect" else []
    return getattr(shard, method)(*arguments, *more)


def _failure(error: Exception) -> Message:
    error.add_note(f"In a rollout worker:\n{traceback.format_exc()}")
    try:
        message = Message.of((False, error))
        pickle.loads(message.content, buffers=message.arrays)
        return message
    except Exception:  # errors that pickle cannot store, or not read again
        return Message.of((False, RuntimeError(f"{type(error).__name__}: {error}")))


class _Silence:
    """Tells whether the parent process is still there and waits: in the middle of a call it sends nothing."""

    def __init__(self, pipe: Any) -> None:
        self._poll = select.poll()
        self._poll.register(pipe.fileno(), select.POLLIN | select.POLLHUP)

    def lasts(self) -> bool:
        """Whether the parent has neither ended nor said anything."""
        return not self._poll.poll(0)
