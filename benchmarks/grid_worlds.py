"""
Checkers and Switch (Sec. 4, Figs. 4a and 4b): MATRL, its two ablations, and independent learners with as many steps.

    python -m benchmarks.grid_worlds --preset paper --env checkers_v0
    python -m benchmarks.grid_worlds --preset paper --env switch_v0
    python -m benchmarks.grid_worlds --preset one_hot --env checkers_v0
    python -m benchmarks.grid_worlds --preset leave --env switch_v0

All settings of one comparison get the same environment steps; ``ippo, 15 epochs`` also gets the gradient steps of
matrl (10 predicted + 5 best response). Each call writes the table and every run's curve as JSON, and a PNG of the
curves beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.experiment import interval, run_parallel, write_record
from sb3_matrl import MATRL
from sb3_matrl.envs import factory
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.common.hyperparameters import ALGORITHMS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Table 3 of the paper; lambda 0.97 as in its released settings.
HYPERPARAMETERS: dict[str, Any] = {
    "n_envs": 20,
    "n_steps": 100,
    "batch_size": 2000,
    "n_epochs": 10,
    "br_n_epochs": 5,
    "learning_rate": 0.002,
    "br_learning_rate": 0.002,
    "gamma": 0.99,
    "gae_lambda": 0.97,
    "clip_range": 0.1,
    "br_clip_range": 0.1,
    "payoff_clip_range": 0.1,
    "ent_coef": 0.05,
    "max_grad_norm": 1e9,  # the paper clips no gradients
}
NETWORK = {"net_arch": [128, 128], "activation_fn": th.nn.LeakyReLU}
VALUE_COEFFICIENT = {"checkers_v0": 1.0, "switch_v0": 0.01}
ENV_KWARGS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "checkers_v0"): {"observation": "codes"},
    ("paper", "switch_v0"): {"n_agents": 4, "finished_agents": "pay"},
    ("one_hot", "checkers_v0"): {"observation": "one_hot"},
    ("leave", "switch_v0"): {"n_agents": 4, "finished_agents": "leave", "clock": True},
}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: dict(switches) for name, switches in ALGORITHMS.items()},
    "ippo, 15 epochs": {**ALGORITHMS["ippo"], "n_epochs": 15},
}
# Runs of different settings can coincide exactly (rho = 0 throughout): dashes keep both visible.
STYLES = dict(zip(SETTINGS, ["-", "-", "--", "--", "-"], strict=True))
COLOURS = dict(zip(SETTINGS, ["#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73"], strict=True))


class CurveCallback(BaseCallback):
    """Mean team return of the episodes that ended during each rollout, and each iteration's rho and phase times."""

    def __init__(self) -> None:
        super().__init__()
        self.timesteps: list[int] = []
        self.returns: list[float] = []
        self.rhos: list[float] = []
        self.seconds: list[dict[str, float]] = []
        self._finished: list[float] = []

    def _on_step(self) -> bool:
        self._finished += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        model = self.model
        assert isinstance(model, MATRL)
        self.timesteps.append(self.num_timesteps)
        self.returns.append(float(np.mean(self._finished)) if self._finished else float("nan"))
        self._finished = []
        if model.report is not None:
            self.rhos.append(float(model.report.rho.mean()))
            self.seconds.append(model.report.seconds)


