"""Mistakes of the user, full disks, bugs of environments and files of plain SB3: what ``train`` says and leaves."""

import errno
from pathlib import Path

import pytest
import torch as th
from stable_baselines3 import PPO

from sb3_matrl import MATRL
from sb3_matrl.zoo.train import build_parser, main, parse_options
from sb3_matrl.zoo.training.experiment import prepare
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.output_formats import CsvTable
from tests.zoo.short_trainings import QUICK, SMALL, WORLD, rows, train


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "checkers_v1"], "env 'checkers_v1' is unknown; did you mean 'checkers_v0'?"),
        (["--env", "no.module:thing"], "module 'no.module' cannot be imported"),
        (["--env", "tests.evaluation.worlds:RandomLenght"], "did you mean 'RandomLength'"),
        (["--env", WORLD, "--env-kwargs", "short:3"], "got an unexpected keyword argument 'short'"),
        (["--env", "tests.evaluation.worlds:Scripted"], "is a Scripted, not a PettingZoo ParallelEnv"),
        (["--save-every-minutes", "nan"], "expected a number of minutes, at least 0, got 'nan'"),
        (["--save-every-minutes=-1"], "expected a number of minutes, at least 0, got '-1'"),
        (
            ["--env", "checkers_v0", "-params", "seed:3"],
            "'seed' is no hyper-parameter of files and -params: it is the flag --seed",
        ),
        (["--algo", "matrix"], "algorithm 'matrix' is unknown; did you mean 'matrl'?"),
        (["--algos", "matrl"], "flag --algos is unknown; did you mean '--algo'?"),
        (["--evalfreq=3"], "flag --evalfreq is unknown; did you mean '--eval-freq'?"),
        (["--eval"], "flag --eval is unknown"),
        (["-param", "n_steps:3"], "flag -param is unknown; did you mean '-params'?"),
        (["-v", "2"], "flag -v is unknown"),
        (["stray"], "argument 'stray' belongs to no flag"),
        (["--seed", "x"], "argument --seed: expected a whole number, got 'x'. See --help."),
        (["--seed", "-1"], "argument --seed: expected a whole number from 0 to"),
        (["-n", "0"], "expected a whole number of at least 1, got '0'"),
        (["-n", "1.5"], "expected a whole number, got '1.5'"),
        (["--eval-episodes", "0"], "argument --eval-episodes: expected a whole number of at least 1"),
        (["--device", "gpu9"], "argument --device: expected auto, cpu, cuda or cuda:<index>, got 'gpu9'"),
        (["--vec-env", "fast"], "argument -vec/--vec-env: value 'fast' is unknown. Known: auto, batched"),
        (["-params", "learning_rat:1"], "hyper-parameter 'learning_rat' is unknown; did you mean 'learning_rate'?"),
        (["-params", "learning_rate"], "--hyperparams: expected key:value, got 'learning_rate'"),
        (["-params", "n_steps:many"], "command line, n_steps: expected an integer, got 'many'"),
        (["-params", "solver:nash"], "solver 'nash' is unknown"),
        (["-params", "gamma:{agent_0: 0.9, agnt_1: 0.9}"], "missing agent_1; unknown agnt_1; did you mean 'agent_1'?"),
        (["--env-kwargs", "observations:codes"], "'observations' is unknown; did you mean 'observation'?"),
        (["--env-kwargs", "observation:code"], "did you mean 'codes'?"),
        (["--conf-file", "missing.yml"], "there is no file missing.yml"),
        (["-conf", "papper"], "did you mean 'paper'?"),
        (["--log-interval", "0"], "argument --log-interval: expected a whole number of at least 1, or -1 or -2, got '0'"),
        (["--num-threads", "0"], "argument --num-threads: expected a whole number of at least 1, or -1, got '0'"),
        (["--n-eval-envs", "0"], "argument --n-eval-envs: expected a whole number of at least 1"),
        (["-i", "missing.zip"], "no saved model at missing.zip"),
        (["-i", __file__], "is not a saved model, or it is damaged"),
        (
            ["-i", "a.zip", "-params", "policy_kwargs.net_arch:[8]"],
            "policy_kwargs.net_arch cannot be changed: --trained-agent",
        ),
        (
            ["--env", "switch_v0", "--eval-env-kwargs", "n_agents:2"],
            "--eval-env-kwargs {'n_agents': 2}: observation_spaces are",
        ),
        (["--eval-env-kwargs", "observatio:codes"], "did you mean 'observation'?"),
        (
            ["--env", "tests.evaluation.worlds:RandomLength", "--record"],
            "cannot be recorded: it has no render_mode 'rgb_array'",
        ),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["-f", str(tmp_path / "logs"), "-n", "100", *words])
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err
    assert not (tmp_path / "logs").exists()


