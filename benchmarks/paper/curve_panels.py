"""Figs. 4a to 4c, 8a and 8b: learning curves, measured by ``zoo/benchmark.py`` with the settings of benchmarks/studies."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.claims import (
    BETTER,
    EQUAL,
    WORSE,
    Claim,
    compare,
    of_comparisons,
    outperforms,
    reaches,
    stays_at,
    varies_more,
)
from benchmarks.paper.sections import Curves, Panel, PanelOptions, Picture, Section, StoppedError, Table, Task
from sb3_matrl.zoo import benchmark
from sb3_matrl.zoo.benchmarking.benchmark_folder import BenchmarkFolder
from sb3_matrl.zoo.benchmarking.execution import POLL_SECONDS
from sb3_matrl.zoo.benchmarking.run_results import progress_rows
from sb3_matrl.zoo.benchmarking.run_statistics import Estimate, probability_of_improvement
from sb3_matrl.zoo.common.locking import locked_folder
from sb3_matrl.zoo.plotting.curve_data import aggregated, read_curves
from sb3_matrl.zoo.plotting.curve_panels import Look, draw_methods

STUDIES = Path(__file__).parents[1] / "studies"
MATRL, NO_BR, IL_LA, IPPO = "matrl", "matrl-no-br, 15 epochs", "il-la", "ippo, 15 epochs"
ABLATIONS = (NO_BR, IL_LA)
PICTURE = "curves.png"
_RHO = "metagame/rho_mean"


@dataclass(frozen=True)
class Training(PanelOptions):
    """
    :param n_timesteps: environment steps of each run
    :param seeds: number of seeds: 0, 1, ...
    :param eval_freq: steps between evaluations
    :param eval_episodes: episodes per evaluation, sampled and greedy each
    :param max_episode_steps: steps after which a robot's episode is truncated; 0 for the environment's own limit
    """

    n_timesteps: int
    seeds: int
    eval_freq: int
    eval_episodes: int
    max_episode_steps: int = 0


@dataclass(frozen=True)
class CurvePanel:
    """
    What is particular to a panel.

    :param env: environment
    :param study: settings file in benchmarks/studies
    :param world: the environment in words
    :param whole: environment steps of a whole training, that of the budget ``paper``
    :param printed: method -> return that the paper's text has
    :param names_ablations: whether the text compares the ablations in this panel
    """

    env: str
    study: str
    world: str
    whole: int
    printed: Mapping[str, float] = field(default_factory=dict)
    names_ablations: bool = True


def measure(panel: CurvePanel, task: Task) -> dict[str, Any]:
    """
    Train everything that is not trained yet.

    :param panel: the panel
    :param task: options, folder and number of processes
    :raises StoppedError: if a run fails, or a signal ends it
    """
    options, folder = task.options, BenchmarkFolder(task.folder / "benchmark")
    words = [
        "--settings",
        str(STUDIES / panel.study),
        "--envs",
        panel.env,
        "--jobs",
        str(task.jobs),
        "--out",
        str(folder.path),
    ]
    for name in ("n_timesteps", "seeds", "eval_freq", "eval_episodes"):
        words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if options.max_episode_steps:
        words += ["--env-kwargs", f"{panel.env}: {{max_episode_steps: {options.max_episode_steps}}}"]
    wait_for_left_runs(folder.path)
    if code := benchmark.main(words):
        raise StoppedError(code)
    curves = aggregated(read_curves(folder.record), "sampled", "iqm")
    look = Look(title=None, size=(7.0, 3.6))
    draw_methods(task.folder / PICTURE, curves, "team return, sampled (IQM)", look)
    record = json.loads(folder.record.read_text(encoding="utf-8"))
    returns: dict[str, list[list[float]]] = {}
    for run in record["runs"]:
        returns.setdefault(run["setting"], []).append(run["returns"]["sampled"])
    return {
        "table": record["table"],
        "notes": record["notes"],
        "final": {name: [run[-1] for run in runs] for name, runs in returns.items()},
        "mean": {name: [float(np.mean(run)) for run in runs] for name, runs in returns.items()},
        "rho": _mean_rho(folder, panel.env, options.seeds),
        "curves": {one.method: {"steps": one.steps, "values": one.values, "low": one.low, "high": one.high} for one in curves},
    }


def wait_for_left_runs(folder: Path) -> None:
    """
    Wait for a run that a killed start left behind: it goes on to its end and then releases the benchmark's folder.

    :param folder: folder of the benchmark
    """
    is_told = False
    while True:
        try:
            with locked_folder(folder, "is in use"):
                return
        except ValueError as error:
            if not is_told:
                print(f"{error} by a run that a killed start left behind; waiting for its end", file=sys.stderr)
            is_told = True
            time.sleep(POLL_SECONDS)


def _mean_rho(folder: BenchmarkFolder, env: str, seeds: int) -> float | None:
    """Mean weight of the current policies in MATRL's equilibria, over all iterations."""
    rows = [row for seed in range(seeds) for row in progress_rows(folder.run(env, MATRL, seed).progress)]
    values = [float(row[_RHO]) for row in rows if row.get(_RHO)]
    return float(np.mean(values)) if values else None


