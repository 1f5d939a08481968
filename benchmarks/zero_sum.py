"""
Zero-sum games where independent learners cycle: exact NashConv of the learned policies.

    python -m benchmarks.zero_sum

One-shot rock-paper-scissors and matching pennies, two hidden layers of 32, 2,000 plays per batch, one full-batch step
per epoch, 10 + 5 epochs, Adam 0.002, clip 0.1, 150 iterations; NashConv (at most 2 in matching pennies, 2 in
rock-paper-scissors) averaged over the last quarter of the iterations.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.shared import build_model, interval, run_parallel, write_record, zoo_settings
from sb3_matrl import MATRL
from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters

ENV = "matrix_game_v0"
# Differences to the zoo's settings of the environment, beside the entropy bonus.
CHANGES: dict[str, Any] = {"backend": "sb3", "vf_coef": 1.0, "max_grad_norm": 0.5}
# Name -> algorithm and changed hyper-parameters.
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("matrl", "matrl-no-br", "il-la", "ippo")},
    "ippo, 15 epochs": ("ippo", {"n_epochs": 15}),
    "matrl from current": ("matrl", {"best_response_start": "current"}),
    "matrl from current, 10 BR epochs, unclipped weights": (
        "matrl",
        {"best_response_start": "current", "br_n_epochs": 10, "br_clip_range": None},
    ),
    "matrl from predicted": ("matrl", {"best_response_start": "predicted"}),
    "matrl, distilled": ("matrl", {"aggregation": "distill"}),
}


class NashConvCallback(BaseCallback):
    """Exact NashConv of the agents' policies before every rollout, and rho of every iteration."""

    def __init__(self, game: str) -> None:
        super().__init__()
        self.payoffs = matrix_game_v0.named_payoffs(game)
        self.nash_convs: list[float] = []
        self.rhos: list[float] = []

    def _on_rollout_start(self) -> None:
        model = self.model
        assert isinstance(model, MATRL)
        self.nash_convs.append(matrix_game_v0.nash_conv(self.payoffs, strategies(model)))
        if model.report is not None:
            self.rhos.append(float(model.report.rho.mean()))

    def _on_step(self) -> bool:
        return True


def strategies(model: MATRL) -> list[np.ndarray]:
    """The agents' mixed strategies: the observation is constant."""
    found = []
    for learner in model.agents.values():
        with th.no_grad():
            distribution = learner.policy.get_distribution(th.ones(1, 1)).distribution
        found.append(distribution.probs[0].double().numpy())  # type: ignore[union-attr]
    return [strategy / strategy.sum() for strategy in found]


def settings_of(setting: str, game: str, ent_coef: float) -> Hyperparameters:
    """Hyper-parameters of one of ``SETTINGS``."""
    algorithm, changes = SETTINGS[setting]
    return zoo_settings(algorithm, ENV, **CHANGES, ent_coef=ent_coef, env_kwargs={"game": game}, **changes)


def train(task: dict[str, Any]) -> dict[str, Any]:
    """Train once and return the NashConv after every iteration."""
    callback = NashConvCallback(task["game"])
    settings = settings_of(task["setting"], task["game"], task["ent_coef"])
    model = build_model(settings, ENV, task["seed"])
    model.learn(task["iterations"] * settings.n_envs * settings["n_steps"], callback=callback, log_interval=None)
    assert model.report is not None
    curve = [*callback.nash_convs[1:], matrix_game_v0.nash_conv(callback.payoffs, strategies(model))]
    last_quarter = float(np.mean(curve[-max(1, len(curve) // 4) :]))
    return {"nash_conv": last_quarter, "mean_rho": float(np.mean([*callback.rhos, model.report.rho.mean()])), "curve": curve}


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per game, setting and entropy: mean over seeds with its 95 % interval."""
    rows = []
    keys = dict.fromkeys((r["game"], r["setting"], r["ent_coef"]) for r in results)
    for game, setting, ent_coef in keys:
        chosen = [r for r in results if (r["game"], r["setting"], r["ent_coef"]) == (game, setting, ent_coef)]
        mean, low, high = interval([r["nash_conv"] for r in chosen])
        rho = float(np.mean([r["mean_rho"] for r in chosen]))
        rows.append(
            {"game": game, "setting": setting, "ent_coef": ent_coef, "nash_conv": mean, "ci95": [low, high], "mean_rho": rho}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=["rps", "matching_pennies"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--ent-coefs", nargs="+", type=float, default=[0.0, 0.05])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/zero_sum.json"))
    args = parser.parse_args()
    tasks = [
        {"game": game, "setting": setting, "ent_coef": ent_coef, "seed": seed, "iterations": args.iterations}
        for game in args.games
        for setting in args.settings
        for ent_coef in args.ent_coefs
        for seed in range(args.seeds)
    ]
    results = run_parallel(train, tasks, args.jobs, args.out.with_suffix(".runs.jsonl"))
    rows = table(results)
    for row in rows:
        low, high = row["ci95"]
        print(
            f"{row['game']:17} {row['setting']:52} entropy {row['ent_coef']:<5} "
            f"NashConv {row['nash_conv']:.2f} [{low:.2f}, {high:.2f}]  mean rho {row['mean_rho']:.2f}"
        )
    chosen = {name: settings_of(name, args.games[0], args.ent_coefs[0]) for name in args.settings}
    hyperparameters = {name: settings.as_mapping() for name, settings in chosen.items()}
    write_record(args.out, {"hyperparameters": hyperparameters, "table": rows, "runs": results})


if __name__ == "__main__":
    main()