def test_folder_with_something_in_it_is_never_touched(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["--env", "matrix_game_v0", "--run-dir", str(tmp_path)])
    assert "exists and is not empty; nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("place", [".", "below/it"])
def test_tensorboard_folder_that_cannot_be_made_is_told(tmp_path, capsys, place):
    file = tmp_path / "file"
    file.touch()
    words = ["--env", "matrix_game_v0", "-n", "100", "-f", str(tmp_path / "logs"), *QUICK]
    with pytest.raises(SystemExit) as exit_info:
        main([*words, "--tensorboard-log", str(file / place)])
    errors = capsys.readouterr().err
    assert exit_info.value.code == 2 and errors.count("\n") == 1
    assert errors.startswith(f"error: --tensorboard-log {file / place} is no folder and cannot be made: ")
    assert not list((tmp_path / "logs").rglob("*.*"))


def test_log_folder_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["--env", "matrix_game_v0", "-f", str(tmp_path / "file"), "-n", "100"])
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_log_folder_without_permission_is_told(tmp_path, capsys, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SystemExit) as exit_info:
        main(["--env", "matrix_game_v0", "-f", str(tmp_path / "logs"), "-n", "100"])
    assert exit_info.value.code == 2
    folder = tmp_path / "logs" / "matrl" / "matrix_game_v0_1"
    assert capsys.readouterr().err == f"error: {folder}: Permission denied\n"


def test_full_disk_at_the_start_leaves_no_folder(tmp_path, capsys, monkeypatch):
    def refuse(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("sb3_matrl.zoo.training.training_run.write_yaml", refuse)
    with pytest.raises(SystemExit) as exit_info:
        main(["--env", "matrix_game_v0", "-f", str(tmp_path), "-n", "100"])
    assert exit_info.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "matrl").iterdir()) == []


@pytest.mark.parametrize("model_fits", [True, False])
def test_full_disk_in_training_ends_it_and_keeps_the_models(tmp_path, capsys, monkeypatch, model_fits):
    full = []
    write, save = CsvTable.write, MATRL.save

    def write_until_full(self, key_values, key_excluded, step=0):
        if step >= 300:
            full.append(step)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, key_values, key_excluded, step)

    def save_if_it_fits(self, path, documents=None):
        if full and not model_fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, documents)

    monkeypatch.setattr(CsvTable, "write", write_until_full)
    monkeypatch.setattr(MATRL, "save", save_if_it_fits)
    words = ["--env", "matrix_game_v0", "-n", "1e9", "--save-freq", "200", "-f", str(tmp_path), *QUICK, *SMALL]
    assert main(words) == 1
    folder = tmp_path / "matrl" / "matrix_game_v0_1"
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: cannot write {folder / 'progress.csv'}: No space left on device. The training ended; ")
    assert errors.count("\n") == 1
    last = folder / "matrix_game_v0.zip"
    if model_fits:
        assert f"the model after 300 steps is saved in {last}" in errors
        assert MATRL.load(last).num_timesteps == 300
    else:
        kept = "best_model.zip, checkpoints/rl_model_200_steps.zip"
        assert f"the model after 300 steps is lost; {folder} still has {kept}." in errors and not last.exists()
    assert MATRL.load(folder / "best_model").num_timesteps <= 200
    assert [int(float(row["time/total_timesteps"])) for row in rows(folder / "progress.csv")][-1] == 200


