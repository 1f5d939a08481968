"""
Games that tell value decompositions apart: what VDN, QMIX, QTRAN and Q-DPP learn, beside the published tables.

    OMP_NUM_THREADS=1 python -m benchmarks.value_games

The two-step game of QMIX's paper (Rashid et al. 2018, Sec. 5), and two one-step games of QTRAN's paper (Son et al. 2019,
Sec. 4.1): G1, where no monotone mixture represents the payoffs, and G2, where moreover the best monotone fit is wrong. All
joint actions are drawn uniformly, so that exploration plays no part; Q-DPP's temperature is as high. Every transition is kept.
Prints the greedy joint actions, the agents' values and the values of the team, and writes them to JSON.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks.shared import run_parallel, write_record
from sb3_matrl import QDPP, QMIX, QTRAN, VDN
from sb3_matrl.off_policy.value_based import ValueBased
from tests.worlds.matrix_games import G1, G2, team_game

#: Env of the two-step game, and the payoffs of its states 2A and 2B; rows: agent_0's action.
TWO_STEP_GAME = "tests.worlds.two_step_game:TwoStepGame"
TWO_STEP_PAYOFFS = {"2A": np.full((2, 2), 7.0), "2B": np.array([[0.0, 1.0], [1.0, 8.0]])}
#: Method -> class, and what its arguments add to ``SETTINGS``.
METHODS: dict[str, tuple[type[ValueBased], dict[str, Any]]] = {
    "vdn": (VDN, {"loss": "mse"}),
    "qmix": (QMIX, {"loss": "mse", "mixing_embed_dim": 8}),
    "qtran-base": (QTRAN, {"variant": "base"}),
    "qtran-alt": (QTRAN, {"variant": "alt"}),
    # Instead of uniform draws Q-DPP has a temperature of the values, whose range is 20.
    "qdpp": (QDPP, {"loss": "mse", "temperature": 100.0}),
}
SETTINGS: dict[str, Any] = {
    "n_envs": 20,
    "learning_rate": 2e-3,
    "learning_starts": 500,
    "batch_size": 128,
    "train_freq": 1,
    "target_update_interval": 400,
    "max_grad_norm": 1e3,  # clipped gradients of noisy targets would move the limit
    "exploration_initial_eps": 1.0,
    "exploration_final_eps": 1.0,
    "policy_kwargs": {"net_arch": [64, 64]},
}


@dataclass(frozen=True)
class Game:
    """
    A game of two agents.

    :param env: factory of the environment
    :param steps: joint steps of a training
    :param gradient_steps: gradient steps per joint step of all copies
    :param places: name -> observation of everybody and state, at each of which the tables are printed
    :param payoffs: payoff of every joint action where it is known: name of the place -> table
    """

    env: Any
    steps: int
    gradient_steps: int
    places: dict[str, tuple[list[float], list[float]]]
    payoffs: dict[str, np.ndarray]


def _one_step(payoffs: np.ndarray) -> Game:
    return Game(lambda: team_game(payoffs), 20_000, 2, {"": ([1.0], [0.0])}, {"": payoffs})


def _at(place: int) -> tuple[list[float], list[float]]:
    row = np.eye(3)[place].tolist()
    return row, row


GAMES = {
    "G1": _one_step(G1),
    "G2": _one_step(G2),
    "two-step": Game(TWO_STEP_GAME, 10_000, 4, {"1": _at(0), "2A": _at(1), "2B": _at(2)}, TWO_STEP_PAYOFFS),
}

#: (game, method) -> published tables: values of the agents, or of the team, rows: agent_0's action.
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("G1", "vdn"): {"utilities": [[-2.29, -1.22, -0.73], [-3.14, -2.29, -2.41]]},
    ("G1", "qmix"): {"q_tot": [[-8.08, -8.08, -8.08], [-8.08, 0.0, 0.0], [-8.08, 0.0, 0.0]]},
    ("G1", "qtran-alt"): {"utilities": [[3.84, -2.06, -2.25], [4.16, 2.29, 2.29]], "q_tot": G1.tolist()},
    ("two-step", "vdn"): {"1": [[6.94, 6.94], [6.35, 6.36]], "2B": [[-1.87, 2.31], [2.33, 6.51]]},
    ("two-step", "qmix"): {"1": [[6.93, 6.93], [7.92, 7.92]], "2A": [[7.0, 7.0]] * 2, "2B": [[0.0, 1.0], [1.0, 8.0]]},
}


def train(task: dict[str, Any]) -> dict[str, Any]:
    """
    Train once.

    :param task: game, method and seed; optionally ``steps`` and ``gradient_steps`` to change those of the game
    :return: place -> what is learned there, see :func:`tables`
    """
    game, (algorithm, arguments) = GAMES[task["game"]], METHODS[task["method"]]
    steps = task.get("steps", game.steps)
    settings = {
        **SETTINGS,
        "gradient_steps": game.gradient_steps,
        "buffer_size": steps,
        **arguments,
        **task.get("changes", {}),
    }
    model = algorithm("MlpPolicy", game.env, seed=task["seed"], device="cpu", **settings)
    model.learn(steps, log_interval=None)
    return {name: tables(model, *place) for name, place in game.places.items()}


def tables(model: ValueBased, observation: list[float], state: list[float]) -> dict[str, Any]:
    """
    What a model has learned at one place.

    :param model: model of two agents who observe the same
    :param observation: observation of both
    :param state: state of the environment
    :return: ``greedy`` joint action, ``utilities`` of both agents, values of the team by joint action in ``q_tot``: those
        that are learned from rewards
    """
    observations = {agent: th.tensor([observation]) for agent in model.possible_agents}
    with th.no_grad():
        values = [q[0] for q in model.utilities.values(observations).values()]
        counts = [len(q) for q in values]
        actions = th.tensor(list(itertools.product(*map(range, counts))))
        rows = {agent: one.expand(len(actions), -1) for agent, one in observations.items()}
        totals = _team_values(model, rows, th.tensor([state]).expand(len(actions), -1), actions)
    greedy, _ = model.predict({agent: one.numpy()[0] for agent, one in observations.items()}, deterministic=True)
    return {
        "greedy": [int(action) for action in greedy.values()],
        "utilities": [q.tolist() for q in values],
        "q_tot": totals.view(*counts).tolist(),
    }


def _team_values(model: ValueBased, observations: dict[str, th.Tensor], states: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Values of joint actions (B, n), as each algorithm defines them; (B,)."""
    present = th.ones_like(actions, dtype=th.bool)
    if isinstance(model, QTRAN):
        return model.joint_values(observations, states, actions, present)
    values = model.utilities.values(observations)
    chosen = th.stack([q.gather(1, u[:, None])[:, 0] for q, u in zip(values.values(), actions.unbind(1), strict=True)], dim=1)
    if isinstance(model, QDPP):
        return model.team_values(values, observations, actions, present)[0]
    if isinstance(model, QMIX):
        mixed: th.Tensor = model.mixer(chosen, states)
        return mixed
    return chosen.sum(dim=1)


