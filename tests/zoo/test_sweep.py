import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
import yaml
from filelock import FileLock

from sb3_matrl import MATRL
from sb3_matrl.zoo.common.hyperparameters import load_hyperparameters
from sb3_matrl.zoo.sweep import main, parse_options
from sb3_matrl.zoo.sweeping.study import finished_trials, make_pruner, open_study, requeue_lost_trials, run_trials
from sb3_matrl.zoo.sweeping.study_results import importances
from sb3_matrl.zoo.sweeping.sweep_file import read_sweep
from sb3_matrl.zoo.train import main as train_main
from tests.zoo.sweeps import SWEEP, write_sweep

pytestmark = pytest.mark.e2e

GRID = {"learning_rate": {"values": [0.001, 0.1]}, "stats_window_size": {"min": 1, "max": 2}}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def search(tmp_path, *words, code=0, **changes):
    path = write_sweep(tmp_path, **changes)
    assert main([str(path), "-f", str(tmp_path / "logs"), *words]) == code
    return tmp_path / "logs" / "sweeps" / "small"


def load(folder, name="small"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'study.db'}")


def rows(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def options(tmp_path, *words):
    return parse_options([str(write_sweep(tmp_path)), *words])


# ---------------------------------------------------------------- a whole search


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Folder of a search of three trials, which is only read, and what was printed."""
    words = ["--n-trials", "3", "--comparison-seeds", "1", "--comparison-episodes", "5"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        folder = search(tmp_path_factory.mktemp("searched"), *words)
    return folder, printed.getvalue()


@pytest.fixture
def copied(searched, tmp_path):
    """The study of that search where :func:`search` finds it."""
    return shutil.copytree(searched[0], tmp_path / "logs" / "sweeps" / "small")


def test_search_leaves_table_picture_record_and_best_parameters(searched):
    folder, printed = searched
    table = rows(folder)
    assert [row["trial"] for row in table] == ["0", "1", "2"] and {row["state"] for row in table} == {"complete"}
    assert [row["seed"] for row in table] == ["1000", "1001", "1002"]
    assert {row["steps"] for row in table} == {"200"}
    for row in table:
        with np.load(folder / "trials" / f"trial_{row['trial']}" / "evaluations.npz") as evaluations:
            assert evaluations["timesteps"].tolist() == [100, 200]
            assert float(row["value"]) == pytest.approx(evaluations["results"][-1].mean())
        config = load_hyperparameters(folder / "trials" / f"trial_{row['trial']}" / "config.yml", "matrl", "matrix_game_v0")
        assert config["learning_rate"] == float(row["learning_rate"])
        assert str(config["policy_kwargs"]["net_arch"]) == row["policy_kwargs.net_arch"]
    best = max(table, key=lambda row: float(row["value"]))
    chosen = load_hyperparameters(folder / "best.yml", "matrl", "matrix_game_v0")
    assert chosen["learning_rate"] == float(best["learning_rate"]) and chosen["n_steps"] == 25
    assert chosen.n_timesteps == 300_000  # of the conf file, not of a trial
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / "summary.json").read_text())
    assert record["best"]["trial"] == int(best["trial"]) and len(record["trials"]) == 3
    assert record["comparison"]["seeds"] == [0] and len(record["comparison"]["default"]) == 1
    assert "3 trials: 3 complete, 0 stopped early, 0 failed" in printed and "best - default" in printed


@pytest.mark.expensive
def test_algorithms_are_searched_like_other_parameters(tmp_path):
    off = ["--buffer_size=400", "--learning_starts=40", "--batch_size=8", "--exploration_steps=50"]
    kept = ("${", "--env", "--n_timesteps", "--eval", "--device", "--n_envs")
    command = [word for word in SWEEP["command"] if word.startswith(kept)]
    parameters = {"algo": {"values": ["vdn", "qmix"]}, "gradient_steps": {"values": [1, 2]}}
    words = ["--n-trials", "4", "--comparison-seeds", "1", "--comparison-episodes", "2"]
    folder = search(tmp_path, *words, method="grid", command=[*command[:-1], *off, command[-1]], parameters=parameters)
    table = rows(folder)
    assert {(row["algo"], row["gradient_steps"]) for row in table} == {(a, g) for a in ("vdn", "qmix") for g in "12"}
    record = json.loads((folder / "summary.json").read_text())
    best = load_hyperparameters(folder / "best.yml", record["best"]["algo"], "matrix_game_v0")
    assert record["best"]["algo"] in ("vdn", "qmix") and best["exploration_fraction"] == pytest.approx(50 / 300_000)
    assert len(record["comparison"]["default"]) == 1


def test_best_file_trains(tmp_path, copied):
    folder = search(tmp_path, "--n-trials", "3", "--out", str(tmp_path / "tuned.yml"))
    words = [
        "--env",
        "matrix_game_v0",
        "--conf-file",
        str(tmp_path / "tuned.yml"),
        "-n",
        "100",
        "--seed",
        "0",
        "--verbose",
        "0",
    ]
    assert train_main([*words, "-f", str(tmp_path / "runs")]) == 0
    model = MATRL.load(tmp_path / "runs" / "matrl" / "matrix_game_v0_1" / "matrix_game_v0")
    assert model.arguments["learning_rate"] == load(folder).best_params["learning_rate"]


@pytest.mark.expensive
def test_same_seed_searches_alike_and_another_does_not(tmp_path, searched):
    values = [[(trial.params, trial.value) for trial in load(searched[0]).trials[:2]]]
    for name, seed in (("same", "1000"), ("other", "8")):
        search(tmp_path, "--n-trials", "2", "--seed", seed, "--study-name", name)
        study = load(tmp_path / "logs" / "sweeps" / name, name)
        values.append([(trial.params, trial.value) for trial in study.trials])
    assert values[0] == values[1] and values[0] != values[2]


def test_grid_tries_every_combination_once(tmp_path):
    folder = search(tmp_path, "--n-trials", "9", "-n", "100", method="grid", parameters=GRID, early_terminate=None)
    tried = sorted((float(row["learning_rate"]), int(row["stats_window_size"])) for row in rows(folder))
    assert tried == [(0.001, 1), (0.001, 2), (0.1, 1), (0.1, 2)]


def test_default_number_of_trials_is_the_run_cap(tmp_path):
    assert len(rows(search(tmp_path, "-n", "100", run_cap=1))) == 1


# ---------------------------------------------------------------- stopping and going on


def quick(trial):
    """An objective without a training."""
    trial.set_user_attr("values", {"learning_rate": trial.suggest_float("learning_rate", 0.001, 0.1, log=True)})
    return trial.params["learning_rate"]


def test_search_continues_up_to_the_total_and_draws_new_values(tmp_path, copied):
    first = [trial.params for trial in load(copied).trials]
    folder = search(tmp_path, "--n-trials", "4")
    trials = load(folder).trials
    assert [trial.params for trial in trials[:3]] == first and len(trials) == 4
    assert len({trial.params["learning_rate"] for trial in trials}) == 4
    search(tmp_path, "--n-trials", "4")
    assert len(load(folder).trials) == 4


def test_other_sweep_of_the_same_name_is_refused(tmp_path, copied, capsys):
    with pytest.raises(SystemExit) as stop:
        search(tmp_path, "--n-trials", "2", "-n", "400")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(
        r"has other command \(--n_timesteps=\d+ there, --n_timesteps=400 here\); choose another --study-name", error
    )


def test_folder_of_another_study_is_not_overwritten(tmp_path, copied, capsys):
    with pytest.raises(SystemExit):
        search(tmp_path, "--n-trials", "1", "--storage", f"sqlite:///{tmp_path / 'new.db'}")
    assert "has trials of a study that is not in" in capsys.readouterr().err


def start(tmp_path, *words):
    path = write_sweep(tmp_path, command=[word.replace("=200", "=1000000") for word in SWEEP["command"]])
    command = [sys.executable, "zoo/sweep.py", str(path), "-f", str(tmp_path / "logs"), "--n-trials", "2", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    evaluations = tmp_path / "logs" / "sweeps" / "small" / "trials" / "trial_0" / "evaluations.npz"
    while not evaluations.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    return process, tmp_path / "logs" / "sweeps" / "small"


@pytest.mark.e2e
def test_killed_trial_is_failed_and_its_place_run_again(tmp_path):
    process, folder = start(tmp_path)
    process.kill()
    process.communicate()
    study = load(folder)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    assert requeue_lost_trials(study) == [0] and requeue_lost_trials(study) == []
    run_trials(study, quick, 2, FileLock(tmp_path / "turn"))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params["learning_rate"] == study.trials[0].params["learning_rate"]
    assert study.trials[1].user_attrs["retry_of"] == 0


@pytest.mark.e2e
def test_interrupt_keeps_the_study_and_says_how_to_go_on(tmp_path):
    process, folder = start(tmp_path)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130
    assert f"continue it with: python zoo/sweep.py {tmp_path / 'small.yaml'}" in error and "Traceback" not in error
    study = load(folder)
    assert [trial.state.name for trial in study.trials] == ["FAIL"] and finished_trials(study) == []
    assert requeue_lost_trials(study) == [0]


def test_trial_of_a_living_process_is_left_alone(tmp_path):
    study = optuna.create_study()
    study.ask().set_user_attr("process", [socket.gethostname(), os.getppid()])
    study.ask().set_user_attr("process", ["another-machine", 1])
    assert requeue_lost_trials(study) == []
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "RUNNING"]
    # The first one's place is taken, so that two processes do not do one trial too many.
    run_trials(study, quick, 2, FileLock(tmp_path / "turn"))
    assert len(finished_trials(study)) == 1


def test_full_disk_keeps_the_study_and_ends_with_one_line(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "trials.csv")

    monkeypatch.setattr("sb3_matrl.zoo.sweeping.local.write_csv", full)
    folder = search(tmp_path, "--n-trials", "1", code=1)
    error = capsys.readouterr().err
    assert "error: [Errno 28] No space left on device: 'trials.csv'; the study is kept" in error
    assert len(finished_trials(load(folder))) == 1


# ---------------------------------------------------------------- failures and pruning


def test_trial_that_fails_says_why_and_does_not_stop_the_others(tmp_path, capsys):
    # Such a learning rate makes the policies NaN.
    parameters = {"learning_rate": {"values": [0.001, 1e30]}, "max_grad_norm": {"value": 1e30}}
    folder = search(tmp_path, method="grid", parameters=parameters)
    by_rate = {float(row["learning_rate"]): row for row in rows(folder)}
    assert by_rate[1e30]["state"] == "fail"
    assert by_rate[1e30]["error"].startswith("NonFiniteError: ") and by_rate[0.001]["state"] == "complete"
    assert "2 trials: 1 complete, 0 stopped early, 1 failed" in capsys.readouterr().out


def test_search_without_a_complete_trial_fails(tmp_path, capsys):
    parameters = {"learning_rate": {"values": [1e29, 1e30]}, "max_grad_norm": {"value": 1e30}}
    folder = search(tmp_path, code=1, method="grid", parameters=parameters)
    told = capsys.readouterr()
    assert "no trial was complete" in told.err and not (folder / "best.yml").exists()
    assert "2 failed." in told.out and "best complete" not in told.out


def simulate(pruner, curves):
    """Number of evaluations that each curve gets to see."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    lengths = []
    for curve in curves:
        trial = study.ask()
        for step, value in enumerate(curve, start=1):
            trial.report(value, step)
            if trial.should_prune():
                break
        lengths.append(step)
        whole = step == len(curve)
        study.tell(trial, curve[-1] if whole else None, state=None if whole else optuna.trial.TrialState.PRUNED)
    return lengths


def hyperband_by_hand(curves, brackets, eta):
    """W&B's rule: at each bracket, a run goes on if it is in the best 1/eta of those that came as far, itself included."""
    seen, lengths = {bracket: [] for bracket in brackets}, []
    for curve in curves:
        length = len(curve)
        for bracket in brackets:
            seen[bracket].append(curve[bracket - 1])
            better = sum(other > curve[bracket - 1] for other in seen[bracket])
            if better >= max(len(seen[bracket]) // eta, 1):
                length = bracket
                break
        lengths.append(length)
    return lengths


def test_early_terminate_prunes_as_wandbs_hyperband(tmp_path):
    config = read_sweep(write_sweep(tmp_path, early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2}))
    curves = np.random.default_rng(0).normal(size=(40, 9)).cumsum(axis=1)
    lengths = simulate(make_pruner(config, options(tmp_path), 9), curves)
    assert lengths == hyperband_by_hand(curves, brackets=[2, 4, 8], eta=2)
    assert {2, 4, 8, 9} == set(lengths)


def test_median_prunes_below_the_median_from_a_third_on(tmp_path):
    pruner = make_pruner(
        read_sweep(write_sweep(tmp_path)), options(tmp_path, "--pruner", "median", "--n-startup-trials", "3"), 6
    )
    good, bad = [5.0] * 6, [1.0] * 6
    assert simulate(pruner, [good, bad, good, bad, good]) == [6, 6, 6, 2, 6]


def test_no_early_terminate_never_prunes(tmp_path):
    pruner = make_pruner(read_sweep(write_sweep(tmp_path)), options(tmp_path), 3)
    assert simulate(pruner, [[3.0] * 3, [2.0] * 3, [1.0] * 3]) == [3, 3, 3]


def test_pruned_training_ends_at_that_evaluation(tmp_path):
    # With eta 1000, only a trial that is better than all others goes on.
    stopping = {"type": "hyperband", "min_iter": 1, "eta": 1000}
    folder = search(tmp_path, "--n-trials", "4", early_terminate=stopping)
    table = rows(folder)
    pruned = [row for row in table if row["state"] == "pruned"]
    assert pruned and {row["steps"] for row in pruned} == {"100"}
    for row in pruned:
        with np.load(folder / "trials" / f"trial_{row['trial']}" / "evaluations.npz") as evaluations:
            assert evaluations["timesteps"].tolist() == [100]


# ---------------------------------------------------------------- results


def test_importance_finds_the_parameter_that_matters():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + 0 * trial.suggest_float("y", 0, 1), n_trials=40)
    shares = importances(study)
    assert shares["x"] > 0.8 and sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [1.0] * 5])
