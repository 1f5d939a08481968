"""The search of a suite's settings: what it writes is what the suite trains with, and it continues where it stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from benchmarks import tune_suite
from benchmarks.tune_suite import ABLATION_OF, SPACE, conf_text, task_record, trial_runs, tune
from sb3_matrl.zoo.benchmarking.suite_file import read_suite
from sb3_matrl.zoo.benchmarking.suite_plan import SuiteOptions, plan_suite
from sb3_matrl.zoo.common.hyperparameters import find_conf_file, load_hyperparameters
from sb3_matrl.zoo.common.yaml_files import read_yaml

TASKS = {task.name: task for task in read_suite("all")}
FOUND = {"learning_rate": 0.0123, "clip_range": 0.3, "ent_coef": 0.003}


@pytest.mark.parametrize("name", ["climbing", "random_common_payoff", "stag_hunt_grid", "checkers"])
@pytest.mark.parametrize("own", [False, True], ids=["as the method", "searched"])
def test_file_gives_the_trainings_of_the_search(name: str, own: bool, tmp_path: Path) -> None:
    task = TASKS[name]
    path = tmp_path / "task.yml"
    chosen = {"matrl": FOUND, "il-la": {**FOUND, "ent_coef": 0.1}, "matrl-optimistic": {**FOUND, "clip_range": 0.1}}
    if own:
        chosen["optimistic-br"] = {**FOUND, "br_learning_rate": 0.001}
    path.write_text(conf_text(task, chosen, trials=3))
    for method in task.methods:
        drawn = chosen.get(method.name) or chosen.get(ABLATION_OF.get(method.name, ""))
        if drawn is None:
            continue
        (run,) = trial_runs(task, method, drawn, [0], str(tmp_path))
        loaded = load_hyperparameters(path, method.algo, task.env)
        assert loaded.as_mapping() == run.hyperparameters.as_mapping()
        assert {key: loaded[key] for key in drawn} == drawn


def finished(rate: float, value: float) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(value=value, user_attrs={"settings": {"learning_rate": rate}, "scores": [value]})


def test_record_adds_up_the_searches_with_the_same_seeds() -> None:
    args, task = arguments(Path()), TASKS["chicken"]
    first = task_record(task, {"ippo": [finished(0.01, 0.6), finished(0.1, 0.2)], "matrl": [finished(0.1, 0.9)]}, {}, args)
    second = task_record(task, {"ippo": [finished(0.03, 0.5), finished(0.1, 0.3)]}, first, args)
    assert [one["value"] for one in second["methods"]["ippo"]["trials"]] == [0.6, 0.5, 0.3]
    assert second["methods"]["ippo"]["chosen"] == {"learning_rate": 0.01}
    assert second["methods"]["matrl"] == first["methods"]["matrl"]
    other = task_record(task, {"ippo": [finished(0.03, 0.5)]}, first, arguments(Path(), seeds=[101]))
    assert other["methods"].keys() == {"ippo"} and other["methods"]["ippo"]["chosen"] == {"learning_rate": 0.03}


def arguments(folder: Path, **changes: Any) -> argparse.Namespace:
    given = {"suite": "coordination", "methods": ["ippo"], "trials": 1, "seeds": [100], "out": folder, "grid": None}
    given["n_timesteps"] = None
    storage = f"sqlite:///{folder / 'study.db'}"
    return argparse.Namespace(**{**given, "storage": storage, "record": folder / "tuning.json", **changes})


@pytest.mark.e2e
def test_search_is_continued_and_the_best_trial_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def score(task: Any, run: Any) -> float:
        trained.append(run.seed)
        if len(trained) == 2:
            raise ValueError("diverged")
        return -abs(run.hyperparameters["learning_rate"] - 0.01) + (run.seed - 100)

    monkeypatch.setattr(tune_suite, "train", score)
    tune(TASKS["chicken"], arguments(tmp_path, seeds=[100, 101], trials=2))
    tune(TASKS["chicken"], arguments(tmp_path, seeds=[100, 101], trials=4))
    assert trained == [100, 101] * 4
    (record,) = json.loads((tmp_path / "tuning.json").read_text())["tasks"].values()
    trials = record["methods"]["ippo"]["trials"]
    assert len(trials) == 4 and sum(one["state"] == "fail" for one in trials) == 1
    best = max((one for one in trials if one["state"] == "complete"), key=lambda one: one["value"])
    assert record["methods"]["ippo"]["chosen"] == best["settings"]
    low, high = SPACE["learning_rate"]
    assert low <= best["settings"]["learning_rate"] <= high and best["settings"]["clip_range"] in SPACE["clip_range"]
    assert (
        load_hyperparameters(tmp_path / "chicken.yml", "ippo", "matrix_game_v0")["learning_rate"]
        == (best["settings"]["learning_rate"])
    )
    with pytest.raises(ValueError, match="was another search; give another --storage"):
        tune(TASKS["chicken"], arguments(tmp_path, seeds=[102]))

    (tmp_path / "short").mkdir()
    tune(TASKS["chicken"], arguments(tmp_path / "short", n_timesteps=500))
    (record,) = json.loads((tmp_path / "short" / "tuning.json").read_text())["tasks"].values()
    file = load_hyperparameters(tmp_path / "short" / "chicken.yml", "ippo", "matrix_game_v0")
    assert record["n_timesteps"] == 500 and file.n_timesteps == TASKS["chicken"].n_timesteps


@pytest.mark.e2e
def test_trial_trains_with_networks(tmp_path: Path) -> None:
    task = TASKS["stag_hunt"]
    (method,) = (one for one in task.methods if one.name == "matrl")
    (run,) = trial_runs(task, method, {**FOUND, "learning_rate": 0.03}, [100], str(tmp_path))
    # From half stag, half hare, bold steps reach one of both equilibria: mean welfare towards 1 or -1/3.
    score = tune_suite.train(task, run)
    assert -1 / 3 <= score <= 1.0 and not -0.1 < score < 0.5


@pytest.mark.parametrize("name", sorted(task.name for task in TASKS.values() if task.conf_file))
def test_suite_trains_with_the_settings_of_the_file(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    if not task.is_available:
        pytest.skip(f"{task.needs} is not installed")
    entry = read_yaml(find_conf_file("matrl", name))[task.env]
    (planned,) = plan_suite([task], SuiteOptions(str(tmp_path), (0,)))
    tuned = [run for run in planned.runs if run.setting in entry]
    assert {"ippo", "matrl"} <= {run.setting for run in tuned}
    for run in tuned:
        assert {key: run.hyperparameters[key] for key in entry[run.setting]} == entry[run.setting], run.setting
