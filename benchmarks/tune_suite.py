"""
Search of settings for the tasks of a suite, the same for all methods: zoo/hyperparams gets a file for every task.

    python -m benchmarks.tune_suite --suite coordination --tasks chicken climbing --trials 12

Optuna's TPE searches learning rate, clip range and entropy coefficient; all else is that of the suite, with as many gradient
steps for every method. The first trials of all methods have the same values. --grid "learning_rate: [0.001, lin_0.003]"
tries these values instead, each once; lin_0.003 falls from 0.003 to 0. A trial trains with every --seeds, which must not be
among those of reported results, and its value is the mean score of the suite. Finished trials are kept in --storage: the
same command continues a search that was stopped, and more --trials extend it. The record adds up the trials of several
searches with the same seeds and steps; the best of all is chosen.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from benchmarks import suite_runs
from benchmarks.shared import write_record
from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.benchmarking.plan import PlannedRun, Setting
from sb3_matrl.zoo.benchmarking.suite_file import NASH_CONV, SuiteTask, choose_tasks, read_suite
from sb3_matrl.zoo.benchmarking.suite_plan import SuiteOptions, runs_of_task, task_benchmark
from sb3_matrl.zoo.benchmarking.suite_scores import run_scores
from sb3_matrl.zoo.common.hyperparameters import HYPERPARAMS_FOLDER, apply_overrides, find_conf_file
from sb3_matrl.zoo.common.names import resolve_schedule
from sb3_matrl.zoo.common.yaml_files import parse_yaml, read_yaml
from sb3_matrl.zoo.sweeping.trial import DIVERGED

FIRST_SEED = 100
# Ablations have the settings of the method of which they are one, unless --methods names them.
ABLATION_OF = {
    **dict.fromkeys(("matrl-no-br", "matrl, step"), "matrl"),
    **dict.fromkeys(("optimistic-br", "optimistic"), "matrl-optimistic"),
}
SPACE = {"learning_rate": [3e-4, 3e-1], "clip_range": [0.1, 0.2, 0.3, 10.0], "ent_coef": [0.0, 0.003, 0.01, 0.03, 0.1]}
EVALUATION_EPISODES = 50
STARTUP_TRIALS = 6


# Values of a grid by name: numbers, and schedules such as lin_0.003.
Value = float | str
Grid = dict[str, list[Value]]


def suggest(trial: optuna.Trial, grid: Grid | None = None) -> dict[str, Value]:
    """Draw the settings of a trial."""
    if grid is not None:
        return {name: _value(trial.suggest_categorical(name, values)) for name, values in grid.items()}
    low, high = SPACE["learning_rate"]
    rate = trial.suggest_float("learning_rate", low, high, log=True)
    drawn = {name: float(trial.suggest_categorical(name, SPACE[name])) for name in ("clip_range", "ent_coef")}
    return {"learning_rate": float(f"{rate:.3g}"), **drawn}


def _value(given: Any) -> Value:
    """A number, or a schedule by its name, as hyper-parameter files have them."""
    try:
        return float(given)
    except ValueError:
        resolve_schedule(given)
        return str(given)


def read_grid(text: str) -> Grid:
    """
    :param text: ``name: [value, ...]`` as YAML, for one hyper-parameter or, in braces, several
    :raises argparse.ArgumentTypeError: if it is something else
    """
    try:
        content = parse_yaml(text)
        return {str(name): [_value(value) for value in values] for name, values in content.items()}
    except (AttributeError, TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"expected 'name: [value, ...]' as YAML, got {text!r}") from None


def trial_runs(
    task: SuiteTask, method: Setting, drawn: Mapping[str, Value], seeds: Sequence[int], out: str
) -> list[PlannedRun]:
    """Trainings of a trial: the suite's, with the drawn settings in place of tuned ones."""
    options = SuiteOptions(out, tuple(seeds), eval_episodes=EVALUATION_EPISODES, device="cpu")
    whole = task_benchmark(task, options, conf_file=None)
    return runs_of_task(task, replace(whole, settings=(replace(method, changes={**method.changes, **drawn}),)))