def train(task: dict[str, Any]) -> dict[str, Any]:
    """Train once; curve, and the final policies' sampled and greedy team return."""
    env_kwargs = ENV_KWARGS[task["preset"], task["env"]]
    model = MATRL(
        "MlpPolicy",
        factory(task["env"]),
        env_kwargs=env_kwargs,
        vf_coef=VALUE_COEFFICIENT[task["env"]],
        policy_kwargs=NETWORK,
        seed=task["seed"],
        device="cpu",
        **{**HYPERPARAMETERS, **SETTINGS[task["setting"]]},
    )
    callback = CurveCallback()
    model.learn(task["timesteps"], callback=callback, log_interval=None)
    env = make_joint_vec_env(factory(task["env"]), n_envs=20, env_kwargs=env_kwargs)
    sampled = evaluate_policy(model, env, n_eval_episodes=100, seed=10_000 + task["seed"])
    greedy = evaluate_policy(model, env, n_eval_episodes=20, deterministic=True, seed=10_000 + task["seed"])
    env.close()
    return {
        "timesteps_curve": callback.timesteps,
        "returns_curve": callback.returns,
        "sampled": sampled.mean,
        "greedy": greedy.mean,
        "mean_rho": float(np.mean(callback.rhos)),
        "seconds_per_iteration": {key: float(np.mean([s[key] for s in callback.seconds])) for key in callback.seconds[0]},
    }


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    One row per setting, mean over seeds with its 95 % interval: team return of the last 10 iterations' episodes, and of
    the final policies, sampled and greedy.
    """
    rows = []
    for setting in dict.fromkeys(r["setting"] for r in results):
        chosen = [r for r in results if r["setting"] == setting]
        row: dict[str, Any] = {
            "setting": setting,
            "seeds": len(chosen),
            "mean_rho": float(np.mean([r["mean_rho"] for r in chosen])),
        }
        columns = {kind: [r[kind] for r in chosen] for kind in ("sampled", "greedy")}
        columns["last_10_iterations"] = [float(np.nanmean(r["returns_curve"][-10:])) for r in chosen]
        for kind, values in columns.items():
            mean, low, high = interval(values)
            row |= {kind: mean, f"{kind}_ci95": [low, high], f"{kind}_per_seed": values}
        rows.append(row)
    return rows


def draw(results: list[dict[str, Any]], path: Path, title: str) -> None:
    """Learning curves: mean over seeds and 95 % bootstrap band, smoothed over 10 iterations."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for setting in dict.fromkeys(r["setting"] for r in results):
        chosen = [r for r in results if r["setting"] == setting]
        steps = np.array(chosen[0]["timesteps_curve"])
        curves = np.array([_smooth(np.array(r["returns_curve"], dtype=float)) for r in chosen])
        draws = np.random.default_rng(0).choice(len(curves), size=(1000, len(curves)))
        low, high = np.percentile(curves[draws].mean(axis=1), [2.5, 97.5], axis=0)
        axes.plot(steps, curves.mean(axis=0), label=setting, color=COLOURS[setting], linestyle=STYLES[setting], linewidth=2)
        axes.fill_between(steps, low, high, color=COLOURS[setting], alpha=0.15, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="team return (sampled)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _smooth(values: np.ndarray, window: int = 10) -> np.ndarray:
    """Running mean over the last ``window`` values, without the NaNs of iterations in which no episode ended."""
    return np.array([np.nanmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted({preset for preset, _ in ENV_KWARGS}), default="paper")
    parser.add_argument("--env", choices=sorted(VALUE_COEFFICIENT), default="checkers_v0")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--timesteps", type=int, default=150_000)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<env>_<preset>.json")
    args = parser.parse_args()
    if (args.preset, args.env) not in ENV_KWARGS:
        parser.error(f"preset {args.preset!r} has no {args.env}; known: {', '.join(map(str, ENV_KWARGS))}")
    out = args.out or Path(f"benchmarks/results/{args.env}_{args.preset}.json")
    tasks = [
        {"preset": args.preset, "env": args.env, "setting": setting, "seed": seed, "timesteps": args.timesteps}
        for seed in range(args.seeds)
        for setting in args.settings
    ]
    results = run_parallel(train, tasks, args.jobs, out.with_suffix(".runs.jsonl"))
    rows = table(results)
    for row in rows:
        kinds = ("last_10_iterations", "sampled", "greedy")
        cells = [f"{kind} {row[kind]:6.2f} [{row[f'{kind}_ci95'][0]:.2f}, {row[f'{kind}_ci95'][1]:.2f}]" for kind in kinds]
        print(f"{row['setting']:16} {'   '.join(cells)}   mean rho {row['mean_rho']:.3f}")
    record = {
        "preset": args.preset,
        "env": args.env,
        "env_kwargs": ENV_KWARGS[args.preset, args.env],
        "timesteps": args.timesteps,
    }
    hyperparameters = {**HYPERPARAMETERS, "vf_coef": VALUE_COEFFICIENT[args.env], "network": "2 x 128, leaky ReLU"}
    write_record(out, {**record, "hyperparameters": hyperparameters, "settings": SETTINGS, "table": rows, "runs": results})
    draw(results, out.with_suffix(".png"), f"{args.env}, {args.preset} settings, {args.seeds} seeds")


if __name__ == "__main__":
    main()
