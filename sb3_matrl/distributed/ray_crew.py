"""Workers as actors of a Ray cluster. Ray is an optional dependency and imported only for ``worker_backend="ray"``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import torch as th

from sb3_matrl.distributed.crew import Crew, WorkerDied
from sb3_matrl.distributed.shard import RolloutWorkerError, ShardPlan
from sb3_matrl.utils.one_line import one_line

# Seconds that the cluster has to find a free CPU for a worker.
_PATIENCE = 60.0


def require_ray() -> None:
    """
    :raises ImportError: if ray is not installed
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError("worker_backend='ray' needs ray: pip install 'sb3-matrl[ray]'")


class ShardActor:
    """A worker's share, in a process of the cluster."""

    def build(self, plan: ShardPlan) -> None:
        """
        :param plan: plan of the worker
        """
        th.set_num_threads(1)
        self._shard = plan.make()

    def call(self, method: str, *arguments: Any) -> Any:
        """
        :param method: method of the share
        :param arguments: its arguments; ``collect`` gets no ``proceed``
        :return: its result
        """
        more = [_always] if method == "collect" else []
        return getattr(self._shard, method)(*arguments, *more)


def _always() -> bool:
    return True


class RayCrew(Crew):
    """
    One actor per worker, each with one CPU.

    The cluster is the one that this process has joined, the one at ``RAY_ADDRESS``, or one on this machine that is started
    here and ends with the process.

    :param plans: plan of each worker
    :raises RolloutWorkerError: if the cluster cannot be reached, or has too few CPUs
    """

    def __init__(self, plans: Sequence[ShardPlan]) -> None:
        super().__init__(plans)
        self._ray: Any = importlib.import_module("ray")
        self._join()
        self._actor = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(ShardActor)
        self._actors: dict[int, Any] = {}
        self._answers: dict[int, Any] = {}
        self._launched: dict[int, float] = {}
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if cpus < len(plans):
            raise RolloutWorkerError(
                f"the Ray cluster has {cpus} CPUs, and rollout_workers={len(plans)} need one each: add machines, or take "
                "fewer workers"
            )

    def _join(self) -> None:
        if self._ray.is_initialized():
            return
        # Without "local", Ray joins any cluster that it finds on this machine.
        own = {"address": "local", "num_cpus": len(self.plans), "include_dashboard": False}
        try:
            self._ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else own))
        except Exception as error:  # Ray raises errors of many kinds
            place = os.environ.get("RAY_ADDRESS", "this machine")
            reason = one_line(error)
            raise RolloutWorkerError(f"there is no Ray cluster at {place} that can be used: {reason}") from error

    def is_running(self, worker: int) -> bool:
        return worker in self._actors

    def launch(self, worker: int) -> None:
        self._actors[worker] = self._actor.remote()
        self._launched[worker] = time.monotonic()
        self._answers[worker] = self._actors[worker].build.remote(self.plans[worker])

    def shared(self, argument: Any) -> Any:
        return self._ray.put(argument)

    def call(self, worker: int, method: str, arguments: Sequence[Any]) -> None:
        self._answers[worker] = self._actors[worker].call.remote(method, *arguments)

    def ready(self, workers: Collection[int], seconds: float) -> list[int]:
        by_answer = {self._answers[worker]: worker for worker in workers}
        found, _ = self._ray.wait(list(by_answer), num_returns=1, timeout=seconds)
        if not found:
            self._check_waiting(workers)
        return sorted(by_answer[answer] for answer in found)

    def _check_waiting(self, workers: Collection[int]) -> None:
        """
        :raises RolloutWorkerError: if the cluster has had no CPU for a worker for a long time
        """
        late = [worker for worker in workers if time.monotonic() - self._launched.get(worker, time.monotonic()) > _PATIENCE]
        if late and self._ray.available_resources().get("CPU", 0) < 1:
            raise RolloutWorkerError(
                f"the Ray cluster has had no free CPU for rollout worker {late[0]} for {_PATIENCE:.0f} s: end other jobs, add "
                "machines, or take fewer workers"
            )

    def answer(self, worker: int) -> Any:
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(self._answers.pop(worker))
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except errors.RayError as error:  # the actor, its node, or the answer is lost
            del self._actors[worker]
            reason = one_line(error)
            raise WorkerDied(f"Ray says: {reason}") from None
        self._launched.pop(worker, None)
        return answer

    def end(self, at_once: bool = False) -> None:
        actors, self._actors, self._answers, self._launched = self._actors, {}, {}, {}
        for actor in actors.values():
            with suppress(Exception):  # the cluster may be gone
                if not at_once:
                    self._ray.get(actor.call.remote("close"), timeout=_PATIENCE)
                self._ray.kill(actor)
