"""Results of a study: a table, the best hyper-parameters, and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.yaml_files import write_yaml
from sb3_matrl.zoo.sweeping.study import finished_trials, trial_line, trial_seconds
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from sb3_matrl.zoo.training.options import TrainOptions

SHOWN_TRIALS = 10
# The importance compares the best tenth of the trials with all of them.
MIN_TRIALS_FOR_IMPORTANCE = 4


def trial_rows(study: optuna.Study) -> list[dict[str, Any]]:
    """One row per finished trial: number, state, value, seed, steps, seconds, error, then the parameters."""
    return [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "seed": trial.user_attrs.get("seed"),
            "steps": trial.user_attrs.get("steps", 0),
            "seconds": trial_seconds(trial),
            "error": trial.user_attrs.get("error"),
            **trial.user_attrs["values"],
        }
        for trial in finished_trials(study)
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys, at least one, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def trials_table(study: optuna.Study) -> str:
    """Number of trials of each kind, and the best trials."""
    trials = finished_trials(study)
    states = [trial.state for trial in trials]
    kinds = {"complete": TrialState.COMPLETE, "stopped early": TrialState.PRUNED, "failed": TrialState.FAIL}
    counts = ", ".join(f"{states.count(state)} {kind}" for kind, state in kinds.items())
    complete = _ranked([trial for trial in trials if trial.state == TrialState.COMPLETE], study)
    lines = [f"{len(trials)} trial{'s' * (len(trials) != 1)}: {counts}.{' The best complete ones:' if complete else ''}"]
    return "\n".join(lines + [trial_line(trial) for trial in complete[:SHOWN_TRIALS]])


def _ranked(trials: list[FrozenTrial], study: optuna.Study) -> list[FrozenTrial]:
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return sorted(trials, key=lambda trial: sign * (trial.value or 0.0))


def best_hyperparameters(best: TrainOptions) -> Hyperparameters:
    """
    Hyper-parameters of the best trial, with the training length of the conf file instead of the trial's.

    :param best: options of the best trial
    """
    changes = {name: value for name, value in best.hyperparams.items() if name != "n_timesteps"}
    return read_hyperparameters(replace(best, n_timesteps=None, hyperparams=changes))


def write_best(path: Path, best: TrainOptions) -> None:
    """Write the best hyper-parameters as a conf file for ``train.py``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(path, {best.env: best_hyperparameters(best).as_mapping()})


def importances(study: optuna.Study) -> dict[str, float]:
    """
    Importance of each parameter for a trial to be among the best tenth (PED-ANOVA), largest first.

    :param study: the study
    :return: parameter -> share; empty if there are too few complete trials, or if all values are equal
    """
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])]
    if len(values) < MIN_TRIALS_FOR_IMPORTANCE or len(set(values)) == 1:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def draw_study(path: Path, study: optuna.Study, metric: str) -> None:
    """
    Save a figure: values of all trials with the best so far, and importances of the parameters.

    :param path: path of the file; its suffix is the format
    :param study: study with at least one complete trial
    :param metric: name of the metric
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    history, shares = figure.subplots(1, 2)
    _draw_history(history, study, metric)
    _draw_importances(shares, importances(study))
    figure.suptitle(study.study_name)
    figure.savefig(path, dpi=120)


def _draw_history(axes: Axes, study: optuna.Study, metric: str) -> None:
    trials = finished_trials(study)
    styles = {TrialState.COMPLETE: ("complete", "o", "#0072B2"), TrialState.PRUNED: ("stopped early", "x", "#999999")}
    for state, (label, marker, colour) in styles.items():
        points = [(trial.number, trial.value) for trial in trials if trial.state == state]
        if points:
            axes.scatter(*zip(*points, strict=True), label=label, marker=marker, color=colour)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = np.maximum if study.direction == optuna.study.StudyDirection.MAXIMIZE else np.minimum
    so_far = best.accumulate(np.array([trial.value for trial in complete], dtype=float))
    axes.step([trial.number for trial in complete], so_far, where="post", label="best so far", color="#D55E00")
    axes.set(title="history", xlabel="trial", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)


def _draw_importances(axes: Axes, shares: Mapping[str, float]) -> None:
    axes.set(title="importance of the parameters (PED-ANOVA)")
    if not shares:
        text = f"needs at least {MIN_TRIALS_FOR_IMPORTANCE} complete trials\nwith different values"
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[name] for name in names], color="#0072B2")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.12)
    axes.set_xlabel("share")