def test_other_errors_of_the_system_keep_their_traceback(tmp_path, monkeypatch):
    def fail(self, *arguments):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(CsvTable, "write", fail)
    with pytest.raises(ConnectionResetError):
        train(tmp_path, "--env", "matrix_game_v0", "-n", "100")


def test_bug_in_an_environment_is_told_in_one_line(tmp_path, capsys):
    words = ["--env", "tests.evaluation.worlds:BrokenOnPurpose", "-n", "100", "-f", str(tmp_path), *QUICK, *SMALL]
    assert main(words) == 1
    folder = tmp_path / "matrl" / "tests.evaluation.worlds-BrokenOnPurpose_1"
    errors = capsys.readouterr().err
    assert "ZeroDivisionError: a bug in the world" in errors and errors.count("\n") == 1
    command = f"sb3-matrl train --resume {folder} --env tests.evaluation.worlds:BrokenOnPurpose"
    assert errors.endswith(f"The training ended; resume with: {command}\n")
    assert MATRL.load(folder / "checkpoints" / "rl_model_0_steps").num_timesteps == 0


def test_defaults_of_the_parser_are_those_of_the_options():
    assert parse_options(["--seed", "0"]) == TrainOptions(seed=0)


def test_help_shows_defaults_and_examples():
    text = build_parser().format_help()
    assert "(default: checkers_v0)" in text and "examples:" in text and "--conf-file paper" in text


# ---------------------------------------------------------------- files of plain SB3


@pytest.fixture(scope="module")
def sb3_file(tmp_path_factory):
    """What one agent of a run learned, as plain SB3 saves it."""
    folder = tmp_path_factory.mktemp("sb3")
    train(folder, "--env", "matrix_game_v0", "-n", "100")
    path = folder / "agent.zip"
    MATRL.load(folder / "matrl" / "matrix_game_v0_1" / "matrix_game_v0", device="cpu").agents["agent_1"].save(path)
    return path


@pytest.mark.e2e
def test_agent_of_sb3_is_refused_without_trust(tmp_path, sb3_file, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--env", "matrix_game_v0", "-f", str(tmp_path), *QUICK, "-i", str(sb3_file)])
    errors = capsys.readouterr().err
    assert exit_info.value.code == 2 and errors.count("\n") == 1
    assert errors.startswith(f"error: --trained-agent {sb3_file}: ") and "holds pickles" in errors and "--trust" in errors


def test_all_agents_begin_with_the_trusted_one(sb3_file):
    words = ["--env", "matrix_game_v0", "-i", str(sb3_file), "--trust", "--device", "cpu"]
    experiment = prepare(parse_options([*words, "-params", "n_envs:2", "n_steps:10", "batch_size:20"]))
    wanted = PPO.load(sb3_file, device="cpu").policy.state_dict()
    for agent in experiment.model.agents.values():
        assert all(th.equal(value, wanted[name]) for name, value in agent.policy.state_dict().items())
    assert experiment.hyperparameters["policy_kwargs"]["net_arch"] == [8] and experiment.model.num_timesteps == 0
    experiment.close()


@pytest.mark.e2e
def test_training_with_a_trusted_agent_can_be_resumed(tmp_path, sb3_file):
    words = ["--env", "matrix_game_v0", "-n", "100", "-i", str(sb3_file), "--trust", "--run-dir", str(tmp_path / "run")]
    assert main([*words, *QUICK, *SMALL[:-1]]) == 0
    assert main(["--resume", str(tmp_path / "run"), "-n", "200"]) == 0
    assert MATRL.load(tmp_path / "run" / "matrix_game_v0").num_timesteps == 200


def test_trusted_agent_of_another_game_is_refused(tmp_path, sb3_file, capsys):
    with pytest.raises(SystemExit):
        main(["--env", "checkers_v0", "-i", str(sb3_file), "--trust", "-f", str(tmp_path), *QUICK])
    errors = capsys.readouterr().err
    assert "its observation space is" in errors and "that of agent_0 is" in errors and errors.count("\n") == 1
