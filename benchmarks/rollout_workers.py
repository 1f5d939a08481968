"""
Rollout workers: speed, scaling, and recovery from kill -9.

    OMP_NUM_THREADS=1 python -m benchmarks.rollout_workers
    OMP_NUM_THREADS=1 python -m benchmarks.rollout_workers --parts speed --cases hopper_3x1:16 --iterations 3

``speed``: trainings without workers, with one and with two of them take one iteration each in turn, so that all see the
same machine; hashes of the final parameters tell whether workers in processes, in turn and on Ray (if it is installed)
play the same. ``off-policy``: the same for off-policy algorithms, in rounds between two updates. ``scaling``: every
worker plays one real rollout, and from then on sleeps for a fixed time instead of playing and hands back that rollout:
how an iteration splits into collection, transfer, merging and update, by the number of workers. ``kills``: at a random
moment of every iteration, a random worker gets SIGKILL; parameters are compared after each of them. ``anchor``: scaling
on Ray beside TorchRL's synchronous Ray collector, by the Python of an environment with torchrl. Settings of the
trainings are those of the zoo's files, except for the number of copies and the learning rate.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import random
import signal
import statistics
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.shared import write_record, zoo_settings
from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.distributed.backends import make_crew
from sb3_matrl.distributed.process_crew import ProcessCrew
from sb3_matrl.distributed.rollout_shard import RolloutHarvest, RolloutOrder, RolloutShard
from sb3_matrl.distributed.shard import Shard, ShardPlan
from sb3_matrl.distributed.worker_pool import WorkerPool
from sb3_matrl.off_policy.off_policy_algorithm import OffPolicyMultiAgent
from sb3_matrl.utils.random_state import random_generators, restore_random_generators

RESULT = Path("benchmarks/results/rollout_workers.json")
# Environments and numbers of copies, and joint steps of a rollout.
CASES = ("hopper_3x1:16", "pong_v3:16")
STEPS = 2048
PARTS = ("speed", "off-policy", "scaling", "kills", "anchor")
# Off-policy algorithms, environments and numbers of copies; joint steps of a round, and its settings.
OFF_POLICY_CASES = ("iql:pong_v3:16", "maddpg:hopper_3x1:16")
ROUND_STEPS = 1600
OFF_POLICY_SETTINGS = {"gradient_steps": 50, "buffer_size": 50_000, "learning_starts": 100}
WARM_UP = 1
# Workers, where they run, and how many times as many copies they share.
CONTESTANTS: list[tuple[int | None, str, int]] = [
    (None, "", 1),
    (1, "process", 1),
    (2, "process", 1),
    (2, "process", 2),
    (2, "in-turn", 2),
    (2, "ray", 2),
]


def build(
    env: str, rollout_workers: int | None, worker_backend: str, algorithm: str = "ippo", **changes: Any
) -> MultiAgentAlgorithm:
    """A model with the zoo's settings, on the CPU."""
    # Schedules would end with every call of learn().
    rates: dict[str, Any] = {"learning_rate": 3e-4, **({"br_learning_rate": 3e-4} if algorithm == "matrl" else {})}
    settings = zoo_settings(algorithm, env, **rates, **changes)
    spec = algorithm_spec(algorithm)
    where: dict[str, Any] = {"rollout_workers": rollout_workers, "worker_backend": worker_backend or "process"}
    model: MultiAgentAlgorithm = spec.load_class()(
        env=env, seed=0, device="cpu", **settings.model_arguments(), **spec.fixed, **where
    )
    return model


def iterate(model: MultiAgentAlgorithm) -> tuple[float, float]:
    """Take one iteration: seconds of the rollout, and of all the rest."""
    seconds: list[float] = []
    play = model.collect_rollouts

    def collect(callback: BaseCallback) -> bool:
        start = time.perf_counter()
        complete = play(callback)
        seconds.append(time.perf_counter() - start)
        return complete

    start = time.perf_counter()
    with mock.patch.object(model, "collect_rollouts", collect):
        model.learn(steps_of(model), reset_num_timesteps=model.num_timesteps == 0, log_interval=None)
    return seconds[0], time.perf_counter() - start - seconds[0]


