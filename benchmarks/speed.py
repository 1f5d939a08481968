"""
Steps per second of training, and of each phase.

    python -m benchmarks.speed

Collection, predicted step, meta-game (payoffs and solver) and best response, in milliseconds per iteration of 2,000
joint steps, for the grid worlds with the paper's network; the first iterations are left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from benchmarks.experiment import write_record
from benchmarks.grid_worlds import HYPERPARAMETERS, NETWORK
from sb3_matrl import MATRL
from sb3_matrl.envs import factory
from zoo.config import ALGORITHMS

PHASES = ("collect", "predict", "metagame", "best_response")
WARM_UP = 2


class PhaseCallback(BaseCallback):
    """Wall-clock time of every iteration's phases."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[dict[str, float]] = []
        self.starts: list[float] = []

    def _on_rollout_start(self) -> None:
        self._read_report()
        self.starts.append(time.perf_counter())

    def _on_rollout_end(self) -> None:
        self.collect = time.perf_counter() - self.starts[-1]

    def _on_training_end(self) -> None:
        self._read_report()
        self.starts.append(time.perf_counter())

    def _read_report(self) -> None:
        model = self.model
        assert isinstance(model, MATRL)
        if model.report is not None:
            self.phases.append({"collect": self.collect, **model.report.seconds})

    def _on_step(self) -> bool:
        return True


def measure(env: str, algorithm: str, iterations: int) -> dict[str, Any]:
    """Median milliseconds per iteration, phase by phase, and steps per second overall."""
    callback = PhaseCallback()
    batch = HYPERPARAMETERS["batch_size"]
    settings = {**HYPERPARAMETERS, **ALGORITHMS[algorithm]}
    model = MATRL("MlpPolicy", factory(env), policy_kwargs=NETWORK, seed=0, device="cpu", **settings)
    model.learn((WARM_UP + iterations) * batch, callback=callback, log_interval=None)
    wall = np.diff(callback.starts)[WARM_UP:]
    row: dict[str, Any] = {"env": env, "algorithm": algorithm, "agents": len(model.agents)}
    row |= {phase: 1e3 * float(np.median([p[phase] for p in callback.phases[WARM_UP:]])) for phase in PHASES}
    return row | {"iteration": 1e3 * float(np.median(wall)), "steps_per_second": batch / float(np.median(wall))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.json"))
    args = parser.parse_args()
    th.set_num_threads(1)
    cases = [(env, algorithm) for env in ("checkers_v0", "switch_v0") for algorithm in ALGORITHMS]
    rows = [measure(env, algorithm, args.iterations) for env, algorithm in tqdm(cases, unit="case")]
    print(f"{'env':12} {'algorithm':12} " + " ".join(f"{phase + ' ms':>16}" for phase in PHASES) + f"{'steps/s':>10}")
    for row in rows:
        times = " ".join(f"{row[phase]:16.1f}" for phase in PHASES)
        print(f"{row['env']:12} {row['algorithm']:12} {times}{row['steps_per_second']:10.0f}")
    write_record(args.out, {"iterations": args.iterations, "table": rows})


if __name__ == "__main__":
    main()