def test_importance_needs_trials_that_differ(values):
    study = optuna.create_study()
    for value in values:
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, value)
    assert importances(study) == {}


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "3"], "flag --trials is unknown; did you mean '--n-trials'"),
        (["--n-trials", "0"], "expected a whole number of at least 1, got '0'"),
        (["--sampler", "cmaes"], "value 'cmaes' is unknown. Known: tpe, random, grid"),
        (["--storage", "nowhere"], "storage nowhere cannot be used"),
        (["--sampler", "grid"], "parameter learning_rate: a grid needs values"),
        (["--seed", "2", "--comparison-seeds", "3"], "give a --seed of at least 3"),
        (["--eval-freq", "10", "--n-evaluations", "2"], "not allowed with argument"),
    ],
)
def test_wrong_flags_end_with_one_line(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        search(tmp_path, *words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_wrong_parameter_ends_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        search(tmp_path, parameters={"learning_rte": {"min": 0.1, "max": 0.2}})
    assert "small.yaml: parameter learning_rte = 0.1: flag --learning_rte is unknown; did you mean" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_best_file_is_yaml_keyed_by_environment(searched):
    assert list(yaml.safe_load((searched[0] / "best.yml").read_text())) == ["matrix_game_v0"]


def test_open_study_is_the_stored_one(tmp_path):
    config, storage = read_sweep(write_sweep(tmp_path)), f"sqlite:///{tmp_path / 'study.db'}"
    open_study(config, options(tmp_path), 2, storage).ask()
    assert len(open_study(config, options(tmp_path), 2, storage).trials) == 1


@pytest.mark.parametrize("flag", ["--out", "--summary"])
def test_folder_in_place_of_a_file_is_told_before_the_first_trial(tmp_path, flag):
    with pytest.raises(ValueError, match=f"{flag} .* is a folder; give a file"):
        parse_options(["matrl_checkers", flag, str(tmp_path)])
