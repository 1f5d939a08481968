"""
Steps per second of training, and of each phase.

    python -m benchmarks.speed
    python -m benchmarks.speed --envs hopper_3x1 pong_v3 --algorithms matrl --out benchmarks/results/speed_worlds.json
    python -m benchmarks.speed --peers

Collection, stepping (the environments' part of it), predicted step, meta-game (payoffs and solver) and best response, in
milliseconds per iteration of about 2,000 joint steps; the first iterations are left out. "Alone" is what as many steps of one
plain PettingZoo environment take: stepping beyond that is the price of copies, checks and automatic resets, and less where the
rules are batched. Settings are those of the zoo's files, in Checkers and Switch those of grid_settings.yml.

With ``--peers``, ours is compared with other software instead: see :mod:`benchmarks.speed_peers`.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from pettingzoo import ParallelEnv
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from benchmarks.shared import GRID_WORLDS, build_model, write_record, zoo_settings
from benchmarks.speed_columns import COLUMNS
from benchmarks.speed_peers import ITERATIONS as PEER_ROUNDS
from benchmarks.speed_peers import PARTS, compare
from benchmarks.speed_peers import RESULT as PEER_RESULT
from sb3_matrl import MATRL
from sb3_matrl.common.registry import algorithm_names, algorithm_spec
from sb3_matrl.envs import make

PHASES = ("collect", "stepping", "predict", "metagame", "best_response")
PRINTED = ("collect", "stepping", "alone", *PHASES[2:])
WARM_UP, ITERATIONS = 2, 15
RESULT = Path("benchmarks/results/speed.json")


class PhaseCallback(BaseCallback):
    """Wall-clock time of every iteration's phases."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[dict[str, float]] = []
        self.starts: list[float] = []
        self.stepping = 0.0

    def _on_training_start(self) -> None:
        step = self.training_env.step

        def timed_step(actions: Any) -> Any:
            start = time.perf_counter()
            result = step(actions)
            self.stepping += time.perf_counter() - start
            return result

        self.training_env.step = timed_step  # type: ignore[method-assign]

    def _on_rollout_start(self) -> None:
        self._read_report()
        self.stepping = 0.0
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
            self.phases.append({"collect": self.collect, "stepping": self.stepping, **model.report.seconds})

    def _on_step(self) -> bool:
        return True


def step_alone(env: ParallelEnv[Any, Any, Any], steps: int) -> float:
    """Seconds of that many steps of one environment, resets included, with actions drawn beforehand."""
    rng = np.random.default_rng(0)
    spaces = {agent: env.action_space(agent) for agent in env.possible_agents}
    for space in spaces.values():
        space.seed(int(rng.integers(2**31)))
    actions = [{agent: space.sample() for agent, space in spaces.items()} for _ in range(steps)]
    env.reset(seed=0)
    start = time.perf_counter()
    for joint_action in actions:
        env.step({agent: joint_action[agent] for agent in env.agents})
        if not env.agents:
            env.reset()
    return time.perf_counter() - start


def measure(env: str, algorithm: str, iterations: int, conf_file: str | None) -> dict[str, Any]:
    """Median milliseconds per iteration, phase by phase, and steps per second overall."""
    callback = PhaseCallback()
    model = build_model(zoo_settings(algorithm, env, conf_file), env, seed=0)
    batch = model.n_steps * model.n_envs
    model.learn((WARM_UP + iterations) * batch, callback=callback, log_interval=None)
    wall = np.diff(callback.starts)[WARM_UP:]
    row: dict[str, Any] = {"env": env, "algorithm": algorithm, "agents": len(model.agents), "steps": batch}
    row |= {phase: 1e3 * float(np.median([p[phase] for p in callback.phases[WARM_UP:]])) for phase in PHASES}
    with closing(make(env, **(model.arguments["env_kwargs"] or {}))) as plain:
        row["alone"] = 1e3 * step_alone(plain, batch)
    return row | {"iteration": 1e3 * float(np.median(wall)), "steps_per_second": batch / float(np.median(wall))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(GRID_WORLDS), help="ids")
    algorithms = [name for name in algorithm_names() if algorithm_spec(name).class_name == "MATRL"]
    parser.add_argument("--algorithms", nargs="+", default=algorithms, choices=algorithms)
    parser.add_argument("--conf-file", help="hyper-parameters, as in zoo/train.py")
    parser.add_argument(
        "--iterations", type=int, help=f"measured iterations; default: {ITERATIONS}, {PEER_ROUNDS} with --peers"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/speed.json or speed_peers.json")
    parser.add_argument("--peers", action="store_true", help="compare with other software")
    parser.add_argument(
        "--columns", nargs="+", choices=COLUMNS, default=[], help="with --peers: what to measure; default: all"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="with --peers: what to measure again; default: everything"
    )
    parser.add_argument("--earlier", type=Path, help="with --peers: checkout of an earlier version that trains in turns, too")
    parser.add_argument("--quick", action="store_true", help="with --peers: tiny rollouts, to test the script in seconds")
    args = parser.parse_args()
    if (args.columns or args.quick) and not args.peers:
        parser.error("--columns and --quick need --peers")
    if args.peers:
        compare(args.columns, args.iterations or PEER_ROUNDS, args.out or PEER_RESULT, args.quick, args.parts, args.earlier)
        return
    iterations = args.iterations or ITERATIONS
    th.set_num_threads(1)
    cases = [(env, algorithm) for env in args.envs for algorithm in args.algorithms]
    rows = [measure(env, algorithm, iterations, args.conf_file) for env, algorithm in tqdm(cases, unit="case")]
    print(f"{'env':16} {'algorithm':12} " + " ".join(f"{phase + ' ms':>16}" for phase in PRINTED) + f"{'steps/s':>10}")
    for row in rows:
        times = " ".join(f"{row[phase]:16.1f}" for phase in PRINTED)
        print(f"{row['env']:16} {row['algorithm']:12} {times}{row['steps_per_second']:10.0f}")
    write_record(args.out or RESULT, {"iterations": iterations, "table": rows})


if __name__ == "__main__":
    main()
