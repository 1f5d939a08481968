"""
Memory of trainings and replay buffers, each in a process of its own.

    python -m benchmarks.memory_table
    python -m benchmarks.memory_table --earlier ../earlier
    python -m benchmarks.memory_table --cases pong_pixels --earlier ../earlier

- ``pong_pixels``: an iteration of MATRL in Pong from pixels, 16 copies, with one epoch of each update.
- ``64_agents``: iterations of MATRL with 64 agents that observe 47 ones and zeros, as those of Checkers, in 20 copies.
- ``replay_checkers``: a replay buffer of a million joint transitions of Checkers with states, full.
- ``replay_pong``: the first transitions of a replay buffer of a million joint transitions of Pong from pixels; the size of the
  million follows from their share.

"Stored" is what the buffers hold, "float32" what they would as one float32 array for every observation, next observation (in
replay buffers), action and number. "Peak" is the largest resident set of the process, "imports" that before buffers are made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

RESULT = Path("benchmarks/results/memory.json")
MIB = 2.0**20
MILLION = 1_000_000
SEEN_OF_PONG = 8_000


def resident_mib(name: str) -> float:
    """
    Resident set of this process in MiB.

    :param name: ``VmRSS`` for the present one, ``VmHWM`` for the largest so far
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def pong_pixels() -> dict[str, float]:
    """An iteration of MATRL in Pong from pixels."""
    from benchmarks.shared import zoo_settings

    changes = {"n_envs": 16, "n_epochs": 1, "br_n_epochs": 1}
    arguments = zoo_settings("matrl", "pong_v3", "pixels", **changes).model_arguments()
    return _training(arguments, 1, env="pong_v3")


def many_agents() -> dict[str, float]:
    """Iterations of MATRL with 64 agents."""
    from benchmarks.many_agents import ManyAgentsCore
    from sb3_matrl.envs.core import CoreParallelEnv

    codes = (np.random.default_rng(0).random((64, 47)) < 0.2).astype(np.float32)

    class Crowd(ManyAgentsCore):
        """Agents that observe as many ones and zeros as those of Checkers."""

        def __init__(self, num_envs: int, n_agents: int, max_cycles: int) -> None:
            super().__init__(num_envs, n_agents, max_cycles)
            self.observation_spaces = {agent: spaces.Box(0.0, 1.0, (47,), np.float32) for agent in self.possible_agents}

        def observations(self) -> dict[str, np.ndarray]:
            return dict(zip(self.possible_agents, codes[self._codes.T], strict=True))

    arguments = {"policy": "MlpPolicy", "n_envs": 20, "n_steps": 100, "batch_size": 500, "n_epochs": 2, "br_n_epochs": 1}
    return _training(arguments, 2, env=lambda: CoreParallelEnv(Crowd(1, 64, 25)), backend="torch")


def _training(arguments: dict[str, Any], iterations: int, **more: Any) -> dict[str, float]:
    from sb3_matrl import MATRL

    before = resident_mib("VmRSS")
    model = MATRL(seed=0, device="cpu", **arguments, **more)
    steps = arguments["n_envs"] * arguments["n_steps"]
    model.learn(iterations * steps, log_interval=None)
    buffers = [learner.rollout_buffer for learner in model.learners.values()]
    arrays = [value for buffer in buffers for name, value in vars(buffer).items() if name != "planes"]
    stored = sum(map(_bytes, arrays)) + _planes(buffers)
    naive = sum(
        4 * buffer.buffer_size * buffer.n_envs * (spaces.utils.flatdim(buffer.observation_space) + buffer.action_dim + 6)
        for buffer in buffers
    )
    return {"imports": before, "stored": stored / MIB, "float32": naive / MIB, "peak": resident_mib("VmHWM")}


def _bytes(value: Any) -> int:
    return sum(map(_bytes, value.values())) if isinstance(value, dict) else int(getattr(value, "nbytes", 0))


def _planes(buffers: list[Any]) -> int:
    """Bytes of the planes of images, which buffers have in common."""
    stores = {id(store): store for buffer in buffers for store in (getattr(buffer, "planes", None) or {}).values()}
    return sum(store.nbytes for store in stores.values())


def replay_checkers() -> dict[str, float]:
    """A full replay buffer of Checkers."""
    return _replay("checkers_v0", {}, 20, MILLION, MILLION)


def replay_pong() -> dict[str, float]:
    """The first transitions of Pong from pixels in a replay buffer."""
    return _replay("pong_v3", {"observation": "pixels"}, 16, SEEN_OF_PONG, MILLION)