def train(task: SuiteTask, run: PlannedRun) -> float:
    """Train once and return the score of the run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = suite_runs.train(suite_runs.training_of(task, run, EVALUATION_EPISODES))
    return run_scores(task, suite_runs.result_of(run, found))[0]


def objective(task: SuiteTask, method: Setting, args: argparse.Namespace, trial: optuna.Trial) -> float:
    """Mean score over the seeds."""
    drawn, start = suggest(trial, args.grid), time.perf_counter()
    trial.set_user_attr("settings", drawn)
    scores = [train(task, run) for run in trial_runs(task, method, drawn, args.seeds, "tune_suite")]
    trial.set_user_attr("scores", scores)
    trial.set_user_attr("seconds", round(time.perf_counter() - start, 1))
    return float(np.mean(scores))


def _sampler(done: int, grid: Grid | None) -> optuna.samplers.BaseSampler:
    """The same one for all methods."""
    seed = int(np.random.SeedSequence([FIRST_SEED, done]).generate_state(1)[0])
    if grid is not None:
        return optuna.samplers.GridSampler(grid, seed=FIRST_SEED)
    return optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)


def search(task: SuiteTask, method: Setting, args: argparse.Namespace) -> list[FrozenTrial]:
    """Run trials until the study has ``args.trials`` finished ones; diverged trainings count."""
    name = f"{task.name}/{method.name}"
    direction = StudyDirection.MINIMIZE if task.score == NASH_CONV else StudyDirection.MAXIMIZE
    study = optuna.create_study(study_name=name, storage=args.storage, direction=direction, load_if_exists=True)
    used = {"seeds": list(args.seeds), "space": args.grid or SPACE, "n_timesteps": task.n_timesteps}
    used["hyperparams"] = dict(task.hyperparams)
    if study.user_attrs.get("search", used) != used:
        raise ValueError(f"study {name} in {args.storage} was another search; give another --storage")
    study.set_user_attr("search", used)
    while (done := len(finished(study))) < args.trials:
        study.sampler = _sampler(done, args.grid)
        study.optimize(lambda trial: objective(task, method, args, trial), n_trials=1, catch=DIVERGED)
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        raise ValueError(f"study {name}: all {args.trials} trials diverged; change the space, or give more --trials")
    best = study.best_trial
    print(f"{name}: {best.value:.3f} of {[round(one, 3) for one in best.user_attrs['scores']]}, {best.user_attrs['settings']}")
    return finished(study)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended, with a value or with an error."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.FAIL])


def best_of(task: SuiteTask, trials: Sequence[Mapping[str, Any]]) -> dict[str, Value]:
    """
    Settings of the best trial.

    :param task: the task
    :param trials: trials as the record has them
    """
    sign = -1.0 if task.score == NASH_CONV else 1.0
    scored = [trial for trial in trials if trial["value"] is not None]
    best: dict[str, Value] = max(scored, key=lambda trial: sign * trial["value"])["settings"]
    return best


def conf_text(task: SuiteTask, chosen: Mapping[str, Mapping[str, Value]], trials: int) -> str:
    """
    A file of hyper-parameters for the task's environment.

    :param task: the task
    :param chosen: method -> settings that the search found
    :param trials: trials of each method
    """
    shipped = read_yaml(find_conf_file(task.reference, None))
    entry = {k: v for k, v in shipped.get(task.env, shipped["default"]).items() if k not in algorithm_names()}
    own = {"n_timesteps": task.n_timesteps, "env_kwargs": task.options_of_seed(0)}
    entry = apply_overrides({**entry, **own}, task.hyperparams)
    for method in task.methods:
        found = chosen.get(method.name, chosen.get(ABLATION_OF.get(method.name, "")))
        if found is not None and method.name == method.algo:
            entry[method.name] = {**method.changes, **found}
    lines = [
        f"# Tuned for the task {task.name} of the benchmark suites: {task.title}.",
        f"# {trials} trials of each method by python -m benchmarks.tune_suite, record in benchmarks/results/tuning.json.",
        f"# train.py --env {task.env} --conf-file {task.name}",
    ]
    return "\n".join(lines) + "\n\n" + yaml.safe_dump({task.env: entry}, sort_keys=False, default_flow_style=None, width=120)


def task_record(
    task: SuiteTask, found: Mapping[str, Sequence[FrozenTrial]], earlier: Mapping[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """
    What the record keeps of a task's searches.

    :param task: the task
    :param found: method -> trials of this search
    :param earlier: the task's record so far; trials of other searches with the same seeds and steps stay in it
    :param args: arguments of the command line
    """
    used = {"score": task.score, "seeds": args.seeds, "n_timesteps": task.n_timesteps}
    kept = earlier.get("methods", {}) if all(earlier.get(name) == value for name, value in used.items()) else {}
    methods = dict(kept)
    for method, trials in found.items():
        new = [{"value": one.value, "state": one.state.name.lower(), **one.user_attrs} for one in trials]
        settings = [one["settings"] for one in new]
        both = [*(one for one in kept.get(method, {}).get("trials", []) if one["settings"] not in settings), *new]
        methods[method] = {"chosen": best_of(task, both), "trials": both}
    return {**used, "methods": methods}


def tune(task: SuiteTask, args: argparse.Namespace) -> None:
    """Search for some methods of a task, then write the task's file and the record."""
    named = args.methods or [name for name in task.settings if name not in ABLATION_OF]
    methods = [one for one in task.methods if one.name in named]
    trained = replace(task, n_timesteps=args.n_timesteps or task.n_timesteps)
    found = {method.name: search(trained, method, args) for method in methods}
    earlier = json.loads(args.record.read_text(encoding="utf-8"))["tasks"] if args.record.exists() else {}
    record = task_record(trained, found, earlier.get(task.name, {}), args)
    write_record(args.record, {"tasks": {**earlier, task.name: record}})
    chosen = {method: one["chosen"] for method, one in record["methods"].items()}
    with atomic_file(args.out / f"{task.name}.yml") as file:
        file.write(conf_text(task, chosen, max(len(one["trials"]) for one in record["methods"].values())).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--tasks", nargs="+", help="default: all of the suite")
    parser.add_argument("--methods", nargs="+", help="default: all that are no ablations")
    parser.add_argument("--trials", type=int, default=12, help="finished trials of each method and task")
    parser.add_argument(
        "--grid", type=read_grid, help="values to try instead of Optuna's, such as 'learning_rate: [0.01, 0.1]'"
    )
    parser.add_argument("-n", "--n-timesteps", type=int, help="steps of a training in the search; default: the task's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[FIRST_SEED, FIRST_SEED + 1], help="seeds of each trial")
    parser.add_argument("--storage", default="sqlite:///logs/tune_suite.db", help="data base of the trials")
    parser.add_argument("--record", type=Path, default=Path("benchmarks/results/tuning.json"))
    parser.add_argument("--out", type=Path, default=HYPERPARAMS_FOLDER, help="folder of the tasks' files")
    args = parser.parse_args()
    if min(args.seeds) < FIRST_SEED:
        parser.error(f"--seeds must be at least {FIRST_SEED}: smaller ones are those of reported results")
    if args.grid is not None:
        args.trials = math.prod(map(len, args.grid.values()))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    Path("logs").mkdir(exist_ok=True)
    for task in choose_tasks(read_suite(args.suite), args.tasks):
        if task.is_available:
            tune(task, args)


if __name__ == "__main__":
    main()
