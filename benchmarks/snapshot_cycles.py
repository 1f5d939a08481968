"""
Do agents go in circles? Ten snapshots of a training in rock-paper-scissors against each other.

    python -m benchmarks.snapshot_cycles

Both agents learn the one-shot game with the zoo's settings and as many gradient steps for every method (15 per 2,000 plays).
Snapshots are mixed strategies, so that their mean payoffs are exact: the average over both roles, antisymmetric. Their cyclic
part is that of the Hodge decomposition (sb3_matrl.evaluation.cyclicity). Its share alone says little: strategies that spiral
into the equilibrium beat each other in circles, too, by less and less. The size of the payoffs and the triples that games can
decide are therefore measured as well, by a cross-play of --games games.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared import interval, run_parallel, write_record, zoo_settings
from benchmarks.zero_sum import strategies
from sb3_matrl import MATRL
from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.evaluation import bradley_terry, cross_play, cyclicity
from sb3_matrl.evaluation.cyclicity import cyclic_share, cyclic_triples, hodge_parts
from sb3_matrl.files.checkpoints import checkpoint_path, checkpoint_steps
from sb3_matrl.zoo import train as training
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.training.snapshots import snapshot_folder

ENV, GAME = "matrix_game_v0", "rps"
# Algorithm -> changed hyper-parameters.
METHODS: dict[str, dict[str, Any]] = {"ippo": {"n_epochs": 15}, "matrl-no-br": {"n_epochs": 15}, "il-la": {}, "matrl": {}}
SNAPSHOTS = 10
# Column of the table -> key of a result.
COLUMNS = {
    "largest payoff": "largest",
    "cyclic part, size": "cyclic_size",
    "cyclic share": "cyclic_share",
    "cyclic triples": "cyclic_triples",
    "decided by games": "decided",
    "decided and cyclic": "decided_cyclic",
    "Elo predicts": "predicted",
}


def train(task: Mapping[str, Any], folder: Path) -> dict[str, MATRL]:
    """
    Train once with the zoo's command.

    :param task: algorithm, learning rate, steps and seed
    :param folder: folder of the run
    :return: name -> model of every snapshot
    :raises RuntimeError: if the training fails
    """
    rate = task["learning_rate"]
    changes = {**METHODS[task["algorithm"]], "learning_rate": rate}
    if task["algorithm"] in ("matrl", "il-la"):
        changes["br_learning_rate"] = rate
    words = ["--algo", task["algorithm"], "--env", ENV, "--env-kwargs", f"game:{GAME}", "--seed", str(task["seed"])]
    words += ["-n", str(task["timesteps"]), "--snapshots", str(SNAPSHOTS), "--run-dir", str(folder), "--device", "cpu"]
    words += ["--eval-freq", "-1", "--eval-episodes", "1", "--verbose", "0", "--save-freq", "-1", "--save-every-minutes", "0"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = training.main([*words, "--hyperparams", *(f"{name}:{value}" for name, value in changes.items())])
    if code:
        raise RuntimeError(f"the training {task} ended with exit code {code}")
    place = snapshot_folder(RunFolder(folder, ENV))
    return {f"{steps} steps": MATRL.load(checkpoint_path(place, steps), device="cpu") for steps in checkpoint_steps(place)}


def exact_payoffs(players: Sequence[Sequence[np.ndarray]], payoffs: np.ndarray) -> np.ndarray:
    """
    Mean payoff of each player against each other one, over both roles.

    :param players: mixed strategies of the K players, one for each role
    :param payoffs: payoffs of the zero-sum game, (2, actions, actions)
    :return: antisymmetric, (K, K)
    """
    first, second = (np.array([player[role] for player in players]) for role in (0, 1))
    lead = first @ payoffs[0] @ second.T
    found: np.ndarray = (lead - lead.T) / 2.0
    return found


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Train once, and describe the order of the snapshots."""
    with tempfile.TemporaryDirectory() as folder:
        models = train(task, Path(folder) / "run")
    game = np.asarray(matrix_game_v0.named_payoffs(GAME), dtype=np.float64)
    payoffs = exact_payoffs([strategies(model) for model in models.values()], game)
    _, cyclic = hodge_parts(payoffs)
    result = cross_play(models, ENV, task["games"], env_kwargs={"game": GAME}, seed=task["seed"], device="cpu")
    found = cyclicity(result.margins_by_game())
    return {
        "payoffs": payoffs.tolist(),
        "largest": float(abs(payoffs).max()),
        "cyclic_size": float(np.sqrt((cyclic**2).mean())),
        "cyclic_share": cyclic_share(payoffs),
        "cyclic_triples": cyclic_triples(payoffs),
        "decided": found.decided / found.n_triples,
        "decided_cyclic": found.decided_cyclic / found.n_triples,
        "predicted": predicted_pairs(np.array(bradley_terry(result.wins()).values), payoffs),
    }


def predicted_pairs(ratings: np.ndarray, payoffs: np.ndarray) -> float:
    """
    :param ratings: ratings of the players, (K,)
    :param payoffs: exact payoffs, antisymmetric, (K, K)
    :return: share of the pairs of players in which the one with the higher rating is ahead
    """
    pairs = list(itertools.combinations(range(len(ratings)), 2))
    return float(np.mean([(ratings[one] - ratings[two]) * payoffs[one, two] > 0 for one, two in pairs]))


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """
    :param runs: tasks with their results
    :return: Markdown: a line for each learning rate and algorithm, means over seeds with their 95 % intervals
    """
    rows = []
    for rate, algorithm in dict.fromkeys((run["learning_rate"], run["algorithm"]) for run in runs):
        chosen = [run for run in runs if (run["learning_rate"], run["algorithm"]) == (rate, algorithm)]
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval([run[key] for run in chosen])) for key in COLUMNS.values()]
        rows.append([f"{algorithm}, {rate:g}", str(len(chosen)), *cells])
    return markdown(["method, learning rate", "seeds", *COLUMNS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--algorithms", nargs="+", default=list(METHODS), choices=list(METHODS))
    add("--learning-rates", nargs="+", type=float, default=[0.002, 0.0005])
    add("--timesteps", type=int, default=300_000)
    add("--seeds", type=int, default=5, help="number of seeds, from 0")
    add("--games", type=int, default=1000, help="games of every pair of snapshots in both roles")
    add("--jobs", type=int, default=1, help="parallel processes")
    add("--out", type=Path, default=Path("benchmarks/results/rps_cycles.json"))
    args = parser.parse_args()
    tasks = [
        {"algorithm": algorithm, "learning_rate": rate, "timesteps": args.timesteps, "seed": seed, "games": args.games}
        for rate in args.learning_rates
        for seed in range(args.seeds)
        for algorithm in args.algorithms
    ]
    runs = run_parallel(measure, tasks, args.jobs, args.out.with_suffix(".runs.jsonl"))
    print(table(runs))
    settings = {name: zoo_settings(name, ENV, **changes).as_mapping() for name, changes in METHODS.items()}
    write_record(args.out, {"game": GAME, "snapshots": SNAPSHOTS, "hyperparameters": settings, "runs": runs})


if __name__ == "__main__":
    main()
