import csv
import errno
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_matrl import MATRL
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.zoo.common.hyperparameters import find_conf_file, load_hyperparameters
from sb3_matrl.zoo.common.references import References
from sb3_matrl.zoo.common.run_folder import find_run_folder
from sb3_matrl.zoo.train import build_parser, main, parse_options
from sb3_matrl.zoo.training.experiment import prepare
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.output_formats import CsvTable
from tests.algorithms import ON_POLICY
from tests.documentation import table_rows
from tests.evaluation.worlds import InterruptsItself

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


@pytest.mark.parametrize(
    ("algorithm", "env_id"),
    [
        ("matrl", "checkers_v0"),
        *(pytest.param(name, "matrix_game_v0", marks=pytest.mark.e2e) for name in ON_POLICY),
    ],
)
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
        "references.json",
    }
    assert names == files | {f"{env_id}.zip", "checkpoints", ".lock"}

    arguments = yaml.safe_load((folder / "args.yml").read_text())
    assert (arguments["algo"], arguments["env"], arguments["seed"]) == (algorithm, env_id, 5)
    assert arguments["hyperparams"]["policy_kwargs.net_arch"] == [8]
    config = load_hyperparameters(folder / "config.yml", algorithm, env_id)
    assert (config.n_timesteps, config.n_envs, config["policy_kwargs"]["net_arch"]) == (200, 4, [8])

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
    fixed = algorithm_spec(algorithm).fixed
    assert {name: model.arguments[name] for name in fixed} == fixed
    assert isinstance(next(iter(model.agents.values())), PPO)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"rl_model_100_steps.zip", "rl_model_200_steps.zip"}
    printed = capsys.readouterr().out
    assert f"{algorithm} on {env_id}, seed 5: 200 steps in" in printed and f"Files in {folder}:" in printed
    optimum = {"checkers_v0": 41.26, "matrix_game_v0": 0.0}[env_id]
    assert References.read(folder / "references.json").optimum == optimum
    assert ("Meta-game: " in printed) == bool(fixed["metagame"])
    for policy in ("sampled", "greedy", "random"):
        assert f"\n{policy} " in printed


@pytest.mark.e2e
def test_same_seed_gives_the_same_run_and_folders_are_numbered(tmp_path):
    words = ["--env", "checkers_v0", "-n", "100"]
    train(tmp_path, *words, "--seed", "1")
    train(tmp_path, *words, "--seed", "1", "--eval-freq", "-1")
    train(tmp_path, *words, "--seed", "2")
    first, second, third = (parameters(MATRL.load(tmp_path / "matrl" / f"checkers_v0_{k}" / "checkers_v0")) for k in (1, 2, 3))
    assert th.equal(first, second) and not th.equal(first, third)


@pytest.mark.e2e
def test_drawn_seed_is_noted_so_that_the_run_can_be_repeated(tmp_path):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100")
    folder = tmp_path / "matrl" / "matrix_game_v0_1"
    program, script, *words = shlex.split((folder / "command.txt").read_text())
    assert (program, script) == ("sb3-matrl", "train")
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


@pytest.mark.e2e
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
    assert load_hyperparameters(folder / "config.yml", "matrl", WORLD).env_kwargs == {"long": 5}


def test_run_dir_is_used_as_it_is(tmp_path):
    train(tmp_path / "logs", "--env", "matrix_game_v0", "-n", "100", "--run-dir", str(tmp_path / "here" / "run"))
    assert (tmp_path / "here" / "run" / "matrix_game_v0.zip").is_file()
    assert not (tmp_path / "logs").exists()


def test_unique_id_is_added_to_the_folder(tmp_path):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100", "-uuid")
    (path,) = (tmp_path / "matrl").iterdir()
    assert path.name.startswith("matrix_game_v0_1_") and path == find_run_folder(tmp_path, "matrl", "matrix_game_v0").path


def test_tensorboard_files_go_where_they_are_wanted(tmp_path):
    train(tmp_path / "logs", "--env", "matrix_game_v0", "-n", "100", "-tb", str(tmp_path / "board"))
    assert not list((tmp_path / "logs").rglob("events.out*"))
    events = EventAccumulator(str(tmp_path / "board" / "matrl" / "matrix_game_v0_1")).Reload()
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [100]


@pytest.mark.parametrize(("interval", "steps"), [("-1", [100, 200, 300, 400]), ("3", [300, 400]), ("-2", [400])])
def test_log_has_a_row_every_so_many_iterations_and_for_the_evaluation(tmp_path, interval, steps):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "400", "--eval-freq", "-1", "--log-interval", interval)
    progress = rows(tmp_path / "matrl" / "matrix_game_v0_1" / "progress.csv")
    seen = [int(float(row["time/total_timesteps"])) for row in progress]
    assert list(dict.fromkeys(seen)) == steps


