"""``train.py --resume``: a run that was stopped ends as if it had never stopped."""

import signal

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.kill_test import Case, differences, run_reference, trial
from tests.evaluation.worlds import InterruptsItself
from zoo.runs import RunFolder
from zoo.train import main

WORLD = "tests.evaluation.worlds:InterruptsItself"
SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[4]"]
QUICK = ["--eval-freq", "200", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "3"]


def train(folder, *words):
    return main(["--run-dir", str(folder), *QUICK, *SMALL, *words])


def test_killed_process_is_resumed_bit_for_bit(tmp_path):
    case = Case("checkers_v0", "batched", 1000)
    seconds = run_reference(case, RunFolder(tmp_path / "whole", case.env))
    task = {**vars(case), "signal": "kill", "delay": 0.3 * seconds, "reference": str(tmp_path / "whole")}
    result = trial(task)
    assert (result["exit_code"], result["differences"]) == (-signal.SIGKILL, [])


@pytest.mark.parametrize("words", [["--save-freq", "100"], ["--log-interval", "-2"]])
def test_longer_training_is_the_one_that_was_longer_from_the_start(tmp_path, words):
    env = "matrix_game_v0"
    assert train(tmp_path / "whole", "--env", env, "-n", "600", *words) == 0
    assert train(tmp_path / "run", "--env", env, "-n", "400", *words) == 0
    assert main(["--resume", str(tmp_path / "run"), "-n", "600"]) == 0
    run = RunFolder(tmp_path / "run", env)
    assert differences(run, RunFolder(tmp_path / "whole", env)) == []
    assert yaml.safe_load(run.arguments.read_text())["n_timesteps"] == 600
    assert len(run.command.read_text().splitlines()) == 2
    events = EventAccumulator(str(run.path)).Reload()
    assert [event.step for event in events.Scalars("eval/mean_reward")][-1] == 600


def test_interrupted_run_goes_on(tmp_path, monkeypatch):
    for name, interrupted_at in (("whole", 10**9), ("run", 0)):
        monkeypatch.setattr(InterruptsItself, "steps", -interrupted_at)
        code = train(tmp_path / name, "--env", "tests.evaluation.worlds:InterruptsItself", "-n", "300")
        assert code == (0 if name == "whole" else 130)
    assert not RunFolder(tmp_path / "run", WORLD).is_finished
    assert main(["--resume", str(tmp_path / "run")]) == 0
    folder = RunFolder(tmp_path / "run", WORLD)
    assert folder.is_finished and folder.checkpoint_steps()[-1] == 300


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(folder, "--env", "matrix_game_v0", "-n", "100") == 0
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "is finished: it has trained for 100 steps; to go on, ask for more with -n"),
        (["-n", "50"], "ask for more with -n"),
        (["-n", "300", "--algo", "ippo"], "these cannot change: --algo ippo (the run has matrl)"),
        (["-n", "300", "--seed", "4", "--override"], "these cannot change: --seed 4 (the run has 3)"),
        (["-n", "300", "-params", "gamma:0.5"], "--hyperparams {'gamma': 0.5} (the run has {'gamma': 0.99})"),
        (["-n", "300", "--eval-freq", "7"], "--eval-freq 7 (the run has 200). Add --override to change it"),
    ],
)
def test_what_cannot_go_on_is_told_and_changes_nothing(finished, capsys, words, message):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as exit_info:
        main(["--resume", str(finished), *words])
    assert exit_info.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("error: ") and errors.count("\n") == 1
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_folder_that_is_no_run_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--resume", str(tmp_path)])
    assert "has no args.yml: it is no run of train.py" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--override"])
    assert "--override belongs to --resume" in capsys.readouterr().err