def section(panel: CurvePanel, record: Mapping[str, Any]) -> Section:
    """
    :param panel: the panel
    :param record: as :func:`measure` returns it, and the options
    """
    options = record["options"]
    text = (
        f"{panel.world}: {options['n_timesteps']:,} environment steps of each run, seeds: {options['seeds']}. Columns: team "
        f"return of the last evaluation ({options['eval_episodes']} episodes), interquartile mean (IQM) over seeds with its "
        "95 % interval; and the probability that a run of matrl is better than one of the method. Gradient steps are those of "
        "one agent."
    )
    if options["max_episode_steps"]:
        text += f" Episodes have at most {options['max_episode_steps']} steps."
    rho = record["rho"]
    notes = [*record["notes"]]
    if rho is not None:
        notes.append(
            f"matrl: mean rho {rho:.3f}" + ("; its steps are those of il-la, bit for bit" if _equals(record, IL_LA) else "")
        )
    header = ["", "seeds", "env steps", "gradient steps", "sampled IQM", "greedy IQM", "P(matrl better)", "printed"]
    rows = [_row(panel, record, row) for row in record["table"]]
    return Section(
        [text],
        [Table(header, rows)],
        [Curves(f"{panel.world}, team return", record["curves"])],
        [Picture(PICTURE, f"Learning curves in {panel.world}: IQM over seeds with 95 % bands")],
        notes,
        claims(panel, record),
    )


def _equals(record: Mapping[str, Any], other: str) -> bool:
    return bool(record["mean"][MATRL] == record["mean"].get(other))


def _row(panel: CurvePanel, record: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    name = row["setting"]
    probability = "" if name == MATRL else str(_improvement(record["final"][MATRL], record["final"][name]))
    printed = f"{panel.printed[name]:g}" if name in panel.printed else ""
    scores = [_estimate(row, "sampled_iqm"), _estimate(row, "greedy_iqm")]
    steps = [f"{row['env_steps']:,}", f"{row['gradient_steps']:,}"]
    return [name, str(row["seeds"]), *steps, *scores, probability, printed]


def _improvement(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    return probability_of_improvement(np.array(ours)[:, None], np.array(theirs)[:, None])


def _estimate(row: Mapping[str, Any], key: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return f"{row[key]:.1f}" if low is None else f"{row[key]:.1f} [{low:.1f}, {high:.1f}]"


def claims(panel: CurvePanel, record: Mapping[str, Any]) -> list[Claim]:
    """
    :param panel: the panel
    :param record: as :func:`measure` returns it, and the options
    :return: what the paper says about the panel, judged by the final returns
    """
    final, mean = record["final"], record["mean"]
    is_whole = record["options"]["n_timesteps"] >= panel.whole
    others = {name: scores for name, scores in final.items() if name not in (MATRL, *ABLATIONS)}
    found = [outperforms("MATRL outperforms the independent learners and all other baselines", final[MATRL], others)]
    if MATRL in panel.printed:
        value = panel.printed[MATRL]
        found.append(reaches(f"MATRL reaches a team return of {value:g}", final[MATRL], value, is_whole))
    if IPPO in panel.printed:
        value = panel.printed[IPPO]
        found.append(stays_at(f"The independent learners stay at {value:g}", final[IPPO], value, is_whole))
    if not panel.names_ablations:
        return found
    lower = {name: compare(scores, final[NO_BR]) for name, scores in final.items() if name != NO_BR}
    words = {BETTER: "lower than", WORSE: "higher than", EQUAL: "equal in every run to"}
    return [
        *found,
        of_comparisons("Without the best response, final scores are the lowest", lower, {**_UNCLEAR, **words}),
        varies_more("Without the best response, final scores vary more than MATRL's", final[NO_BR], final[MATRL]),
        outperforms("Without the meta-game (IL-LA), final scores are lower than MATRL's", final[MATRL], {IL_LA: final[IL_LA]}),
        outperforms(
            "Without the meta-game (IL-LA), learning is slower than MATRL's (mean over the curve)",
            mean[MATRL],
            {IL_LA: mean[IL_LA]},
        ),
        varies_more("IL-LA's final scores vary more than those without the best response", final[IL_LA], final[NO_BR]),
    ]


_UNCLEAR = {"unclear": "not to be told from"}


def _panel(name: str, title: str, panel: CurvePanel) -> Panel:
    return Panel(name, title, Training, partial(measure, panel), partial(section, panel))


PANELS = (
    _panel(
        "fig4a",
        "Fig. 4a: Checkers, 2 agents",
        CurvePanel("checkers_v0", "paper_grids.yml", "Checkers", 400_000, {MATRL: 18.0, IPPO: -2.0}),
    ),
    _panel("fig4b", "Fig. 4b: Switch, 4 agents", CurvePanel("switch_v0", "paper_grids.yml", "Switch", 500_000, {MATRL: 6.5})),
    _panel("fig4c", "Fig. 4c: Hopper, 3 agents", CurvePanel("hopper_3x1", "paper_robots.yml", "Hopper", 1_000_000)),
    _panel(
        "fig8a",
        "Fig. 8a: Ant, 2 agents",
        CurvePanel("ant_2x4", "paper_robots.yml", "Ant", 1_000_000, names_ablations=False),
    ),
    _panel(
        "fig8b",
        "Fig. 8b: Swimmer, 2 agents",
        CurvePanel("swimmer_2x1", "paper_robots.yml", "Swimmer", 1_000_000, names_ablations=False),
    ),
)