def greedy_return(game: str, result: dict[str, Any]) -> float:
    """Return of the greedy joint actions."""
    payoffs = GAMES[game].payoffs
    if game == "two-step":
        place = "2B" if result["1"]["greedy"][0] else "2A"
        return float(payoffs[place][tuple(result[place]["greedy"])])
    return float(payoffs[""][tuple(result[""]["greedy"])])


def show(result: dict[str, Any], published: dict[str, Any]) -> None:
    """Print what was learned beside what is published."""
    for place, learned in result.items():
        title = f"  state {place}: " if place else "  "
        own = {"utilities": learned["utilities"], "q_tot": learned["q_tot"]}
        theirs = {"q_tot": published[place]} if place in published else {} if place else published
        print(f"{title}greedy {tuple(learned['greedy'])}")
        for name, table in own.items():
            beside = f"   published {_rounded(theirs[name])}" if name in theirs else ""
            print(f"    {name:10} {_rounded(table)}{beside}")


def _rounded(table: Any) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{value:.2f}" for value in row) + "]" for row in table) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", default=list(GAMES), choices=list(GAMES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/value_games.json"))
    args = parser.parse_args()
    tasks = [
        {"game": game, "method": method, "seed": seed}
        for game in args.games
        for method in args.methods
        for seed in range(args.seeds)
    ]
    results = run_parallel(train, tasks, args.jobs, args.out.with_suffix(".runs.jsonl"))
    runs = [{key: one.pop(key) for key in ("game", "method", "seed")} | {"learned": one} for one in results]
    rows = []
    for game, method in dict.fromkeys((run["game"], run["method"]) for run in runs):
        of_seeds = [run["learned"] for run in runs if (run["game"], run["method"]) == (game, method)]
        returns = [greedy_return(game, learned) for learned in of_seeds]
        rows.append({"game": game, "method": method, "greedy_returns": returns, "published": PUBLISHED.get((game, method))})
        print(f"{game} {method}: greedy return by seed {returns}; seed 0:")
        show(of_seeds[0], PUBLISHED.get((game, method), {}))
    settings = {method: {**SETTINGS, **arguments} for method, (_, arguments) in METHODS.items()}
    sizes = {name: {"steps": game.steps, "gradient_steps": game.gradient_steps} for name, game in GAMES.items()}
    write_record(args.out, {"settings": settings, "games": sizes, "table": rows, "runs": runs})


if __name__ == "__main__":
    main()