def steps_of(model: MultiAgentAlgorithm) -> int:
    """Joint steps of an iteration."""
    per_copy = model.train_freq.frequency if isinstance(model, OffPolicyMultiAgent) else model.arguments["n_steps"]
    return int(per_copy * model.n_envs)


def parameter_hash(model: MultiAgentAlgorithm) -> str:
    """SHA-256 of all parameters, 16 digits of it."""
    digest = hashlib.sha256()
    for network in [learner.policy for learner in model.learners.values()] or [model.policy]:
        for parameter in network.parameters():
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- speed


class Contestant:
    """
    A training beside others in one process, with random generators of its own.

    :param model: its model
    """

    def __init__(self, model: MultiAgentAlgorithm) -> None:
        self.model = model
        self.times: list[tuple[float, float]] = []
        self._generators = random_generators()

    def iterate(self) -> None:
        """Take one iteration and note its times."""
        before = random_generators()
        restore_random_generators(self._generators)
        self.times.append(iterate(self.model))
        self._generators = random_generators()
        restore_random_generators(before)

    def row(self) -> dict[str, Any]:
        """Medians, and the hash of the parameters."""
        collect, update = (statistics.median(values) for values in zip(*self.times[WARM_UP:], strict=True))
        steps = steps_of(self.model)
        return {
            "collect_ms": 1e3 * collect,
            "update_ms": 1e3 * update,
            "collect_steps_per_second": steps / collect,
            "steps_per_second": steps / (collect + update),
            "parameter_hash": parameter_hash(self.model),
        }