def test_evaluation_has_copies_and_options_of_its_own():
    words = ["--env", WORLD, "--env-kwargs", "long:20", *SMALL, "--device", "cpu", "--eval-episodes", "3"]
    experiment = prepare(parse_options(words))
    assert experiment.eval_env.num_envs == 3
    other = prepare(parse_options([*words, "--n-eval-envs", "7", "--eval-env-kwargs", "long:20"]))
    assert other.eval_env.num_envs == 7
    for one in (experiment, other):
        one.close()


def test_options_of_the_evaluation_change_those_of_the_training(tmp_path):
    words = ["--env", "tests.zoo.worlds:Pays", "-n", "100", "--env-kwargs", "reward:1.0", "--eval-env-kwargs", "reward:5.0"]
    train(tmp_path, *words)
    (folder,) = (tmp_path / "matrl").iterdir()
    seen = [(row["rollout/ep_rew_mean"], row["eval/mean_reward"]) for row in rows(folder / "progress.csv")]
    assert {float(trained) for trained, _ in seen if trained} == {2.0}
    assert {float(evaluated) for _, evaluated in seen if evaluated} == {10.0}


# ---------------------------------------------------------------- going on from a model


@pytest.mark.e2e
def test_trained_agent_goes_on_as_sb3_would(tmp_path):
    train(tmp_path, "--env", "checkers_v0", "-n", "200", "--seed", "1")
    path = tmp_path / "matrl" / "checkers_v0_1" / "checkers_v0.zip"
    words = ["--env", "checkers_v0", "-i", str(path), "-n", "300", "--seed", "2", "--save-freq", "100"]
    quick = ["-params", "n_envs:2", "n_steps:50", "batch_size:50", "n_epochs:1", "learning_rate:0.03"]
    assert main(["-f", str(tmp_path), *QUICK, *words, *quick]) == 0
    folder = tmp_path / "matrl" / "checkers_v0_2"
    model = MATRL.load(folder / "checkers_v0")
    assert (model.num_timesteps, model.n_envs, model.n_steps) == (500, 2, 50)
    assert model.agents["agent_0"].learning_rate == 0.03
    steps = [int(float(row["time/total_timesteps"])) for row in rows(folder / "progress.csv")]
    assert sorted(set(steps)) == [300, 400, 500]
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {f"rl_model_{k}_steps.zip" for k in (300, 400, 500)}

    by_hand = load_hyperparameters(folder / "config.yml", "matrl", "checkers_v0")
    assert by_hand["policy_kwargs"]["net_arch"] == [8]
    changes = {key: value for key, value in by_hand.model_arguments().items() if key not in ("policy", "policy_kwargs")}
    twin = MATRL.load(path, env="checkers_v0", device="cpu", **{**changes, "seed": 2, "vec_env": "auto"})
    twin.learn(300, reset_num_timesteps=False)
    assert th.equal(parameters(twin), parameters(model))


@pytest.mark.e2e
def test_trained_agent_keeps_its_networks_and_learners(tmp_path):
    words = ["--env", "matrix_game_v0", "-n", "100", "--learner_class=A2C", "--policy_kwargs.activation_fn=relu"]
    small = ["-params", "n_envs:4", "n_steps:25", "policy_kwargs.net_arch:[5]"]
    assert main(["-f", str(tmp_path), *QUICK, *words, *small]) == 0
    path = tmp_path / "matrl" / "matrix_game_v0_1" / "matrix_game_v0.zip"
    again = ["--env", "matrix_game_v0", "-n", "100", "-i", str(path), "-params", "n_envs:4", "n_steps:25"]
    assert main(["-f", str(tmp_path), *QUICK, *again]) == 0
    conf = load_hyperparameters(tmp_path / "matrl" / "matrix_game_v0_2" / "config.yml", "matrl", "matrix_game_v0")
    assert conf["learner_class"] == "A2C"
    assert conf["policy_kwargs"]["net_arch"] == [5] and conf.model_arguments()["policy_kwargs"]["activation_fn"] is th.nn.ReLU


