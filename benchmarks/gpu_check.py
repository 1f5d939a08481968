"""
Check of a GPU: does it compute what the CPU computes, how fast, and with how much memory.

    python -m benchmarks.gpu_check
    python -m benchmarks.gpu_check --device cpu --tiny --out logs/gpu_check.json

1. One update of every learner on the CPU and on the GPU, on the same data and with the same random numbers: no parameter may
   differ by more than 1e-4. Convolutions and matrix products are not rounded to TF32 for that.
2. An epoch of stacked updates with different numbers of agents, rows per minibatch and widths of layers: together on one
   and on all cores, and together and one by one on the GPU. From it follows the work per minibatch from which on the GPU is
   faster than one core.
3. A gradient step of QMIX and MADDPG with batches of 128 to 8,192 transitions, on both.
4. Trainings with 2 to 64 agents, and of Pong from pixels: seconds of collection and update, steps per second, peak memory. The
   native backend has one thread per core, as in zoo/train.py.

No measurement begins after ``--seconds``; the record names those that are missing. The exit code is 0; 1 if a learner differs
or a measurement failed; 2 if there is no such device.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch as th

from benchmarks.gpu_equality import TOLERANCE, cases, compare
from benchmarks.gpu_speed import (
    FULL,
    TINY,
    Point,
    Scale,
    backends,
    crossover,
    many_agents_model,
    pong_model,
    replay_seconds,
    training_speed,
)
from benchmarks.peak_memory import peak_mib
from benchmarks.shared import write_record
from sb3_matrl.stacked.native_kernel import set_kernel_threads

RESULT = Path("benchmarks/results/gpu_check.json")
# Most agents that are also trained one by one, by SB3's code.
ONE_BY_ONE = 16


class Check:
    """
    Measurements until the time is over.

    :param device: device that is compared with the CPU
    :param scale: size of the measurements
    :param seconds: time for all of them
    """

    def __init__(self, device: str, scale: Scale, seconds: float) -> None:
        self.device, self.scale = device, scale
        self._end = time.monotonic() + seconds
        self.skipped: list[str] = []
        self.errors: dict[str, str] = {}

    def measure(self, name: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """
        Measure, if there is time left, and print the result.

        :param name: name of the measurement
        :param function: function that returns numbers
        :return: the numbers; ``None`` if they are missing
        """
        if time.monotonic() > self._end:
            self.skipped.append(name)
            return None
        try:
            found = function()
        except Exception as error:  # the other measurements are still of use
            self.errors[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {self.errors[name]}", flush=True)
            return None
        print(f"{name}: {', '.join(f'{key} {_short(value)}' for key, value in found.items())}", flush=True)
        return found

    def equality(self) -> list[dict[str, Any]]:
        """Differences after an update, learner by learner."""
        th.backends.cudnn.allow_tf32 = th.backends.cuda.matmul.allow_tf32 = False
        rows = []
        for case in cases():
            found = self.measure(f"equality, {case.name}", lambda case=case: compare(case, self.device))  # type: ignore[misc]
            if found is not None:
                rows.append({"learner": case.name, **found})
        return rows

    def crossover(self) -> list[dict[str, Any]]:
        """Seconds of an epoch on the CPU and on the device."""
        rows = []
        for width, n_agents, minibatch in product(self.scale.widths, self.scale.grid_agents, self.scale.minibatches):
            point = Point(n_agents, minibatch, width)
            name = f"epoch, {n_agents} agents, minibatch {minibatch}, layers of {width}"
            found = self.measure(name, lambda point=point: self._seconds(point))  # type: ignore[misc]
            if found is not None:
                rows.append({**asdict(point), "work": point.work, **found})
        return rows

    def _seconds(self, point: Point) -> dict[str, float]:
        return {
            "cpu": point.seconds(self.scale, "cpu", backends("cpu")[-1]),
            "cpu_all_cores": point.seconds(self.scale, "cpu", backends("cpu")[-1], threads=-1),
            "device": point.seconds(self.scale, self.device, "torch"),
            "device_one_by_one": point.seconds(self.scale, self.device, "torch", together=False),
        }

    def trainings(self) -> list[dict[str, Any]]:
        """Speed and memory of trainings on both devices."""
        rows = []
        set_kernel_threads(-1)
        for device in dict.fromkeys((self.device, "cpu")):
            models: dict[tuple[Any, ...], Callable[[], Any]] = {}
            for n in self.scale.agents:
                for backend in ("sb3", backends(device)[-1])[n > ONE_BY_ONE :]:
                    models[f"{n} agents", n, backend] = lambda n=n, backend=backend, device=device: many_agents_model(  # type: ignore[misc]
                        n, backend, device
                    )
            models["pong_v3, pixels", 2, "sb3"] = lambda device=device: pong_model(self.scale, device)  # type: ignore[misc]
            for (world, n_agents, backend), build in models.items():
                found = self.measure(
                    f"{world}, {backend} on {device}",
                    lambda build=build, device=device: training_speed(build, self.scale.iterations, device),  # type: ignore[misc]
                )
                if found is not None:
                    rows.append({"world": world, "agents": n_agents, "backend": backend, "device": device, **found})
        return rows

    def replay(self) -> list[dict[str, Any]]:
        """Seconds of a gradient step of off-policy algorithms on both devices."""
        rows = []
        for algorithm, size in product(("qmix", "maddpg"), self.scale.replay_batches):
            found = self.measure(
                f"{algorithm}, batches of {size}",
                lambda algorithm=algorithm, size=size: {  # type: ignore[misc]
                    "cpu": replay_seconds(algorithm, size, "cpu"),
                    "device": replay_seconds(algorithm, size, self.device),
                },
            )
            if found is not None:
                rows.append({"algorithm": algorithm, "batch_size": size, **found})
        return rows


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def missing_device(device: str) -> str | None:
    """
    What to do if a device is not there.

    :param device: name of the device
    :return: the message; ``None`` if the device can be used
    """
    chosen = th.device(device)
    if chosen.type != "cuda" or (th.cuda.is_available() and (chosen.index or 0) < th.cuda.device_count()):
        return None
    if th.version.cuda is None:
        seen = f"torch {th.__version__} is a build without CUDA"
    else:
        seen = f"torch {th.__version__} sees {th.cuda.device_count()} GPUs"
    return f"there is no {device}: {seen}. Run this on a machine with a GPU, or with --device cpu --tiny to try the script"


def main() -> int:
    """:return: exit code"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a few rows only, to try the script")
    parser.add_argument("--seconds", type=float, default=420.0, help="time after which no measurement begins")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    message = missing_device(args.device)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
        return 2
    th.set_num_threads(1)  # as zoo/train.py
    check = Check(args.device, TINY if args.tiny else FULL, args.seconds)
    equality, points, replay, trainings = check.equality(), check.crossover(), check.replay(), check.trainings()
    record = {
        "device": args.device,
        "tolerance": TOLERANCE,
        "equality": equality,
        "crossover": points,
        "crossover_work": crossover(points),
        "replay": replay,
        "trainings": trainings,
        "host_peak_mib": peak_mib(),
        "skipped": check.skipped,
        "errors": check.errors,
    }
    write_record(args.out, record)
    different = [row["learner"] for row in equality if not row["equal"]]
    if different:
        print(f"error: {', '.join(different)} differ on {args.device} and the CPU", file=sys.stderr)
    return 1 if different or check.errors else 0


if __name__ == "__main__":
    sys.exit(main())
