import csv
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_matrl import MATRL
from zoo.config import ALGORITHMS, load_hyperparameters
from zoo.train import build_parser, main, parse_options

WORLD = "tests.evaluation.worlds:RandomLength"
SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:2", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu"]


def train(log_folder, *words):
    assert main(["-f", str(log_folder), *QUICK, *SMALL, *words]) == 0


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def parameters(model):
    return th.cat([p.detach().flatten() for agent in model.agents.values() for p in agent.policy.parameters()])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("env_id", ["matrix_game_v0", "checkers_v0"])
def test_run_leaves_everything_behind(tmp_path, capsys, algorithm, env_id):
    train(tmp_path, "--algo", algorithm, "--env", env_id, "-n", "200", "--seed", "5", "--save-freq", "100")
    folder = tmp_path / algorithm / f"{env_id}_1"
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events.out")}
    files = {
        "args.yml",
        "config.yml",
        "command.txt",
        "progress.csv",
        "evaluations.npz",
        "best_model.zip",
        "learning_curve.png",
    }
    assert names == files | {f"{env_id}.zip", "checkpoints"}

    arguments = yaml.safe_load((folder / "args.yml").read_text())
    assert (arguments["algo"], arguments["env"], arguments["seed"]) == (algorithm, env_id, 5)
    assert arguments["hyperparams"]["policy_kwargs.net_arch"] == [8]
    config = load_hyperparameters(folder / "config.yml", env_id)
    assert (config.n_timesteps, config.n_envs, config.policy_kwargs["net_arch"]) == (200, 4, [8])

    progress = rows(folder / "progress.csv")
    steps = [int(float(row["time/total_timesteps"])) for row in progress]
    assert steps == sorted(steps) and steps[-1] == 200
    keys = {"eval/mean_reward", "eval/mean_reward_greedy", "rollout/ep_rew_mean", "time/fps"}
    assert keys <= set(progress[0])
    evaluated = [float(row["eval/mean_reward"]) for row in progress if row["eval/mean_reward"]]
    with np.load(folder / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [100, 200]
        np.testing.assert_allclose(evaluations["results"].mean(axis=1), evaluated)
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [100, 200]

    model = MATRL.load(folder / f"{env_id}.zip")
    assert model.num_timesteps == 200
    assert (model.arguments["metagame"], model.arguments["best_response"]) == tuple(ALGORITHMS[algorithm].values())
    assert isinstance(next(iter(model.agents.values())), PPO)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"rl_model_100_steps.zip", "rl_model_200_steps.zip"}
    printed = capsys.readouterr().out
    assert f"{algorithm} on {env_id}, seed 5: 200 steps in" in printed and str(folder) in printed
    for policy in ("sampled", "greedy", "random"):
        assert f"\n{policy} " in printed


def test_same_seed_gives_the_same_run_and_folders_are_numbered(tmp_path):
    words = ["--env", "checkers_v0", "-n", "200"]
    train(tmp_path, *words, "--seed", "1")
    train(tmp_path, *words, "--seed", "1", "--eval-freq", "-1")
    train(tmp_path, *words, "--seed", "2")
    first, second, third = (parameters(MATRL.load(tmp_path / "matrl" / f"checkers_v0_{k}" / "checkers_v0")) for k in (1, 2, 3))
    assert th.equal(first, second) and not th.equal(first, third)


def test_drawn_seed_is_noted_so_that_the_run_can_be_repeated(tmp_path):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100")
    folder = tmp_path / "matrl" / "matrix_game_v0_1"
    program, script, *words = shlex.split((folder / "command.txt").read_text())
    assert (program, script) == ("python", "zoo/train.py")
    assert parse_options(words).seed == yaml.safe_load((folder / "args.yml").read_text())["seed"]
    assert main(words) == 0
    again = tmp_path / "matrl" / "matrix_game_v0_2" / "matrix_game_v0"
    assert th.equal(parameters(MATRL.load(folder / "matrix_game_v0")), parameters(MATRL.load(again)))


def test_config_of_a_run_is_a_conf_file(tmp_path):
    train(tmp_path, "--env", "switch_v0", "-n", "100", "--env-kwargs", "n_agents:2", "clock:true")
    config = tmp_path / "matrl" / "switch_v0_1" / "config.yml"
    assert main(["--env", "switch_v0", "--conf-file", str(config), "-f", str(tmp_path), *QUICK]) == 0
    assert (tmp_path / "matrl" / "switch_v0_2" / "config.yml").read_text() == config.read_text()
    assert list(MATRL.load(tmp_path / "matrl" / "switch_v0_2" / "switch_v0").agents) == ["agent_0", "agent_1"]


def test_paper_file_trains(tmp_path):
    train(tmp_path, "--env", "checkers_v0", "--conf-file", "paper", "-n", "100")
    model = MATRL.load(tmp_path / "matrl" / "checkers_v0_1" / "best_model")
    assert model.agents["agent_0"].observation_space.shape == (11,)
    assert model.arguments["solver"] == "cmaes"


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_environment_by_module_and_callable(tmp_path, vec_env):
    train(tmp_path, "--env", WORLD, "-n", "200", "--vec-env", vec_env, "--env-kwargs", "long:5")
    folder = tmp_path / "matrl" / "tests.evaluation.worlds-RandomLength_1"
    assert (folder / "tests.evaluation.worlds-RandomLength.zip").is_file()
    assert load_hyperparameters(folder / "config.yml", WORLD).env_kwargs == {"long": 5}