def _replay(env_id: str, env_kwargs: dict[str, Any], n_envs: int, filled: int, size: int) -> dict[str, float]:
    """A buffer that is filled by random play, and the size of one with ``size`` transitions."""
    from sb3_matrl.off_policy.replay import JointReplayBuffer
    from sb3_matrl.off_policy.transitions import Moment, TransitionReader
    from sb3_matrl.vec_env import make_joint_vec_env

    before = resident_mib("VmRSS")
    env = make_joint_vec_env(env_id, n_envs=n_envs, env_kwargs=env_kwargs, seed=0, states=True)
    spaces_of, actions_of, rng = env.observation_spaces, env.action_spaces, np.random.default_rng(0)
    assert env.state_space is not None
    n_states = int(np.prod(env.state_space.shape))
    buffer = JointReplayBuffer(filled, spaces_of, actions_of, "cpu", n_envs, n_states)
    reader = TransitionReader(list(env.agents), spaces_of, actions_of)
    moment = Moment(observations=env.reset(), masks=env.action_masks, alive=env.alive, states=env.states)
    for _ in range(filled // n_envs):
        actions = {agent: rng.integers(spaces.utils.flatdim(space), size=n_envs) for agent, space in actions_of.items()}
        env.step(actions)  # type: ignore[arg-type]  # keyed by agent
        assert env.last_step is not None
        transition = reader.transition(moment, actions, env.last_step, slice(None))
        buffer.add(transition)
        moment = transition.after
    env.close()
    share = size / filled
    numbers = sum(2 * spaces.utils.flatdim(space) + 3 for space in spaces_of.values()) + 2 * n_states
    sizes = {"stored": buffer.nbytes * share, "float32": 4.0 * numbers * size}
    found = {"imports": before, **{name: value / MIB for name, value in sizes.items()}, "peak": resident_mib("VmHWM")}
    return {**found, "transitions": filled}


CASES: dict[str, Callable[[], dict[str, float]]] = {
    "pong_pixels": pong_pixels,
    "64_agents": many_agents,
    "replay_checkers": replay_checkers,
    "replay_pong": replay_pong,
}


TITLES = {
    "pong_pixels": "Pong from pixels, 16 copies, 2 agents",
    "64_agents": "64 agents, 47 ones and zeros each, 20 copies",
    "replay_checkers": "replay of 1,000,000 transitions of Checkers",
    "replay_pong": "replay of 1,000,000 transitions of Pong from pixels",
}


def table(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: rows of the record
    :return: table in Markdown
    """
    from sb3_matrl.zoo.common.text_tables import markdown  # not in the processes that are measured

    lines = []
    for row in rows:
        share = row.get("transitions", MILLION) / MILLION
        peak = f"{row['peak']:,.0f}" + (f" with {share:.1%} of it" if share < 1 else "")
        lines.append([TITLES[row["case"]], row["version"], f"{row['stored']:,.0f}", f"{row['float32']:,.0f}", peak])
    return markdown(["", "version", "buffers (MiB)", "as float32 (MiB)", "peak of the process (MiB)"], lines)


def measure(case: str, root: Path) -> dict[str, float]:
    """
    Measure in a process of its own.

    :param case: one of :data:`CASES`
    :param root: folder of the version that is measured
    """
    command = [sys.executable, str(Path(__file__).resolve()), "--case", case]
    environment = {**os.environ, "PYTHONPATH": str(root.resolve())}
    done = subprocess.run(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="print the numbers of one case, measured in this process")
    parser.add_argument(
        "--cases", choices=CASES, nargs="+", default=list(CASES), help="the others keep their rows in the record"
    )
    parser.add_argument("--earlier", type=Path, help="folder of an earlier version to compare with")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    th.set_num_threads(1)
    if args.case is not None:
        warnings.simplefilter("ignore")
        print(json.dumps(CASES[args.case]()))
        return
    from benchmarks.shared import write_record

    versions = {"this version": Path()} | ({} if args.earlier is None else {"earlier": args.earlier})
    kept = json.loads(args.out.read_text(encoding="utf-8"))["table"] if args.out.exists() else []
    rows = {(row["case"], row["version"]): row for row in kept if row["case"] not in args.cases}
    for case in args.cases:
        for name, root in versions.items():
            rows[case, name] = {"case": case, "version": name, **measure(case, root)}
            print(rows[case, name], flush=True)
    write_record(args.out, {"table": sorted(rows.values(), key=lambda row: list(CASES).index(row["case"]))})


if __name__ == "__main__":
    main()
