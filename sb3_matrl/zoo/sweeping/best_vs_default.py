"""Comparison of the best trial with the conf file: both are trained again, with seeds that no trial had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from sb3_matrl.evaluation import mean_confidence_interval
from sb3_matrl.zoo.sweeping.objective import metric_of
from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
from sb3_matrl.zoo.sweeping.trial import CHOICES, train, trial_options


@dataclass(frozen=True)
class Comparison:
    """
    Final values of the metric, seed by seed.

    :param seeds: seeds of the trainings
    :param episodes: episodes of each final evaluation
    :param best: values with the best trial's parameters, in the order of the seeds
    :param default: values with the parameters of the conf file
    """

    seeds: tuple[int, ...]
    episodes: int
    best: tuple[float, ...]
    default: tuple[float, ...]

    def rows(self) -> dict[str, dict[str, Any]]:
        """The values, their mean and its 95 % Student interval, for both settings and their difference."""
        values = {"best": np.array(self.best), "default": np.array(self.default)}
        values["best - default"] = values["best"] - values["default"]
        return {
            name: {"values": array.tolist(), "mean": float(array.mean()), "ci95": mean_confidence_interval(array)}
            for name, array in values.items()
        }


def compare(config: SweepConfig, values: Mapping[str, Any], seeds: Sequence[int], episodes: int) -> Comparison:
    """
    Train with the best trial's parameters and with those of the conf file, for as long as a trial; evaluate at the end. Both
    have the best trial's algorithm.

    :param config: the sweep
    :param values: parameters of the best trial; ``seed`` is replaced
    :param seeds: seeds of the trainings
    :param episodes: episodes of each final evaluation
    :raises KeyboardInterrupt: after Ctrl-C or SIGTERM
    """
    constants = {parameter.name: parameter.values[0] for parameter in config.parameters if parameter.is_constant}
    chosen = {name: values[name] for name in CHOICES if name in values}
    settings = {"best": {**values}, "default": {**constants, **chosen}}
    results: dict[str, list[float]] = {name: [] for name in settings}
    tasks = [(name, seed) for seed in seeds for name in settings]
    for name, seed in tqdm(tasks, unit="run", desc="comparison"):
        with TemporaryDirectory() as folder:
            options = trial_options(config, settings[name], seed, Path(folder))
            options = replace(options, seed=seed, eval_freq=-1, eval_episodes=episodes)
            evaluation = train(options, config.words(settings[name]))
        results[name].append(metric_of(evaluation.sampled[-1], evaluation.greedy[-1], config.metric))
    return Comparison(tuple(seeds), episodes, tuple(results["best"]), tuple(results["default"]))


def comparison_table(comparison: Comparison, metric: str) -> str:
    """One line per setting, and one for their difference."""
    seeds = ", ".join(map(str, comparison.seeds))
    lines = [f"{metric} after retraining with seeds {seeds}, {comparison.episodes} episodes each:"]
    lines.append(f"{'':<16}{'mean':>9}  {'95 % interval':<20}{'per seed'}")
    for name, row in comparison.rows().items():
        low, high = row["ci95"]
        interval = f"[{low:.2f}, {high:.2f}]" if len(row["values"]) > 1 else "-"
        per_seed = "  ".join(f"{value:.2f}" for value in row["values"])
        lines.append(f"{name:<16}{row['mean']:>9.2f}  {interval:<20}{per_seed}")
    return "\n".join(lines)
