"""
Two-player Pong from RAM: points won against a random opponent.

    python -m benchmarks.pong

Agents are trained together with the zoo's settings. Then each plays complete games against a random opponent, on its side. The
result is the share of points that the agent won, written as JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared import build_model, interval, run_parallel, write_record, zoo_settings
from sb3_matrl.common.registry import algorithm_names, algorithm_spec
from sb3_matrl.evaluation import MixedPolicy, Player, RandomPolicy, evaluate_policy
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env

ENV = "pong_v3"


def points_won(players: dict[str, Player], agent: str, env: JointVecEnv, games: int, seed: int) -> float:
    """
    :param players: players of both sides
    :param agent: agent whose points are counted
    :param env: copies of Pong
    :param games: number of complete games; points of unfinished games in other copies count, too
    :param seed: seed of the environment and of the players
    :return: share of the points that the agent won; 0 if none was played
    """
    column = env.agents.index(agent)
    counts = np.zeros(2, dtype=int)

    def count(local: dict[str, Any], _: dict[str, Any]) -> None:
        assert env.last_step is not None
        rewards = env.last_step.rewards[:, column]
        counts[:] += int(rewards[rewards > 0].sum()), -int(rewards[rewards < 0].sum())

    evaluate_policy(MixedPolicy(players), env, games, seed=seed, callback=count)
    return float(counts[0] / max(counts.sum(), 1))


def train(task: dict[str, Any]) -> dict[str, Any]:
    """Train once; return the share of points that each agent wins against chance."""
    settings = zoo_settings(task["algorithm"], ENV, backend="sb3")
    model = build_model(settings, ENV, task["seed"])
    model.learn(task["timesteps"], log_interval=None)
    env = make_joint_vec_env(ENV, n_envs=4, env_kwargs=settings.env_kwargs)
    chance = RandomPolicy(env.observation_spaces, env.action_spaces, seed=10_000 + task["seed"])
    result = {}
    for agent in env.agents:
        players = {other: Player(model if other == agent else chance, other) for other in env.agents}
        result[agent] = points_won(players, agent, env, task["games"], 10_000 + task["seed"])
    nobody = {agent: Player(chance, agent) for agent in env.agents}
    result["chance"] = points_won(nobody, env.agents[0], env, task["games"], 10_000 + task["seed"])
    env.close()
    return result


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per algorithm and player: mean share of points over seeds, with its 95 % interval."""
    rows = []
    for algorithm in dict.fromkeys(r["algorithm"] for r in results):
        chosen = [r for r in results if r["algorithm"] == algorithm]
        for player in ("first_0", "second_0", "chance"):
            shares = [r[player] for r in chosen]
            mean, low, high = interval(shares)
            rows.append({"algorithm": algorithm, "player": player, "share": mean, "ci95": [low, high], "per_seed": shares})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    algorithms = [name for name in algorithm_names() if algorithm_spec(name).class_name == "MATRL"]
    parser.add_argument("--algorithms", nargs="+", default=["matrl"], choices=algorithms)
    parser.add_argument("--timesteps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0")
    parser.add_argument("--games", type=int, default=16, help="games per side, up to 21 points each")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pong.json"))
    args = parser.parse_args()
    tasks = [
        {"algorithm": algorithm, "seed": seed, "timesteps": args.timesteps, "games": args.games}
        for seed in range(args.seeds)
        for algorithm in args.algorithms
    ]
    results = run_parallel(train, tasks, args.jobs, args.out.with_suffix(".runs.jsonl"))
    rows = table(results)
    for row in rows:
        low, high = row["ci95"]
        print(f"{row['algorithm']:12} {row['player']:9} points won {row['share']:.3f} [{low:.3f}, {high:.3f}]")
    settings = {name: zoo_settings(name, ENV, backend="sb3").as_mapping() for name in args.algorithms}
    write_record(args.out, {"timesteps": args.timesteps, "games": args.games, "hyperparameters": settings, "table": rows})


if __name__ == "__main__":
    main()
