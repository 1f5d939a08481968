"""
Central critics: learning curves of MAPPO beside IPPO and BenchMARL's MAPPO: `python -m benchmarks.central_critic`.

Checkers and Switch with the settings of grid_settings.yml (20 copies, rollouts of 2,000 steps, 10 epochs on the full
batch), the same networks, learning rate, clip range, coefficients, discount and GAE for all. BenchMARL (`make benchmarl`
installs it; without it, it is left out) trains in a process of its own. A point of a curve is the mean team return of the
episodes that ended in a rollout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.shared import build_model, run_parallel, write_record, zoo_settings
from benchmarks.speed_columns import architecture
from benchmarks.speed_peers import BENCHMARL_PYTHON, run_python
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters

RESULT = Path("benchmarks/results/central_critic.json")
ENVS = ("checkers_v0", "switch_v0")
BENCHMARL = "BenchMARL MAPPO"
METHODS = ("mappo", "ippo", BENCHMARL)


class RolloutReturns(BaseCallback):
    """Mean return of the episodes that ended in each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float | None] = []
        self.ended: list[float] = []

    def _on_step(self) -> bool:
        self.ended += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        self.means.append(float(np.mean(self.ended)) if self.ended else None)
        self.ended = []


def train(task: dict[str, Any]) -> dict[str, Any]:
    """
    Train once.

    :param task: method, env, seed and number of rollouts
    :return: ``returns``, one mean per rollout, ``None`` where no episode ended
    """
    settings = zoo_settings("ippo" if task["method"] == BENCHMARL else task["method"], task["env"])
    if task["method"] == BENCHMARL:
        return {"returns": _train_benchmarl(settings, task)}
    callback = RolloutReturns()
    model = build_model(settings, task["env"], task["seed"])
    model.learn(task["rollouts"] * settings["n_steps"] * settings.n_envs, callback=callback, log_interval=None)
    return {"returns": callback.means}


def _train_benchmarl(settings: Hyperparameters, task: dict[str, Any]) -> list[float | None]:
    hidden, activation = architecture(settings)
    norm = settings.model_arguments().get("max_grad_norm", 0.5)
    same = {
        "lr": settings["learning_rate"],
        "gamma": settings["gamma"],
        "lmbda": settings["gae_lambda"],
        "clip_epsilon": settings["clip_range"],
        "entropy_coef": settings["ent_coef"],
        "critic_coef": settings["vf_coef"],
        "clip_grad_val": min(float(norm), 1e9),
        "adam_eps": 1e-5,
    }
    peer = {name: settings[name] for name in ("n_steps", "batch_size", "n_epochs")}
    peer |= {"env": task["env"], "env_kwargs": settings.env_kwargs, "n_envs": settings.n_envs, "seed": task["seed"]}
    peer |= {"net_arch": hidden, "activation": activation.__name__, "algorithm": "mappo", "settings": same}
    peer |= {"warm_up": 1, "iterations": task["rollouts"] - 2}
    done = run_python(BENCHMARL_PYTHON, "-m", "benchmarks.benchmarl_peer", json.dumps(peer), check=True)
    returns: list[float | None] = json.loads(done.stdout.splitlines()[-1])["returns"]
    return returns


def draw(record: dict[str, Any], path: Path) -> None:
    """Mean over the seeds, and each seed, by environment steps."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(ENVS), figsize=(5.5 * len(ENVS), 3.6), layout="constrained")
    for axis, env in zip(axes, ENVS, strict=True):
        for color, method in zip(("C0", "C1", "C2"), METHODS, strict=True):
            curves = [run["returns"] for run in record["runs"] if (run["env"], run["method"]) == (env, method)]
            if not curves:
                continue
            steps = record["rollout_steps"] * np.arange(1, len(curves[0]) + 1)
            values = np.array(curves, dtype=float)
            axis.plot(steps, values.T, color=color, linewidth=0.6, alpha=0.5)
            axis.plot(steps, values.mean(axis=0), color=color, label=f"{method} ({len(curves)} seed{'s' * (len(curves) > 1)})")
        axis.set(title=env, xlabel="environment steps", ylabel="team return")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of our methods, from 0")
    parser.add_argument("--benchmarl-seeds", type=int, default=1, help="seeds of BenchMARL, which is slow")
    parser.add_argument("--rollouts", type=int, default=30, help="rollouts of 2,000 steps")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    th.set_num_threads(1)
    seeds = {method: args.benchmarl_seeds if method == BENCHMARL else args.seeds for method in METHODS}
    if not BENCHMARL_PYTHON.exists():
        print("BenchMARL is left out: `make benchmarl` installs it")
        seeds[BENCHMARL] = 0
    tasks = [
        {"method": method, "env": env, "seed": seed, "rollouts": args.rollouts}
        for env in ENVS
        for method in METHODS
        for seed in range(seeds[method])
    ]
    runs = run_parallel(train, tasks, 1, args.out.with_suffix(".runs.jsonl"))
    settings = zoo_settings("mappo", ENVS[0])
    table = [
        {"env": env, "method": method, "seeds": seeds[method], "last_5_rollouts": _late_means(runs, env, method)}
        for env in ENVS
        for method in METHODS
        if seeds[method]
    ]
    for row in table:
        means = ", ".join(f"{value:.2f}" for value in row["last_5_rollouts"])
        print(f"{row['env']:12} {row['method']:16} mean of the last 5 rollouts by seed: {means}")
    record = {"rollout_steps": settings["n_steps"] * settings.n_envs, "table": table, "runs": runs}
    write_record(args.out, record)
    draw(record, args.out.with_suffix(".png"))


def _late_means(runs: list[dict[str, Any]], env: str, method: str) -> list[float]:
    curves = [run["returns"] for run in runs if (run["env"], run["method"]) == (env, method)]
    return [float(np.mean([value for value in curve[-5:] if value is not None])) for curve in curves]


if __name__ == "__main__":
    main()