def measure_speed(case: str, iterations: int) -> list[dict[str, Any]]:
    """One row per contestant; of ``env:copies``, or of ``algorithm:env:copies`` for off-policy algorithms."""
    *algorithm, env, copies = case.split(":")
    known = [one for one in CONTESTANTS if one[1] != "ray" or importlib.util.find_spec("ray") is not None]
    contestants = []
    for workers, backend, times in known:
        n_envs = times * int(copies)
        changes: dict[str, Any] = {"n_steps": STEPS // n_envs}
        if algorithm:
            changes = {"train_freq": ROUND_STEPS // n_envs, **OFF_POLICY_SETTINGS}
        contestants.append(Contestant(build(env, workers, backend, *algorithm, n_envs=n_envs, **changes)))
    for _ in range(WARM_UP + iterations):
        for contestant in contestants:
            contestant.iterate()
    rows = []
    for (workers, backend, _), contestant in zip(known, contestants, strict=True):
        where = {"rollout_workers": workers, "worker_backend": backend or None}
        name = {"algorithm": algorithm[0]} if algorithm else {}
        rows.append({**name, "env": env, "n_envs": contestant.model.n_envs, **where, **contestant.row()})
        assert contestant.model.env is not None
        contestant.model.env.close()
    return rows


# ---------------------------------------------------------------- scaling


@dataclass(frozen=True)
class SleepingPlan(ShardPlan):
    """Plan of a worker that sleeps instead of playing."""

    seconds: float = 0.0

    def make(self) -> Shard:
        return Sleeper(self, self.seconds)


class Sleeper(RolloutShard):
    """A share whose second and later rollouts are a sleep, and the first one again."""

    def __init__(self, plan: ShardPlan, seconds: float) -> None:
        super().__init__(plan)
        self._seconds = seconds
        self._first: RolloutHarvest | None = None

    def collect(self, order: RolloutOrder, proceed: Callable[[], bool]) -> RolloutHarvest:
        if self._first is None:
            self._first = super().collect(order, proceed)
        else:
            time.sleep(self._seconds)
        return replace(self._first, seconds=self._seconds)


class TimedPool(WorkerPool):
    """A pool that notes how long its rollouts take, all transfers included."""

    seconds = 0.0

    def collect(self, order: RolloutOrder) -> list[RolloutHarvest]:
        start = time.perf_counter()
        harvests = super().collect(order)
        self.seconds = time.perf_counter() - start
        return harvests


def measure_scaling(
    env: str, workers: int, copies: int, n_steps: int, sleep: float, iterations: int, backend_name: str = "process"
) -> dict[str, Any]:
    """How an iteration splits with a number of workers, each with as many copies."""
    changes: dict[str, Any] = {"n_envs": workers * copies, "n_steps": n_steps, "batch_size": n_steps * copies, "n_epochs": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build(env, workers, backend_name, **changes)
    assert model.env is not None
    backend: Any = model.env.backend
    pool = backend.pool
    plans = [SleepingPlan(**vars(plan), seconds=sleep) for plan in pool.crew.plans]
    timed = TimedPool(make_crew(backend_name, plans, lambda: True), pool.shares, lambda: False)
    backend._pool = timed
    rows: list[tuple[float, float, float]] = []
    with closing(model.env):
        for n in range(1 + WARM_UP + iterations):
            collect, update = iterate(model)
            if n > WARM_UP:
                rows.append((timed.seconds - sleep, collect - timed.seconds, update))
    transfer, merge, update = (statistics.median(values) for values in zip(*rows, strict=True))
    size = sum(array.nbytes for harvest in timed.collect(RolloutOrder.of(model.team, n_steps)) for array in _arrays(harvest))
    times = {"collect_ms": 1e3 * sleep, "transfer_ms": 1e3 * transfer, "merge_ms": 1e3 * merge, "update_ms": 1e3 * update}
    efficiency = sleep / (sleep + transfer + merge)
    timed.end()
    return {"workers": workers, **times, "mib_per_iteration": size / 2**20, "efficiency": efficiency}


def measure_anchor(python: str, shape: dict[str, Any], workers: Sequence[int]) -> list[dict[str, Any]]:
    """
    Milliseconds of an iteration beyond the sleep, on Ray.

    :param python: Python of an environment with torchrl, tensordict and ray
    :param shape: settings of the scaling
    :param workers: numbers of workers
    """
    ray: Any = importlib.import_module("ray")
    ray.init(address="local", num_cpus=max(workers), include_dashboard=False, log_to_driver=False)
    rows = [measure_scaling(**shape, workers=number, iterations=3, backend_name="ray") for number in workers]
    ray.shutdown()
    words = ["--workers", *map(str, workers), "--rows", str(shape["copies"] * shape["n_steps"])]
    words += ["--sleep", str(shape["sleep"]), "--iterations", "3"]
    command = [python, "benchmarks/torchrl_collector.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    theirs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"workers"')]
    return [
        {
            "workers": ours["workers"],
            "sb3_matrl_ms": ours["transfer_ms"] + ours["merge_ms"],
            "torchrl_ms": other["beyond_sleep_ms"],
        }
        for ours, other in zip(rows, theirs, strict=True)
    ]


def _arrays(harvest: RolloutHarvest) -> list[Any]:
    return [
        array
        for arrays in harvest.buffers.values()
        for value in arrays.values()
        for array in (value.values() if isinstance(value, dict) else [value])
    ]


# ---------------------------------------------------------------- kills


class Killer:
    """
    Kills a random worker at a random moment of every rollout.

    :param crew: workers in processes
    :param seconds: time that a rollout takes
    """

    def __init__(self, crew: ProcessCrew, seconds: float) -> None:
        self._random, self._crew, self._seconds = random.Random(0), crew, seconds

    def start(self) -> threading.Timer:
        """
        Begin to wait.

        :return: timer that kills a worker
        """
        timer = threading.Timer(self._random.uniform(0.0, self._seconds), self._kill)
        timer.start()
        return timer

    def _kill(self) -> None:
        processes = self._crew.processes
        while not (alive := [worker for worker, process in processes.items() if process.is_alive()]):
            time.sleep(0.01)
            processes = self._crew.processes
        os.kill(processes[self._random.choice(alive)].pid, signal.SIGKILL)


def measure_kills(env: str, kills: int) -> dict[str, Any]:
    """A training in which a worker is killed in every iteration but the first two, beside one without kills."""
    small: dict[str, Any] = {"n_envs": 4, "n_steps": 500, "batch_size": 500, "n_epochs": 1, "br_n_epochs": 1}
    calm, killed = (Contestant(build(env, 2, backend, "matrl", **small)) for backend in ("in-turn", "process"))
    for one in (calm, killed):
        for _ in range(2):
            one.iterate()
    assert killed.model.env is not None
    pool: WorkerPool = killed.model.env.backend.pool  # type: ignore[attr-defined]
    assert isinstance(pool.crew, ProcessCrew)
    killer, identical = Killer(pool.crew, killed.times[-1][0]), 0
    for _ in range(kills):
        calm.iterate()
        timer = killer.start()
        killed.iterate()
        timer.join()
        identical += parameter_hash(calm.model) == parameter_hash(killed.model)
    for one in (calm, killed):
        one.iterate()  # one of the kills may have come after the end of a rollout
    hashes = parameter_hash(calm.model), parameter_hash(killed.model)
    killed.model.env.close()
    slowest = max(collect for collect, _ in killed.times[2:])
    usual = statistics.median(collect for collect, _ in killed.times[:2])
    return {
        **{"env": env, "kills": kills, "restarts": pool.restarts, "identical": identical, "final_hashes": hashes},
        **{"rollout_seconds": usual, "slowest_rollout_seconds": slowest},
    }


# ---------------------------------------------------------------- command line


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure rollout workers.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:4])
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="ENV:COPIES", help="trainings of speed")
    off_policy = "trainings of off-policy"
    parser.add_argument("--off-policy-cases", nargs="+", default=OFF_POLICY_CASES, metavar="ALGO:ENV:COPIES", help=off_policy)
    parser.add_argument("--env", default="hopper_3x1", help="environment of scaling and kills")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument(
        "--workers", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64], help="numbers of workers of scaling"
    )
    parser.add_argument("--sleep", type=float, default=1.0, help="seconds of a rollout of scaling")
    parser.add_argument("--torchrl", metavar="PYTHON", help="Python of an environment with torchrl and ray, for the anchor")
    parser.add_argument("--anchor-workers", nargs="+", type=int, default=[1, 2, 4, 8], help="numbers of workers of the anchor")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    th.set_num_threads(1)
    record: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    record.pop("machine", None)
    if "speed" in given.parts:
        record["speed"] = [row for case in given.cases for row in measure_speed(case, given.iterations)]
    shape = {"env": given.env, "copies": 2, "n_steps": 500, "sleep": given.sleep}
    if "off-policy" in given.parts:
        record["off-policy"] = [row for case in given.off_policy_cases for row in measure_speed(case, given.iterations)]
    if "scaling" in given.parts:
        rows = [measure_scaling(workers=workers, iterations=3, **shape) for workers in given.workers]
        record["scaling"] = {**shape, "rows": rows}
    if "anchor" in given.parts:
        if given.torchrl is None:
            parser.error("--parts anchor needs --torchrl, the Python of an environment with torchrl and ray")
        record["anchor"] = measure_anchor(given.torchrl, shape, given.anchor_workers)
    if "kills" in given.parts:
        record["kills"] = measure_kills(given.env, given.kills)
    for part in given.parts:
        print(json.dumps(record[part], indent=1))
    write_record(given.out, record)


if __name__ == "__main__":
    main()
