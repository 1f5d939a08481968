import re
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
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.zoo.common.hyperparameters import find_conf_file, load_hyperparameters
from sb3_matrl.zoo.common.references import References
from sb3_matrl.zoo.common.run_folder import find_run_folder
from sb3_matrl.zoo.train import main, parse_options
from sb3_matrl.zoo.training.experiment import prepare
from tests.algorithms import ON_POLICY
from tests.documentation import table_rows
from tests.evaluation.worlds import InterruptsItself
from tests.zoo.short_trainings import QUICK, SMALL, WORLD, rows, train


def parameters(model):
    return th.cat([p.detach().flatten() for agent in model.agents.values() for p in agent.policy.parameters()])


@pytest.mark.cases(
    quick=["matrl-checkers_v0"], e2e=["mappo-matrix_game_v0", "matrl-optimistic-matrix_game_v0"], rest="expensive"
)
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


@pytest.mark.e2e
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


@pytest.mark.cases(e2e=["subproc"])
@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_environment_by_module_and_callable(tmp_path, vec_env):
    train(tmp_path, "--env", WORLD, "-n", "200", "--vec-env", vec_env, "--env-kwargs", "long:5")
    folder = tmp_path / "matrl" / "tests.evaluation.worlds-RandomLength_1"
    assert (folder / "tests.evaluation.worlds-RandomLength.zip").is_file()
    assert load_hyperparameters(folder / "config.yml", "matrl", WORLD).env_kwargs == {"long": 5}


@pytest.mark.e2e
def test_run_dir_is_used_as_it_is(tmp_path):
    train(tmp_path / "logs", "--env", "matrix_game_v0", "-n", "100", "--run-dir", str(tmp_path / "here" / "run"))
    assert (tmp_path / "here" / "run" / "matrix_game_v0.zip").is_file()
    assert not (tmp_path / "logs").exists()


@pytest.mark.e2e
def test_unique_id_is_added_to_the_folder(tmp_path):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100", "-uuid")
    (path,) = (tmp_path / "matrl").iterdir()
    assert path.name.startswith("matrix_game_v0_1_") and path == find_run_folder(tmp_path, "matrl", "matrix_game_v0").path


def test_tensorboard_files_go_where_they_are_wanted(tmp_path):
    train(tmp_path / "logs", "--env", "matrix_game_v0", "-n", "100", "-tb", str(tmp_path / "board"))
    assert not list((tmp_path / "logs").rglob("events.out*"))
    events = EventAccumulator(str(tmp_path / "board" / "matrl" / "matrix_game_v0_1")).Reload()
    assert [event.step for event in events.Scalars("eval/mean_reward")] == [100]


@pytest.mark.cases(e2e=["3-steps1"], rest="expensive")
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


@pytest.mark.e2e
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


@pytest.mark.e2e
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


@pytest.mark.expensive
def test_record_films_the_last_model(tmp_path, capsys):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    train(tmp_path, "--env", "checkers_v0", "-n", "100", "--record")
    path = tmp_path / "matrl" / "checkers_v0_1" / "video.mp4"
    n_frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert n_frames > 1
    printed = capsys.readouterr().out
    assert re.search(r"\n  checkers_v0.zip +last model\n", printed) and re.search(r"\n  video.mp4 +a greedy", printed)
    assert "Filming" not in printed  # --verbose 0


@pytest.mark.cases(e2e=["1-False"])
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


@pytest.mark.e2e
def test_competing_agents_are_shown_one_by_one(tmp_path, capsys):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "400", "--verbose", "1", "--eval-episodes", "10", "--seed", "0")
    printed = capsys.readouterr().out
    assert not re.search(r"\bteam\b|ep_rew_mean +\|", printed)
    assert "|    ep_rew_mean agent_0" in printed and "sampled return over steps: * agent_0, o agent_1" in printed
    rows = [line.split()[:2] for line in printed.split("\n") if line.startswith(("sampled ", "greedy ", "random "))]
    assert rows == [[policy, f"agent_{i}"] for policy in ("sampled", "greedy", "random") for i in (0, 1)]


@pytest.mark.e2e
def test_progress_bar_is_shown(tmp_path, capsys):
    train(tmp_path, "--env", "matrix_game_v0", "-n", "100", "--progress")
    captured = capsys.readouterr()
    assert "100%" in captured.out + captured.err or "100/100" in captured.out + captured.err


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