def test_run_dir_is_used_as_it_is(tmp_path):
    train(tmp_path / "logs", "--env", "matrix_game_v0", "-n", "100", "--run-dir", str(tmp_path / "here" / "run"))
    assert (tmp_path / "here" / "run" / "matrix_game_v0.zip").is_file()
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("verbose", "has_learners"), [("1", False), ("2", True)])
def test_screen_shows_sb3s_table(tmp_path, capsys, verbose, has_learners):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100", "--verbose", verbose)
    printed = capsys.readouterr().out
    assert "|    total_timesteps" in printed and "|    nash_conv" in printed
    assert ("train/approx_kl" in printed) == has_learners


def test_progress_bar_is_shown(tmp_path, capsys):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100", "--progress")
    captured = capsys.readouterr()
    assert "100%" in captured.out + captured.err or "100/100" in captured.out + captured.err


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "checkers_v1"], "env 'checkers_v1' is unknown; did you mean 'checkers_v0'?"),
        (["--env", "no.module:thing"], "module 'no.module' cannot be imported"),
        (["--env", "tests.evaluation.worlds:RandomLenght"], "did you mean 'RandomLength'"),
        (["--env", WORLD, "--env-kwargs", "short:3"], "got an unexpected keyword argument 'short'"),
        (["--env", "tests.evaluation.worlds:Scripted"], "is a Scripted, not a PettingZoo ParallelEnv"),
        (["--algo", "matrix"], "algorithm 'matrix' is unknown; did you mean 'matrl'?"),
        (["--algos", "matrl"], "flag --algos is unknown; did you mean '--algo'?"),
        (["--evalfreq=3"], "flag --evalfreq is unknown; did you mean '--eval-freq'?"),
        (["--eval"], "flag --eval is unknown"),
        (["-param", "n_steps:3"], "flag -param is unknown; did you mean '-params'?"),
        (["stray"], "argument 'stray' belongs to no flag"),
        (["--seed", "x"], "argument --seed: invalid seed value: 'x'. See --help."),
        (["--seed", "-1"], "argument --seed: expected a whole number from 0 to"),
        (["-n", "0"], "expected a whole number of at least 1, got '0'"),
        (["-n", "1.5"], "expected a whole number, got '1.5'"),
        (["--eval-episodes", "0"], "argument --eval-episodes: expected a whole number of at least 1"),
        (["--device", "gpu9"], "argument --device: expected auto, cpu, cuda or cuda:<index>, got 'gpu9'"),
        (["--vec-env", "fast"], "argument --vec-env: invalid choice: 'fast'"),
        (["-params", "learning_rat:1"], "hyper-parameter 'learning_rat' is unknown; did you mean 'learning_rate'?"),
        (["-params", "learning_rate"], "--hyperparams: expected key:value, got 'learning_rate'"),
        (["-params", "n_steps:many"], "command line, n_steps: expected an integer, got 'many'"),
        (["-params", "solver:nash"], "solver 'nash' is unknown"),
        (["-params", "gamma:{agent_0: 0.9, agnt_1: 0.9}"], "missing agent_1; unknown agnt_1; did you mean 'agent_1'?"),
        (["--env-kwargs", "observations:codes"], "'observations' is unknown; did you mean 'observation'?"),
        (["--env-kwargs", "observation:code"], "did you mean 'codes'?"),
        (["--conf-file", "missing.yml"], "there is no file missing.yml"),
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


def test_log_folder_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["--env", "matrix_game_v0", "-f", str(tmp_path / "file"), "-n", "100"])
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_bug_in_an_environment_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug in the world"):
        train(tmp_path, "--env", "tests.evaluation.worlds:BrokenOnPurpose", "-n", "100")


def test_help_shows_defaults_and_examples():
    text = build_parser().format_help()
    assert "(default: checkers_v0)" in text and "examples:" in text and "--conf-file paper" in text


# ---------------------------------------------------------------- interruption


def test_interrupted_run_saves_its_model(tmp_path, capsys):
    words = ["--env", "tests.evaluation.worlds:InterruptsItself", "-n", "1e9", "-f", str(tmp_path), *QUICK, *SMALL]
    assert main(words) == 130
    path = tmp_path / "matrl" / "tests.evaluation.worlds-InterruptsItself_1" / "tests.evaluation.worlds-InterruptsItself.zip"
    errors = capsys.readouterr().err
    steps = MATRL.load(path).num_timesteps
    assert errors == f"SIGINT after {steps} steps: the model is saved in {path}\n" and steps > 0


def test_terminated_process_saves_its_model(tmp_path):
    script = (
        "import sys; from zoo.train import main; code = main(sys.argv[1:]); "
        "assert 'wandb' not in sys.modules, 'imported without --track'; sys.exit(code)"
    )
    words = ["--env", "matrix_game_v0", "-n", "1e9", "-f", str(tmp_path), *QUICK, *SMALL, "--verbose", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "total_timesteps" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    path = tmp_path / "matrl" / "matrix_game_v0_1" / "matrix_game_v0.zip"
    assert f"the model is saved in {path}" in errors and "Traceback" not in errors
    assert MATRL.load(path).num_timesteps >= 100


def test_interruption_before_the_training_is_told(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.train.prepare", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "interrupted; nothing more was saved\n"
