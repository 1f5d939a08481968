"""
TorchRL's synchronous Ray collector with an environment that sleeps: the anchor of ``benchmarks.rollout_workers``.

    python benchmarks/torchrl_collector.py --workers 1 2 4 8

Needs torchrl and ray, best in an environment of their own; prints one JSON line per number of workers: seconds per iteration,
the update of the policy's weights on all workers included, beyond the time that the environments sleep. A rollout is one step
of many copies, so that it takes no other time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import pairwise
from typing import Any

import torch as th
from tensordict import TensorDict  # type: ignore[import-not-found]
from tensordict.nn import TensorDictModule  # type: ignore[import-not-found]
from torchrl.collectors import Collector  # type: ignore[import-not-found]
from torchrl.collectors.distributed import RayCollector  # type: ignore[import-not-found]
from torchrl.data import Bounded, Composite, Unbounded  # type: ignore[import-not-found]
from torchrl.envs import EnvBase  # type: ignore[import-not-found]

SIZE = 33  # observations of the three agents of hopper_3x1


class Sleeping(EnvBase):  # type: ignore[misc]
    """Some copies of an environment whose steps take time and do nothing."""

    def __init__(self, copies: int, seconds: float) -> None:
        super().__init__(batch_size=th.Size([copies]))
        self._seconds = seconds
        self.observation_spec = Composite(observation=Unbounded((copies, SIZE)), shape=(copies,))
        self.action_spec = Bounded(-1.0, 1.0, (copies, 3))
        self.reward_spec = Unbounded((copies, 1))

    def _reset(self, tensordict: Any = None) -> TensorDict:
        return TensorDict({"observation": th.zeros(*self.batch_size, SIZE)}, batch_size=self.batch_size)

    def _step(self, tensordict: TensorDict) -> TensorDict:
        time.sleep(self._seconds)
        ended = th.zeros(*self.batch_size, 1, dtype=th.bool)
        values = {"observation": th.zeros(*self.batch_size, SIZE), "reward": th.zeros(*self.batch_size, 1)}
        return TensorDict({**values, "done": ended, "terminated": ended.clone()}, batch_size=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        th.manual_seed(seed or 0)


def measure(workers: int, rows: int, sleep: float, iterations: int) -> dict[str, Any]:
    """Median seconds per iteration beyond the sleep."""
    policy = TensorDictModule(
        th.nn.Sequential(th.nn.Linear(SIZE, 64), th.nn.Tanh(), th.nn.Linear(64, 64), th.nn.Tanh(), th.nn.Linear(64, 3)),
        in_keys=["observation"],
        out_keys=["action"],
    )
    collector = RayCollector(
        [lambda: Sleeping(rows, sleep)] * workers,
        policy,
        collector_class=Collector,
        frames_per_batch=workers * rows,
        total_frames=(2 + iterations) * workers * rows,
        sync=True,
        update_after_each_batch=True,
        ray_init_config={"num_cpus": workers, "include_dashboard": False, "log_to_driver": False},
        remote_configs={"num_cpus": 1},
    )
    collector.update_policy_weights_(policy)
    ends = [time.perf_counter()]
    for batch in collector:
        assert batch.numel() == workers * rows
        ends.append(time.perf_counter())
    collector.shutdown()
    seconds = [after - before for before, after in pairwise(ends[2:])]
    return {"workers": workers, "beyond_sleep_ms": 1e3 * (statistics.median(seconds) - sleep)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure TorchRL's Ray collector.")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--rows", type=int, default=1000, help="rows that a worker collects, in one step of as many copies")
    parser.add_argument("--sleep", type=float, default=1.0)
    parser.add_argument("--iterations", type=int, default=3)
    given = parser.parse_args()
    th.set_num_threads(1)
    for workers in given.workers:
        print(json.dumps(measure(workers, given.rows, given.sleep, given.iterations)), flush=True)


if __name__ == "__main__":
    main()
