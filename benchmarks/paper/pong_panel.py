"""Fig. 5a: checkpoints of MATRL and of independent learners against each other in Pong, by ``zoo/crossplay.py``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from benchmarks.paper.claims import FAILS, HOLDS, OPEN, Claim
from benchmarks.paper.sections import Panel, PanelOptions, Picture, Section, StoppedError, Table, Task
from sb3_matrl.evaluation import mean_confidence_interval
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo import crossplay, train
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.tournaments.tournament import CELLS
from sb3_matrl.zoo.tournaments.tournament_results import cycle_text, mean_text

ENV = "pong_v3"
# Name in the figure -> algorithm and changed hyper-parameters: as many gradient steps for both.
METHODS = {"matrl": ("matrl", []), "ippo": ("ippo", ["n_epochs:15"])}
MATRL, IPPO = METHODS
PAIRS = ((MATRL, IPPO), (MATRL, MATRL), (IPPO, IPPO))
PICTURE = "pong.png"


@dataclass(frozen=True)
class Pong(PanelOptions):
    """
    :param n_timesteps: environment steps of the two trainings
    :param snapshots: checkpoints of each training, evenly spaced
    :param games: games of every pair of checkpoints in both roles, at least 2
    :param max_cycles: steps of 4 frames after which a game of the cross-play ends
    :param conf_file: hyper-parameters: ``paper`` for Table 6 and pixels; by default those of the zoo, on RAM
    """

    n_timesteps: int
    games: int
    max_cycles: int
    snapshots: int = 10
    conf_file: str = ""


def measure(task: Task) -> dict[str, Any]:
    """
    Train, and let all snapshots play.

    :param task: options, folder and number of processes
    :raises StoppedError: if a training or the cross-play does not finish
    """
    options: Pong = task.options
    runs = {name: task.folder / "runs" / name for name in METHODS}
    for name, folder in runs.items():
        if code := _train(name, folder, options):
            raise StoppedError(code)
    words = [f"{name}={folder}" for name, folder in runs.items()]
    words += ["--games", str(options.games), "--env-kwargs", f"max_cycles:{options.max_cycles}", "--device", "cpu"]
    out = task.folder / "crossplay"
    if code := crossplay.main([*words, "--jobs", str(task.jobs), "--out", str(out)]):
        raise StoppedError(code)
    record = json.loads((out / "crossplay.json").read_text(encoding="utf-8"))
    scores = mean_scores(np.array(record["payoffs"], dtype=np.float64))
    members = {name: [k for k, player in enumerate(record["players"]) if player.split("@")[0] == name] for name in METHODS}
    steps = {name: [int(list(record["players"])[k].split("@")[1]) for k in found] for name, found in members.items()}
    maps = {f"{one} / {two}": scores[np.ix_(members[one], members[two])] for one, two in PAIRS}
    draw(task.folder / PICTURE, maps, steps)
    kept = {name: record["summary"][name] for name in ("groups", "cycles")}
    games = [json.loads(line) for line in (out / CELLS).read_text(encoding="utf-8").splitlines()[1:]]
    lead = scores_by_game(games, members[MATRL], members[IPPO])
    low, high = mean_confidence_interval(lead)
    kept["lead"] = {"mean": float(lead.mean()), "low": low, "high": high}
    return {
        **kept,
        "roles": record["roles"],
        "steps": steps,
        "maps": maps,
        "wins": float((maps[f"{MATRL} / {IPPO}"] > 0).mean()),
    }


def _train(name: str, folder: Path, options: Pong) -> int:
    """Train, or continue a training; a finished one is kept."""
    algorithm, changes = METHODS[name]
    run = RunFolder(folder, ENV)
    if run.is_finished:
        return 0
    if run.checkpoint_steps():
        return train.main(["--resume", str(folder)])
    shutil.rmtree(folder, ignore_errors=True)
    words = ["--algo", algorithm, "--env", ENV, "-n", str(options.n_timesteps), "--seed", "0", "--run-dir", str(folder)]
    words += ["--snapshots", str(options.snapshots), "--save-freq", str(options.n_timesteps // 10), "--verbose", "0"]
    words += ["--eval-freq", "-1", "--eval-episodes", "1", "--eval-env-kwargs", f"max_cycles:{options.max_cycles}"]
    words += ["--device", "cpu", *(["--conf-file", options.conf_file] if options.conf_file else [])]
    return train.main([*words, *(["--hyperparams", *changes] if changes else [])])


def mean_scores(payoffs: np.ndarray) -> np.ndarray:
    """
    Score of each player against each other one, over both roles.

    :param payoffs: mean return of each role, (2, K, K), by the players of both roles
    :return: half the lead of the row player, mean over its games in both roles; antisymmetric, (K, K)
    """
    lead = payoffs[0] - payoffs[1]
    scores: np.ndarray = (lead - lead.T) / 4.0
    return scores


def scores_by_game(cells: Sequence[Mapping[str, Any]], ours: Sequence[int], theirs: Sequence[int]) -> np.ndarray:
    """
    Mean score of one group of players against another one.

    :param cells: games of the cross-play: ``profile``, ``batch`` and ``returns`` (games, 2)
    :param ours: players of the group
    :param theirs: players of the other group
    :return: score of each game, mean over all pairs and both roles; games with one number began with the same seed, (G,)
    """
    found: dict[int, list[np.ndarray]] = {}
    for cell in cells:
        first, second = cell["profile"]
        returns = np.array(cell["returns"], dtype=np.float64)
        lead = (returns[:, 0] - returns[:, 1]) / 2.0
        if first in ours and second in theirs:
            found.setdefault(cell["batch"], []).append(lead)
        elif first in theirs and second in ours:
            found.setdefault(cell["batch"], []).append(-lead)
    return np.concatenate([np.mean(found[batch], axis=0) for batch in sorted(found)])


def draw(path: Path, maps: Mapping[str, np.ndarray], steps: Mapping[str, Sequence[int]]) -> None:
    """
    Draw the three heat maps side by side, with one scale.

    :param path: path of the picture
    :param maps: "row player / column player" -> scores of the row player
    :param steps: name -> environment steps of its checkpoints
    """
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    panels = figure.subplots(1, len(maps))
    largest = max(max(float(abs(scores).max()) for scores in maps.values()), 1e-9)
    for axes, (name, scores) in zip(panels, maps.items(), strict=True):
        rows, columns = name.split(" / ")
        image = axes.imshow(scores, cmap="RdBu", norm=TwoSlopeNorm(0.0, -largest, largest))
        for axis, player in ((axes.yaxis, rows), (axes.xaxis, columns)):
            axis.set_ticks(range(len(steps[player])), [f"{count / 1000:.0f}k" for count in steps[player]], fontsize=7)
        axes.set(title=f"{rows} against {columns}", ylabel=f"{rows}, steps", xlabel=f"{columns}, steps")
        axes.tick_params(axis="x", rotation=90)
    figure.colorbar(image, ax=panels, shrink=0.8, label="score of the row player")
    with atomic_file(path) as file:
        figure.savefig(file, dpi=130, format="png")


def section(record: Mapping[str, Any]) -> Section:
    """
    :param record: as :func:`measure` returns it, and the options
    """
    options = record["options"]
    observed = "Table 6's settings, pixels" if options["conf_file"] == "paper" else "the zoo's settings, six bytes of RAM"
    text = (
        f"One training of each method ({observed}), {options['n_timesteps']:,} steps, as many gradient steps for both, "
        f"{options['snapshots']} checkpoints; {options['games']} games of {options['max_cycles']} steps for every pair of "
        "checkpoints in both roles. The score is half of what the row player wins more than the column player, over both "
        "roles; blue is good for the row player."
    )
    rows = [
        [one, *(mean_text(record["groups"][role][f"{one} / {two}"]) for role in record["roles"] for two in METHODS)]
        for one in METHODS
    ]
    header = ["mean return", *(f"as {role}, against {two}" for role in record["roles"] for two in METHODS)]
    notes = [f"Cycles among the checkpoints of {name}: {cycle_text(found)}." for name, found in _cycles(record).items()]
    picture = Picture(
        PICTURE, "Scores of checkpoints against each other: MATRL against IL, MATRL against MATRL, IL against IL"
    )
    return Section([text], [Table(header, rows)], pictures=[picture], notes=notes, claims=claims(record))


def _cycles(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> cycles, if there are three checkpoints; numbers that JSON has as null are NaN."""
    found = {name: record["cycles"][name] for name in METHODS if name in record["cycles"]}
    return {
        name: {key: float("nan") if value is None else value for key, value in cycles.items()}
        for name, cycles in found.items()
    }


