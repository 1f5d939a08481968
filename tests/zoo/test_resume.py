"""``train.py --resume``: a run that was stopped ends as if it had never stopped."""

import os
import pkgutil
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.kill_test import Case, differences, run_reference, trial
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.files.model_files import read_model
from sb3_matrl.zoo.common.locking import locked_folder
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.train import main
from tests.evaluation.worlds import InterruptsItself

pytestmark = pytest.mark.e2e

WORLD = "tests.evaluation.worlds:InterruptsItself"
SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[4]"]
QUICK = ["--eval-freq", "200", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "3"]


def train(folder, *words):
    return main(["--run-dir", str(folder), *QUICK, *SMALL, *words])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 400 steps that was never stopped, which is only read."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, "--env", "checkers_v0", "-n", "400") == 0
    return RunFolder(folder, "checkers_v0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(folder, "--env", "matrix_game_v0", "-n", "100") == 0
    return folder


@pytest.mark.e2e
def test_killed_process_is_resumed_bit_for_bit(tmp_path):
    case = Case("checkers_v0", "batched", 1000)
    seconds = run_reference(case, RunFolder(tmp_path / "whole", case.env))
    task = {**vars(case), "signal": "kill", "delay": 0.3 * seconds, "reference": str(tmp_path / "whole")}
    result = trial(task)
    assert (result["exit_code"], result["differences"]) == (-signal.SIGKILL, [])


@pytest.mark.cases(expensive=["words0"], rest="e2e")
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
    assert main(["--resume", str(tmp_path / "run"), "--env", WORLD]) == 0
    folder = RunFolder(tmp_path / "run", WORLD)
    assert folder.is_finished and folder.checkpoint_steps()[-1] == 300


@pytest.mark.parametrize("at_evaluation", [1, 4])  # sampled at 200 steps, greedy at the end
def test_evaluation_that_was_interrupted_is_repeated(tmp_path, whole, monkeypatch, capsys, at_evaluation):
    words, evaluations = ["--env", "checkers_v0", "-n", "400"], []

    def interrupted(model, env, n_eval_episodes, deterministic, seed, callback, max_episode_steps):
        evaluations.append(model.num_timesteps)

        def at_every_step(*seen):
            if len(evaluations) == at_evaluation:
                signal.raise_signal(signal.SIGTERM)
            callback(*seen)

        return evaluate_policy(model, env, n_eval_episodes, deterministic, seed, at_every_step, max_episode_steps)

    monkeypatch.setattr("sb3_matrl.evaluation.eval_callback.evaluate_policy", interrupted)
    assert train(tmp_path / "run", *words) == 143
    steps = evaluations[-1]
    assert steps == 100 * at_evaluation if at_evaluation == 4 else 200
    assert len(evaluations) == at_evaluation
    assert f"SIGTERM after {steps} steps: the model is saved" in capsys.readouterr().err
    run = RunFolder(tmp_path / "run", "checkers_v0")
    assert not run.is_finished and run.checkpoint_steps() == [steps]
    assert main(["--resume", str(run.path)]) == 0
    assert differences(run, whole) == []


@pytest.mark.cases(e2e=["update"], rest="expensive")
@pytest.mark.parametrize("moment", ["summary", "update"])
def test_signal_at_other_moments_costs_nothing(tmp_path, whole, monkeypatch, moment):
    words, target = ["--env", "checkers_v0", "-n", "400"], "sb3_matrl.zoo.training.training_run.summary"
    with monkeypatch.context() as patch:
        if moment == "update":
            target = "sb3_matrl.matrl.coordinator.MATRLCoordinator.update"
        original = pkgutil.resolve_name(target)

        def interrupt(*arguments, **options):
            signal.raise_signal(signal.SIGINT)
            return original(*arguments, **options)

        patch.setattr(target, interrupt)
        assert train(tmp_path / "run", *words) == 130
    run = RunFolder(tmp_path / "run", "checkers_v0")
    assert run.checkpoint_steps() == [0 if moment == "update" else 400]
    assert main(["--resume", str(run.path)]) == 0
    assert differences(run, whole) == []


# A process of its own that holds the lock, and one that it has left behind.
HOLD = """
import multiprocessing, os, sys, time
from pathlib import Path
from sb3_matrl.zoo.common.locking import locked_folder
with locked_folder(Path(sys.argv[1]), "is in use"):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,)).start()
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_run_that_another_process_trains_is_refused_until_that_is_gone(tmp_path, finished, capsys):
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "args.yml").stat().st_mtime_ns
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    pid = holder.stdout.readline().strip()
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(["--resume", str(tmp_path / "run"), "-n", "200"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'run'} is in use by another training (process {pid})\n"
    assert (tmp_path / "run" / "args.yml").stat().st_mtime_ns == before
    holder.kill()
    holder.wait()
    assert main(["--resume", str(tmp_path / "run"), "-n", "200"]) == 0
    with locked_folder(tmp_path / "run", "is in use"):  # and it is free again
        assert (tmp_path / "run" / ".lock").read_text() == f"\n{os.getpid()}"


def test_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path, capsys):
    words = ["--env", "matrix_game_v0", "-n", "400", "--save-freq", "100"]
    assert train(tmp_path / "whole", *words) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    run = RunFolder(tmp_path / "run", "matrix_game_v0")
    for path in (run.learning_curve, run.last_model):  # as if it had been killed
        path.unlink()
    damaged = run.checkpoint(400)
    damaged.write_bytes(damaged.read_bytes()[:700])
    assert main(["--resume", str(run.path)]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith(f"warning: {damaged} is not a saved model, or it is damaged: ")
    assert errors.endswith("; using rl_model_300_steps.zip instead\n") and errors.count("\n") == 1
    assert differences(run, RunFolder(tmp_path / "whole", "matrix_game_v0")) == []
    assert read_model(damaged).counters["num_timesteps"] == 400


def test_run_that_was_killed_after_its_last_step_is_finished(tmp_path):
    # The last rollout of 100 steps ends at 200, beyond the 150 that were asked for.
    words = ["--env", "matrix_game_v0", "-n", "150"]
    assert train(tmp_path / "whole", *words) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    run = RunFolder(tmp_path / "run", "matrix_game_v0")
    run.learning_curve.unlink()
    assert run.checkpoint_steps() == [200]
    with pytest.raises(SystemExit):
        main(["--resume", str(run.path), "-n", "120"])
    assert main(["--resume", str(run.path)]) == 0
    assert run.is_finished and differences(run, RunFolder(tmp_path / "whole", "matrix_game_v0")) == []


def test_run_of_another_environment_is_refused(tmp_path, finished, capsys):
    shutil.copytree(finished, tmp_path / "run")
    run = RunFolder(tmp_path / "run", "matrix_game_v0")
    for path in (run.arguments, run.config):
        path.write_text(path.read_text().replace("matrix_game_v0", "switch_v0"))
    with pytest.raises(SystemExit):
        main(["--resume", str(run.path), "-n", "200"])
    errors = capsys.readouterr().err
    assert "env is 'switch_v0', the checkpoint was trained with 'matrix_game_v0'" in errors and errors.count("\n") == 1


def test_tensorboard_has_no_evaluation_twice(tmp_path):
    words = ["--env", "matrix_game_v0", "-n", "600", "--save-freq", "300"]
    assert train(tmp_path / "run", *words) == 0
    run = RunFolder(tmp_path / "run", "matrix_game_v0")
    run.learning_curve.unlink()
    run.checkpoint(600).unlink()  # killed after evaluations at 400 and 600 steps; the checkpoint is of 300
    assert main(["--resume", str(run.path)]) == 0
    events = EventAccumulator(str(run.path)).Reload()
    for key in ("eval/mean_reward", "eval/mean_reward_greedy"):
        assert [event.step for event in events.Scalars(key)] == [200, 400, 600]
    assert [event.step for event in events.Scalars("metagame/nash_conv")] == [100, 200, 300, 400, 500, 600]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "is finished: it has trained for 100 steps; to continue, ask for more with -n"),
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
    assert "has no args.yml: it is not a run of train.py" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--override"])
    assert "--override needs --resume" in capsys.readouterr().err
