"""
Speed of recurrent learners with whole sequences beside sb3-contrib's own update: `python -m benchmarks.recurrent_speed`.

Every agent is a RecurrentPPO with LSTMs of 64 units. Models with `backend="auto"` and `"sb3"` train by turns, in one process
with one thread. With `"sb3"` the predicted step is `RecurrentPPO.train()`; the best response is the same code with both.
Steps per second are medians over the rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from sb3_contrib import RecurrentPPO
from tqdm import tqdm

from benchmarks.shared import write_record
from sb3_matrl import MATRL
from sb3_matrl.envs import make

RESULT = Path("benchmarks/results/recurrent_speed.json")
ENVS = ("checkers_v0", "switch_v0")
ALGORITHMS: dict[str, dict[str, bool]] = {"ippo": {"metagame": False, "best_response": False}, "matrl": {}}
BACKENDS = ("auto", "sb3")
SETTINGS = {"n_envs": 8, "n_steps": 128, "batch_size": 256, "n_epochs": 10}
LSTM = {"net_arch": [64], "lstm_hidden_size": 64}
ROUNDS = 5


def build(env: str, algorithm: str, backend: str, **settings: Any) -> MATRL:
    """
    A model of recurrent learners.

    :param env: id of the environment
    :param algorithm: key of :data:`ALGORITHMS`
    :param backend: argument of MATRL
    :param settings: further arguments
    """
    given: dict[str, Any] = {
        "learner_class": RecurrentPPO,
        "policy_kwargs": LSTM,
        "backend": backend,
        "seed": 0,
        "device": "cpu",
    }
    return MATRL("MlpLstmPolicy", lambda: make(env), **{**given, **SETTINGS, **ALGORITHMS[algorithm], **settings})


def iteration_seconds(model: MATRL) -> float:
    """Seconds of one more iteration of a training."""
    start = time.perf_counter()
    model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False, log_interval=None)
    return time.perf_counter() - start


def measure(env: str, algorithm: str, rounds: int, **settings: Any) -> dict[str, Any]:
    """
    One row of the table: steps per second of both backends, and their ratio.

    :param env: id of the environment
    :param algorithm: key of :data:`ALGORITHMS`
    :param rounds: iterations of each backend, by turns; one more before them is not counted
    :param settings: further arguments of the models
    """
    models = {backend: build(env, algorithm, backend, **settings) for backend in BACKENDS}
    seconds: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for _ in range(rounds + 1):
        for backend, model in models.items():
            seconds[backend].append(iteration_seconds(model))
    steps = models["sb3"].n_steps * models["sb3"].n_envs
    speeds = {backend: steps / float(np.median(values[1:])) for backend, values in seconds.items()}
    return {
        "env": env,
        "algorithm": algorithm,
        "agents": len(models["sb3"].agents),
        **speeds,
        "ratio": speeds["auto"] / speeds["sb3"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measured iterations of each backend; default: {ROUNDS}")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT}")
    args = parser.parse_args()
    th.set_num_threads(1)
    cases = [(env, algorithm) for env in ENVS for algorithm in ALGORITHMS]
    rows = [measure(env, algorithm, args.rounds) for env, algorithm in tqdm(cases, unit="case")]
    for row in rows:
        print(f"{row['env']:12} {row['algorithm']:6} {row['auto']:8.0f} {row['sb3']:8.0f} steps/s, {row['ratio']:.1f} times")
    write_record(args.out, {"settings": {**SETTINGS, **LSTM}, "rounds": args.rounds, "table": rows})


if __name__ == "__main__":
    main()
