"""Interface between a training and its running workers, and workers that run in turn in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sb3_matrl.distributed.shard import Shard, ShardPlan


class WorkerDied(Exception):
    """
    A worker ended without an answer.

    :param cause: what is known about it
    """


class Crew(ABC):
    """
    Running workers, each of which has one :class:`~sb3_matrl.distributed.shard.Shard` and answers one call at a time.

    :param plans: plan of each worker
    """

    def __init__(self, plans: Sequence[ShardPlan]) -> None:
        self.plans = list(plans)

    @abstractmethod
    def is_running(self, worker: int) -> bool:
        """Whether a worker has been launched and is not known to have died."""

    @abstractmethod
    def launch(self, worker: int) -> None:
        """Start a worker; its first answer is ``None``, once its share is built."""

    def shared(self, argument: Any) -> Any:
        """
        An argument that several workers get, in the form in which it is sent.

        :param argument: argument of calls
        """
        return argument

    @abstractmethod
    def call(self, worker: int, method: str, arguments: Sequence[Any]) -> None:
        """
        Call a method of a worker's share, and do not wait.

        :param worker: index of the worker
        :param method: ``"reset"``, ``"restore"`` or ``"collect"``
        :param arguments: its arguments; those of :meth:`shared` are accepted; ``collect`` gets no ``proceed``
        """

    @abstractmethod
    def ready(self, workers: Collection[int], seconds: float) -> list[int]:
        """
        Wait for answers.

        :param workers: workers that have not answered
        :param seconds: longest time to wait
        :return: workers that have answered or died
        """

    @abstractmethod
    def answer(self, worker: int) -> Any:
        """
        Answer of a worker to its last call.

        :param worker: worker that :meth:`ready` returned
        :raises WorkerDied: if it ended without an answer
        :raises Exception: error of the call
        """

    @abstractmethod
    def end(self, at_once: bool = False) -> None:
        """
        End all workers; they can be launched again.

        :param at_once: whether to kill them, in the middle of whatever they do
        """


class InTurnCrew(Crew):
    """
    Workers that run one after the other in this process: for tests, for debugging, and to see what a worker does.

    :param plans: plan of each worker
    :param proceed: called after every step; False abandons the rollout
    """

    def __init__(self, plans: Sequence[ShardPlan], proceed: Callable[[], bool]) -> None:
        super().__init__(plans)
        self._proceed = proceed
        self._shards: dict[int, Shard] = {}
        self._calls: dict[int, Callable[[], Any]] = {}

    def is_running(self, worker: int) -> bool:
        return worker in self._shards

    def launch(self, worker: int) -> None:
        def build() -> None:
            self._shards[worker] = self.plans[worker].make()

        self._calls[worker] = build

    def call(self, worker: int, method: str, arguments: Sequence[Any]) -> None:
        more = [self._proceed] if method == "collect" else []
        self._calls[worker] = lambda: getattr(self._shards[worker], method)(*arguments, *more)

    def ready(self, workers: Collection[int], seconds: float) -> list[int]:
        return [min(workers)]

    def answer(self, worker: int) -> Any:
        return self._calls.pop(worker)()

    def end(self, at_once: bool = False) -> None:
        shards, self._shards, self._calls = self._shards, {}, {}
        for shard in shards.values():
            shard.close()