def claims(record: Mapping[str, Any]) -> list[Claim]:
    """
    :param record: as :func:`measure` returns it
    :return: who wins, and whose order is less cyclic
    """
    lead, wins = record["lead"], record["wins"]
    verdict = HOLDS if wins > 0.5 and lead["low"] > 0 else FAILS if wins < 0.5 and lead["high"] < 0 else OPEN
    found = [
        Claim(
            "MATRL outperforms the independent learner in most pairs of checkpoints",
            verdict,
            f"It is ahead in {wins:.0%} of the pairs, by a mean score of {mean_text(lead)}; the interval is over games, and "
            "other trainings may differ.",
        )
    ]
    text = "MATRL's learning is more transitive: the cyclic part of the payoffs among its checkpoints is smaller"
    cycles = _cycles(record)
    if len(cycles) < len(METHODS):
        return [*found, Claim(text, OPEN, "Too few checkpoints.")]
    (low, high), (other_low, other_high) = (cycles[name]["share_interval"] for name in METHODS)
    verdict = HOLDS if high < other_low else FAILS if low > other_high else OPEN
    intervals = f"MATRL [{low:.0%}, {high:.0%}], independent learner [{other_low:.0%}, {other_high:.0%}]"
    return [*found, Claim(text, verdict, f"Share of the cyclic part: {intervals}.")]


PANELS = (Panel("fig5a", "Fig. 5a: cross-play in Pong, 2 agents", Pong, measure, section),)
