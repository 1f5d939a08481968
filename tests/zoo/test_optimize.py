"""``train --optimize`` and ``--trial-id``: the search of a sweep, described by the command line of a training."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from filelock import FileLock

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.zoo.common.hyperparameters import load_hyperparameters, schema_fields
from sb3_matrl.zoo.sweep import parse_options as parse_sweep
from sb3_matrl.zoo.sweeping.local import LocalSweep
from sb3_matrl.zoo.sweeping.optimize import checked_search, search_source, split_words
from sb3_matrl.zoo.sweeping.study import finished_trials, make_sampler, open_study, run_trials
from sb3_matrl.zoo.sweeping.sweep_file import read_sweep
from sb3_matrl.zoo.sweeping.trial_processes import trial_processes
from sb3_matrl.zoo.train import given_options, main, new_options, parse_options
from tests.zoo.sweeps import SWEEP, write_sweep

SMALL = [
    "--env",
    "matrix_game_v0",
    "--env-kwargs",
    "game:stag_hunt",
    "-n",
    "200",
    "--eval-freq",
    "100",
    "--eval-episodes",
    "2",
]
QUICK = ["--device", "cpu", "-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1"]
SPACE = {"learning_rate": {"values": [0.001, 0.01]}, "policy_kwargs.net_arch": {"values": [[4], [8, 8]]}}


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def space_file(folder: Path) -> str:
    return str(write_sweep(folder, "space", parameters=SPACE, method="random"))


# ---------------------------------------------------------------------- the search that is meant


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_every_algorithm_has_parameters_to_search_that_it_has_and_uses(algorithm: str) -> None:
    names = search_source(algorithm, None, ["--env", "checkers_v0"])["parameters"]
    assert len(names) >= 5 and {name.partition(".")[0] for name in names} <= set(schema_fields(algorithm))
    unused = {"ippo": ("br_", "payoff_"), "mappo": ("br_", "payoff_"), "matrl-no-br": ("br_",), "il-la": ("payoff_",)}
    assert not any(name.startswith(unused.get(algorithm, ("-",))) for name in names)


def test_hyper_parameters_of_the_command_line_are_not_searched() -> None:
    words = [*SMALL, "--optimize", "-params", "n_steps:25", "batch_size:25", "policy_kwargs.activation_fn:relu"]
    _, config, first = checked_search(words)
    searched = {parameter.name for parameter in config.searched}
    assert {"learning_rate", "policy_kwargs.net_arch"} <= searched and searched.isdisjoint({"n_steps", "batch_size"})
    assert first.hyperparams["n_steps"] == first.hyperparams["batch_size"] == 25
    assert "policy_kwargs.net_arch" not in search_source("matrl", None, [], ["policy_kwargs"])["parameters"]


def test_nothing_left_to_search_is_an_error() -> None:
    names = search_source("ippo", None, [])["parameters"]
    with pytest.raises(ValueError, match="nothing is left to search"):
        search_source("ippo", None, [], names)


def test_words_of_the_search_are_told_from_those_of_the_training() -> None:
    words = shlex.split(
        "--algo ippo -optimize --n-trials 3 -params a:1 'b:[1, 2]' --eval-freq -1 --n_jobs=2 --learning_rate=0.1"
    )
    search, rest = split_words(words)
    assert (search["n_trials"], search["n_jobs"]) == (3, 2)
    assert rest == [*"--algo ippo -params a:1".split(), "b:[1, 2]", "--eval-freq", "-1", "--hyperparams=learning_rate:0.1"]


@pytest.mark.e2e
def test_trials_are_the_training_with_other_values(tmp_path: Path) -> None:
    words = [*SMALL, *QUICK, "--optimize", "--sweep", space_file(tmp_path), "--n-trials", "4", "--seed", "7"]
    options, config, first = checked_search(words)
    assert (options.name, options.n_trials, options.seed) == ("matrl_matrix_game_v0", 4, 7)
    assert [parameter.name for parameter in config.parameters] == list(SPACE)
    plain = parse_options([*SMALL, *QUICK, "--seed", "0"])
    assert {**vars(first), "hyperparams": None} == {
        **vars(plain),
        **{"hyperparams": None, "verbose": 0, "log_interval": -2, "run_dir": None},
    }
    assert first.hyperparams == {**plain.hyperparams, "learning_rate": 0.001, "policy_kwargs.net_arch": [4]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n-trials", "3"], r"--n-trials needs --optimize\. See --help"),
        (["--study-name", "x"], "--study-name needs --optimize or --trial-id"),
        (["--optimize", "--resume", "x"], "--resume is for one training: leave it out, or --optimize"),
        (["--optimize", "--run-dir", "x"], "--run-dir is for one training"),
        (["--optimize", "--sampler", "tp"], "value 'tp' is unknown; did you mean 'tpe'"),
        (["--optimise"], "did you mean '--optimize'"),
        (["--optimize", "--sweep", "matrl_checker"], "did you mean 'matrl_checkers'"),
        (
            ["--optimize", *SMALL, "--sweep", "matrl_matrix_game", "-params", "learning_rate:0.1"],
            "learning_rate is given twice",
        ),
        (["--trial-id", "3"], "--trial-id needs --study-name"),
        (["--trial-id", "3", "--study-name", "x"], "there is no study x: .*study.db does not exist"),
        (["--resume", "x", "--trial-id", "3"], "--trial-id needs a new run"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- whole searches


def search(folder: Path, *words: str, code: int = 0) -> optuna.Study:
    given = [*SMALL, *QUICK, "--optimize", "--sweep", space_file(folder), "-f", str(folder / "logs"), *words]
    assert main(given) == code
    study = folder / "logs" / "sweeps" / "matrl_matrix_game_v0"
    return optuna.load_study(study_name="matrl_matrix_game_v0", storage=f"sqlite:///{study / 'study.db'}")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, optuna.Study]:
    folder = tmp_path_factory.mktemp("searched")
    return folder, search(folder, "--n-trials", "2")


def test_a_search_leaves_the_files_of_a_sweep_and_continues(searched: tuple[Path, optuna.Study]) -> None:
    folder, study = searched
    place = folder / "logs" / "sweeps" / "matrl_matrix_game_v0"
    assert {"best.yml", "trials.csv", "summary.json", "study.png"} <= {path.name for path in place.iterdir()}
    assert [trial.user_attrs["seed"] for trial in study.trials] == [1000, 1001]
    assert len(search(folder, "--n-trials", "2").trials) == 2


@pytest.mark.e2e
def test_a_trials_hyper_parameters_are_trained_with(searched: tuple[Path, optuna.Study], tmp_path: Path) -> None:
    folder, study = searched
    where = ["--trial-id", "1", "--study-name", study.study_name, "-f", str(folder / "logs")]
    options = new_options(given_options([*where, "-params", "n_epochs:2", "-n", "300"]))
    values = study.trials[1].user_attrs["values"]
    assert (options.env, options.env_kwargs, options.n_timesteps) == ("matrix_game_v0", {"game": "stag_hunt"}, 300)
    assert options.hyperparams == {"n_envs": 4, "n_steps": 25, "batch_size": 100, "n_epochs": 2, "br_n_epochs": 1, **values}
    run = tmp_path / "run"
    assert main([*where, "-n", "100", "--run-dir", str(run), "--verbose", "0", "--eval-episodes", "2"]) == 0
    trained = load_hyperparameters(run / "config.yml", "matrl", "matrix_game_v0")
    tried = load_hyperparameters(
        folder / "logs" / "sweeps" / study.study_name / "trials" / "trial_1" / "config.yml", "matrl", "matrix_game_v0"
    )
    assert {**trained.as_mapping(), "n_timesteps": 0} == {**tried.as_mapping(), "n_timesteps": 0}
    for words, message in ((["--trial-id", "9"], "trial '9' is unknown. Known: 0, 1"), (["--study-name", "x"], "no study x")):
        with pytest.raises(ValueError, match=message.replace(".", r"\.")):
            new_options(given_options([*where, *words]))


@pytest.mark.e2e
def test_a_trial_of_a_file_does_not_choose_which_code_runs(searched: tuple[Path, optuna.Study]) -> None:
    folder, study = searched
    other = optuna.create_study(study_name="evil", storage=f"sqlite:///{folder / 'evil.db'}")
    definition = {**study.user_attrs["sweep"], "command": [*SWEEP["command"][:3], "--env=os:getcwd", "${args}"]}  # type: ignore[index]
    other.set_user_attr("sweep", definition)
    other.add_trial(optuna.trial.create_trial(value=0.0, user_attrs={"values": study.trials[0].user_attrs["values"]}))
    where = ["--trial-id", "0", "--study-name", "evil", "--storage", f"sqlite:///{folder / 'evil.db'}"]
    with pytest.raises(ValueError, match=r"names the environment 'os:getcwd', whose code would run"):
        new_options(given_options(where))


@pytest.mark.expensive
def test_another_process_runs_trials_of_the_study(tmp_path: Path) -> None:
    given = [*SMALL, *QUICK, "--optimize", "--sweep", space_file(tmp_path), "-f", str(tmp_path / "logs")]
    options, config, first = checked_search([*given, "--n-trials", "2", "--n-jobs", "2"])
    study = LocalSweep(options, config, first).study
    with trial_processes(options, config) as others:
        while others.are_active():
            time.sleep(0.1)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert [trial.user_attrs["seed"] for trial in study.trials] == [1000, 1001]
    (process,) = {tuple(trial.user_attrs["process"]) for trial in study.trials}
    assert process[1] == others.processes[0].pid != os.getpid()
    # With other draws than those of the first process.
    samplers = [make_sampler(config, replace(options, worker=worker), 0) for worker in (0, 1)]
    draws = [sampler._rng.rng.randint(2**31 - 1) for sampler in samplers]  # type: ignore[attr-defined]
    assert draws[0] != draws[1]


@pytest.mark.parametrize(("n_jobs", "useful"), [(1000, 3), (2, 2)])
def test_no_more_processes_are_started_than_trials_are_left(tmp_path: Path, n_jobs: int, useful: int) -> None:
    given = [*SMALL, *QUICK, "--optimize", "--sweep", space_file(tmp_path), "-f", str(tmp_path / "logs")]
    options, config, first = checked_search([*given, "--n-trials", "4", "--n-jobs", str(n_jobs)])
    sweep = LocalSweep(options, config, first)
    sweep.study.add_trial(optuna.trial.create_trial(value=0.0))
    assert sweep._useful_jobs().n_jobs == useful


def test_no_trial_is_started_by_a_process_whose_parent_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, config, first = checked_search(
        [*SMALL, *QUICK, "--optimize", "--sweep", space_file(tmp_path), "-f", str(tmp_path / "logs"), "--n-trials", "3"]
    )
    sweep, parents = LocalSweep(options, config, first), iter([7, 7, 1])

    def objective(self: LocalSweep, trial: optuna.Trial) -> float:
        trial.set_user_attr("values", {})
        return 0.0

    monkeypatch.setattr(LocalSweep, "_objective", objective)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    assert sweep.run_beside() == 0 and len(sweep.study.trials) == 1


@pytest.mark.cases(e2e=["False"])
@pytest.mark.parametrize("fails", [False, True])
def test_trials_of_other_processes_are_waited_for_and_run_if_these_fail(tmp_path: Path, fails: bool) -> None:
    """Another process runs one of two trials, which ends well or with the process."""
    study = optuna.create_study()
    theirs = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    theirs.set_user_attr("process", [socket.gethostname(), os.getppid()])
    theirs.set_user_attr("values", {"x": 0.0})
    calls = []

    def others_work() -> bool:
        calls.append(len(finished_trials(study)))
        if len(calls) == 3 and not fails:
            study.tell(theirs, 1.0)
        if len(calls) == 3 and fails:
            theirs.set_user_attr("process", [socket.gethostname(), 2**22 + 1])  # is gone
        return len(calls) < 3 or not fails

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("values", {"x": trial.suggest_float("x", 0, 1)})
        return 0.0

    run_trials(study, objective, 2, FileLock(tmp_path / "turn"), others_work)
    assert len(finished_trials(study)) == 2 and len(study.trials) == 2 + fails and calls[:3] == [0, 1, 1]


@pytest.mark.expensive
def test_an_interrupt_ends_all_processes(tmp_path: Path) -> None:
    words = [*SMALL, *QUICK, "-n", "400000", "--optimize", "--sweep", space_file(tmp_path), "--n-trials", "4", "--n-jobs", "2"]
    command = [sys.executable, "zoo/train.py", *words, "-f", str(tmp_path / "logs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    trials = tmp_path / "logs" / "sweeps" / "matrl_matrix_game_v0" / "trials"
    while len(list(trials.glob("*/progress.csv"))) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode in (130, 143) and "the study is kept; continue it with: python zoo/train.py" in error
    study = optuna.load_study(study_name="matrl_matrix_game_v0", storage=f"sqlite:///{trials.parent / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"] and finished_trials(study) == []
    for trial in study.trials:
        with pytest.raises(ProcessLookupError):
            os.kill(trial.user_attrs["process"][1], 0)


# ---------------------------------------------------------------------- grids


@pytest.mark.cases(expensive=["seeds0"], rest="e2e")
@pytest.mark.parametrize("seeds", [("1", "1", "1"), ("1", "2", "3")])
def test_a_grid_that_is_continued_has_every_combination_once(tmp_path: Path, seeds: tuple[str, ...]) -> None:
    parameters = {"learning_rate": {"values": [0.1, 0.2, 0.3]}, "n_epochs": {"min": 1, "max": 3}}
    file = write_sweep(tmp_path, parameters=parameters, method="grid")
    config, seen = read_sweep(file), []

    def objective(trial: optuna.Trial) -> float:
        values: dict[str, Any] = {parameter.name: parameter.suggest(trial) for parameter in config.parameters}
        trial.set_user_attr("values", values)
        seen.append(tuple(values.values()))
        return 0.0

    for k, seed in enumerate(seeds):  # as in one process after the other, perhaps with another seed
        study = open_study(config, parse_sweep([str(file), "--seed", seed]), 1, f"sqlite:///{tmp_path / 'study.db'}")
        run_trials(study, objective, 3 * (k + 1), FileLock(tmp_path / "turn"))
    assert sorted(seen) == sorted(itertools.product([0.1, 0.2, 0.3], [1, 2, 3]))


def test_yaml_of_a_search_is_a_sweep_file(tmp_path: Path) -> None:
    source = search_source("qmix", None, ["--env", "checkers_v0", "-n", "1000"])
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(source))
    assert read_sweep(tmp_path / "sweep.yaml").command == ("--env", "checkers_v0", "-n", "1000", "${args}")
