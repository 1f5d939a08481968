"""The backends of rollout workers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sb3_matrl.distributed.crew import Crew, InTurnCrew
from sb3_matrl.distributed.process_crew import ProcessCrew
from sb3_matrl.distributed.ray_crew import RayCrew, require_ray
from sb3_matrl.distributed.shard import ShardPlan
from sb3_matrl.utils.suggest import unknown

#: Values of the argument ``worker_backend``.
WORKER_BACKENDS = ("process", "ray", "in-turn")


def check_backend(backend: str) -> None:
    """
    :param backend: value of ``worker_backend``
    :raises ValueError: if it is unknown
    :raises ImportError: if it needs a package that is missing
    """
    if backend not in WORKER_BACKENDS:
        raise ValueError(unknown("worker_backend", backend, WORKER_BACKENDS))
    if backend == "ray":
        require_ray()


def make_crew(backend: str, plans: Sequence[ShardPlan], proceed: Callable[[], bool]) -> Crew:
    """
    Workers that have not been launched yet.

    :param backend: one of :data:`WORKER_BACKENDS`
    :param plans: plan of each worker
    :param proceed: whether the training continues; workers in this process ask after every step
    """
    if backend == "in-turn":
        return InTurnCrew(plans, proceed)
    return ProcessCrew(plans) if backend == "process" else RayCrew(plans)
