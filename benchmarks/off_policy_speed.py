"""
Speed of VDN and QMIX beside BenchMARL's, in one run: `python -m benchmarks.off_policy_speed`.

Checkers in 20 copies, utilities of 128 and 128 units, batches of 128, a gradient step per 10 joint steps, the state for QMIX's
mixer. Both run by turns in processes of their own with one thread; BenchMARL (`make benchmarl` installs it) plays 400 joint
steps and then takes 40 gradient steps; ours takes 2 gradient steps after every step of all copies. Rates are medians over the
measured parts of all rounds, by the clock and by the processor time of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks.shared import write_record
from sb3_matrl.common.registry import algorithm_spec

ROOT = Path(__file__).parents[1]
BENCHMARL_PYTHON = ROOT / ".venv-benchmarl/bin/python"
RESULT = Path("benchmarks/results/off_policy_speed.json")
ALGORITHMS = ("vdn", "qmix")
ENV, N_ENVS, BATCH_SIZE, NET_ARCH, STEPS_PER_GRADIENT_STEP = "checkers_v0", 20, 128, [128, 128], 10
# Joint steps of a measured part, and of the warm-up before the first one.
PART, WARM_UP, PARTS = 400, 2000, 5


def measure_ours(algorithm: str) -> dict[str, Any]:
    """
    Train with our algorithm in this process.

    :param algorithm: name of the algorithm
    :return: seconds of the measured parts on the clock and of the process, joint steps and gradient steps of one part
    """
    model = algorithm_spec(algorithm).load_class()(
        "MlpPolicy",
        ENV,
        n_envs=N_ENVS,
        seed=0,
        device="cpu",
        buffer_size=200_000,
        learning_starts=1000,
        batch_size=BATCH_SIZE,
        train_freq=1,
        gradient_steps=N_ENVS // STEPS_PER_GRADIENT_STEP,
        target_update_interval=2000,
        policy_kwargs={"net_arch": NET_ARCH},
    )
    model.learn(WARM_UP, log_interval=None)
    updates, seconds, cpu_seconds = model._n_updates, [], []
    for _ in range(PARTS):
        start, cpu_start = time.perf_counter(), time.process_time()
        model.learn(PART, log_interval=None, reset_num_timesteps=False)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    steps = (model._n_updates - updates) // PARTS
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "env_steps": PART, "gradient_steps": steps}


def measure_benchmarl(algorithm: str) -> dict[str, Any]:
    """
    Train with BenchMARL's algorithm in a process of its own.

    :param algorithm: name of the algorithm
    :return: as :func:`measure_ours`, and versions
    :raises RuntimeError: if it fails
    """
    settings = {"off_policy_memory_size": 200_000, "off_policy_init_random_frames": 1000}
    task = {
        "env": ENV,
        "n_envs": N_ENVS,
        "n_steps": PART // N_ENVS,
        "n_epochs": PART // STEPS_PER_GRADIENT_STEP,
        "batch_size": BATCH_SIZE,
        "net_arch": NET_ARCH,
        "activation": "ReLU",
        "algorithm": algorithm,
        "iterations": PARTS,
        "warm_up": WARM_UP // PART,
        "settings": settings,
    }
    result = _in_process(BENCHMARL_PYTHON, "benchmarks.benchmarl_peer", json.dumps(task))
    # All agents learn in one gradient step.
    return {**result, "gradient_steps": result["gradient_steps"] // 2}


def _in_process(python: Path | str, *arguments: str) -> dict[str, Any]:
    """Run a module with one thread; its last line is JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(rounds: int) -> dict[str, Any]:
    """
    Measure all algorithms by turns.

    :param rounds: number of turns
    :return: algorithm -> contestant -> rates, and the ratios of the contestants
    :raises RuntimeError: if the contestants do not do the same work
    """
    measure: dict[str, Callable[[str], dict[str, Any]]] = {
        "sb3-matrl": lambda name: _in_process(sys.executable, "benchmarks.off_policy_speed", "--ours", name),
        "BenchMARL": measure_benchmarl,
    }
    results: dict[str, dict[str, list[dict[str, Any]]]] = {name: {who: [] for who in measure} for name in ALGORITHMS}
    for _ in range(rounds):
        for name in ALGORITHMS:
            for who, run in measure.items():
                results[name][who].append(run(name))
                work = results[name][who][-1]
                if (work["env_steps"], work["gradient_steps"]) != (PART, PART // STEPS_PER_GRADIENT_STEP):
                    raise RuntimeError(f"{who} did other work than expected: {work}")
    return {name: _rates(of_algorithm) for name, of_algorithm in results.items()}


def _rates(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of both contestants, and what ours are in terms of the other's."""
    record: dict[str, Any] = {}
    for who, runs in results.items():
        wall, cpu = (float(np.median([one for run in runs for one in run[kind]])) for kind in ("seconds", "cpu_seconds"))
        record[who] = {
            "env_steps_per_second": PART / wall,
            "gradient_steps_per_second": PART / STEPS_PER_GRADIENT_STEP / wall,
            "env_steps_per_cpu_second": PART / cpu,
            "seconds": [run["seconds"] for run in runs],
            "cpu_seconds": [run["cpu_seconds"] for run in runs],
            "versions": runs[0].get("versions"),
        }
    for kind in ("env_steps_per_second", "env_steps_per_cpu_second"):
        record[f"ratio_of_{kind}"] = record["sb3-matrl"][kind] / record["BenchMARL"][kind]
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of all contestants")
    parser.add_argument("--ours", choices=ALGORITHMS, help="measure our algorithm in this process and print JSON")
    options = parser.parse_args(arguments)
    th.set_num_threads(1)
    if options.ours:
        print(json.dumps(measure_ours(options.ours)))
        return
    record = compare(options.rounds)
    print(f"{'':6}{'sb3-matrl':>12}{'BenchMARL':>12}{'ratio':>8}   joint steps per second; per second of processor time")
    for name, rates in record.items():
        for kind in ("env_steps_per_second", "env_steps_per_cpu_second"):
            ours, theirs = (rates[who][kind] for who in ("sb3-matrl", "BenchMARL"))
            print(f"{name:6}{ours:12,.0f}{theirs:12,.0f}{ours / theirs:8.2f}   {'cpu' if 'cpu' in kind else 'clock'}")
    settings = {"env": ENV, "n_envs": N_ENVS, "batch_size": BATCH_SIZE, "net_arch": NET_ARCH, "rounds": options.rounds}
    write_record(RESULT, {"settings": {**settings, "steps_per_gradient_step": STEPS_PER_GRADIENT_STEP}, "results": record})


if __name__ == "__main__":
    main()