def test_trained_agent_of_another_environment_is_refused(tmp_path, capsys):
    train(tmp_path, "--env", "switch_v0", "-n", "100", "--env-kwargs", "n_agents:2")
    path = tmp_path / "matrl" / "switch_v0_1" / "switch_v0.zip"
    for words, message in (
        (["--env", "switch_v0", "--env-kwargs", "n_agents:3"], "the env's agents are"),
        (["--env", "checkers_v0"], "it is another environment"),
    ):
        with pytest.raises(SystemExit):
            main(["-f", str(tmp_path), *QUICK, "-i", str(path), "-n", "100", *words])
        errors = capsys.readouterr().err
        assert errors.startswith(f"error: --trained-agent {path}: ") and message in errors
    assert [folder.name for folder in (tmp_path / "matrl").iterdir()] == ["switch_v0_1"]


# ---------------------------------------------------------------- videos


@pytest.mark.e2e
def test_record_films_the_last_model(tmp_path, capsys):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    train(tmp_path, "--env", "checkers_v0", "-n", "100", "--record")
    path = tmp_path / "matrl" / "checkers_v0_1" / "video.mp4"
    n_frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert n_frames > 1
    printed = capsys.readouterr().out
    assert re.search(r"\n  checkers_v0.zip +last model\n", printed) and re.search(r"\n  video.mp4 +a greedy", printed)
    assert "Filming" not in printed  # --verbose 0


@pytest.mark.parametrize(("verbose", "has_learners"), [("1", False), ("2", True)])
def test_screen_shows_sb3s_table(tmp_path, capsys, verbose, has_learners):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100", "--verbose", verbose)
    printed = capsys.readouterr().out
    assert "|    total_timesteps" in printed and "|    nash_conv" in printed
    assert ("train/approx_kl" in printed) == has_learners


def test_documented_default_policy_is_that_of_the_file():
    (row,) = (row for row in table_rows("hyperparameters.md", "Learners") if row[0] == "policy")
    shipped = load_hyperparameters(find_conf_file("matrl", None), "matrl", "an_env:of_the_user")
    assert f"The zoo's default is `{shipped['policy']}`" in row[-1]


def test_output_is_short_and_says_nothing_twice(tmp_path, capsys):
    train(tmp_path, "--env", "checkers_v0", "-n", "400", "--verbose", "1", "--seed", "0")
    printed = capsys.readouterr().out
    lines = [line for line in printed.split("\n") if re.search(r"[a-z]{4}", line) and not line.startswith("|")]
    assert len(lines) == len(set(lines)) < 40
    assert printed.count("|    total_timesteps") == 4 and printed.count("Eval num_timesteps=") == 4
    assert printed.count("|") < 4 * 4 * 20
    assert " optimum" in printed and "- chance " in printed and "rho" in printed.split("Meta-game: ")[1]


def test_competing_agents_are_shown_one_by_one(tmp_path, capsys):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "400", "--verbose", "1", "--eval-episodes", "10", "--seed", "0")
    printed = capsys.readouterr().out
    assert not re.search(r"\bteam\b|ep_rew_mean +\|", printed)
    assert "|    ep_rew_mean agent_0" in printed and "sampled return over steps: * agent_0, o agent_1" in printed
    rows = [line.split()[:2] for line in printed.split("\n") if line.startswith(("sampled ", "greedy ", "random "))]
    assert rows == [[policy, f"agent_{i}"] for policy in ("sampled", "greedy", "random") for i in (0, 1)]


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
    assert capsys.readouterr().err == f"error: [Errno 13] Permission denied: '{folder}'\n"


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


# ---------------------------------------------------------------- interruption


def test_interrupted_run_saves_its_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(InterruptsItself, "steps", 0)
    words = ["--env", "tests.evaluation.worlds:InterruptsItself", "-n", "1e9", "-f", str(tmp_path), *QUICK, *SMALL]
    assert main(words) == 130
    path = tmp_path / "matrl" / "tests.evaluation.worlds-InterruptsItself_1" / "tests.evaluation.worlds-InterruptsItself.zip"
    errors = capsys.readouterr().err
    steps = MATRL.load(path).num_timesteps
    resume = f"sb3-matrl train --resume {path.parent} --env tests.evaluation.worlds:InterruptsItself"
    assert errors == f"SIGINT after {steps} steps: the model is saved in {path}; resume with: {resume}\n"
    assert MATRL.load(path.parent / "checkpoints" / f"rl_model_{steps}_steps").num_timesteps == steps


@pytest.mark.e2e
def test_terminated_process_saves_its_model(tmp_path):
    script = (
        "import sys; from sb3_matrl.zoo.train import main; code = main(sys.argv[1:]); "
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

    monkeypatch.setattr("sb3_matrl.zoo.training.training_run.prepare", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "interrupted; nothing more was saved\n"
