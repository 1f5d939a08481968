"""
Regret against the size of the steps in congestion games: matrl, il-la and ippo, with networks.

    OMP_NUM_THREADS=1 python -m benchmarks.congestion

n agents choose among n resources, n = 4, 8, 16, and share those that several choose. Regret is 1 - welfare score, mean over
the training: 0 where the agents spread from the beginning, 1 for uniform play. Networks, budgets and gradient steps are those
of the suite's tasks; the learning rate is that of predicted steps and best responses. No settings are tuned: the same rates
for all. Writes a record, with a picture beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.shared import interval, run_parallel, write_record
from benchmarks.suite_runs import train, training_of
from benchmarks.tune_suite import trial_runs
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.benchmarking.exact_measures import WELFARE_SCORE
from sb3_matrl.zoo.benchmarking.suite_file import choose_tasks, read_suite
from sb3_matrl.zoo.benchmarking.suite_scores import score_of_values

METHODS = ("ippo", "il-la", "matrl")
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
# Okabe and Ito's palette for colour-blind readers.
COLOURS = {"ippo": "#555555", "il-la": "#E69F00", "matrl": "#0072B2"}
MARKERS = {"ippo": "s", "il-la": "^", "matrl": "o"}


def trainings(n_agents: int, method: str, changes: Mapping[str, float], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """
    Trainings of one method, one for each seed.

    :param n_agents: number of agents and of resources
    :param method: name of the method
    :param changes: hyper-parameters in place of the suite's
    :param seeds: seeds
    """
    (task,) = choose_tasks(read_suite("coordination"), [f"congestion_{n_agents}"])
    setting = next(one for one in task.methods if one.name == method)
    return [training_of(task, run) for run in trial_runs(task, setting, dict(changes), seeds, "congestion")]


def regret(result: Mapping[str, Any]) -> float:
    """
    :param result: what :func:`~benchmarks.suite_runs.train` returned
    """
    return 1.0 - score_of_values("welfare", np.array(result["measures"][WELFARE_SCORE]))[0]


def row_of(n_agents: int, method: str, changes: Mapping[str, float], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the record: regrets of all seeds, their mean with its interval, and the mean rho."""
    regrets = [regret(one) for one in results]
    mean, low, high = interval(regrets)
    rho = float(np.mean([one["mean_rho"] for one in results]))
    numbers = {"regret": mean, "ci95": [low, high], "regrets": regrets, "mean_rho": rho}
    return {"n_agents": n_agents, "method": method, **changes, **numbers}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """
    Regret over the learning rate; a column of panels per number of agents, a row per clip range.

    :param rows: rows of the record
    :param path: path of the PNG file
    """
    sizes, clips = sorted({row["n_agents"] for row in rows}), sorted({row["clip_range"] for row in rows})
    figure = Figure(figsize=(3.6 * len(sizes), 2.9 * len(clips) + 0.5), layout="constrained")
    panels = figure.subplots(len(clips), len(sizes), squeeze=False, sharex=True, sharey=True)
    for line, clip in zip(panels, clips, strict=True):
        for axes, size in zip(line, sizes, strict=True):
            _draw_panel(axes, [row for row in rows if (row["n_agents"], row["clip_range"]) == (size, clip)])
            axes.set_title(f"{size} agents, PPO clip {clip:g}", fontsize=10)
        line[0].set_ylabel("regret over the training")
    panels[0, 0].set_ylim(bottom=0.0)  # after all panels, whose limits are the same
    for axes in panels[-1]:
        axes.set_xlabel("learning rate")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    n_seeds = len(rows[0]["regrets"])
    title = f"mean of {n_seeds} seeds, 95 % bootstrap intervals"
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=len(labels), frameon=False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=130)


def _draw_panel(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["learning_rate"])
        rates = np.array([row["learning_rate"] for row in own]) * 1.06 ** (place - 1)  # side by side
        means, (low, high) = np.array([row["regret"] for row in own]), np.array([row["ci95"] for row in own]).T
        style: dict[str, Any] = {"color": COLOURS[method], "marker": MARKERS[method], "label": method}
        axes.errorbar(rates, means, yerr=[means - low, high - means], capsize=2.5, linewidth=1.6, markersize=4.5, **style)
    axes.set_xscale("log")
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16], choices=[4, 8, 16], help="numbers of agents")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates")
    parser.add_argument("--clip-ranges", type=float, nargs="+", default=[0.2, 10.0], help="PPO's clip ranges; 10 is none")
    parser.add_argument("--ent-coef", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/congestion.json"))
    args = parser.parse_args()
    cells = [
        (size, method, {"learning_rate": rate, "clip_range": clip, "ent_coef": args.ent_coef})
        for size in args.sizes
        for clip in args.clip_ranges
        for rate in args.rates
        for method in args.methods
    ]
    seeds = range(args.seeds)
    tasks = [one for size, method, changes in cells for one in trainings(size, method, changes, seeds)]
    found = run_parallel(train, tasks, args.jobs, args.out.with_suffix(".runs.jsonl"))
    parts = [found[start : start + args.seeds] for start in range(0, len(found), args.seeds)]
    rows = [row_of(*cell, part) for cell, part in zip(cells, parts, strict=True)]
    write_record(args.out, {"ent_coef": args.ent_coef, "seeds": list(seeds), "table": rows})
    draw(rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
