import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from sb3_matrl import MATRL
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo import benchmark
from sb3_matrl.zoo.benchmark import main
from sb3_matrl.zoo.benchmarking import execution, forked_runs
from sb3_matrl.zoo.benchmarking import run_statistics as statistics
from sb3_matrl.zoo.benchmarking.plan import plan_runs
from sb3_matrl.zoo.benchmarking.settings_file import LISTS
from tests.zoo.benchmarking.small import WORDS, in_this_process
from tests.zoo.benchmarking.test_comparison import check_marl_eval

COMMAND = ["--algos", "matrl", "ippo", "--envs", "matrix_game_v0", "--seeds", "2", *WORDS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small benchmark in which the setting ``broken`` fails, run once for all tests that look at what it leaves."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    broken = "broken: {algo: ippo, learner_kwargs: {nonsense: 1}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forked_runs, "local_launcher", in_this_process)
        patch.setattr(execution, "POLL_SECONDS", 0.0)
        patch.setattr(statistics, "N_RESAMPLES", 100)
        exit_code = main([*COMMAND, "--setting", broken, "--jobs", "2", "--out", str(out), "--aggregate"])
    return out, exit_code


def test_failed_runs_give_exit_code_1_and_the_rest_is_reported(finished):
    out, exit_code = finished
    assert exit_code == 1
    results = sorted(str(path.parent.relative_to(out / "runs")) for path in out.rglob("result.json"))
    assert results == [f"matrix_game_v0/{setting}/{seed}" for setting in ("ippo", "matrl") for seed in (0, 1)]
    notes = json.loads((out / "record.json").read_text())["notes"]
    assert "warning: matrix_game_v0, broken: only 0 of 2 seeds are finished" in notes


def test_results_are_those_of_the_runs(finished):
    out, _ = finished
    data = json.loads((out / "results.json").read_text())
    check_marl_eval(data, episodes=2)
    rows = list(csv.DictReader((out / "table.csv").open()))
    for setting in ("matrl", "ippo"):
        finals = []
        for seed in (0, 1):
            with np.load(out / "runs" / "matrix_game_v0" / setting / str(seed) / "evaluations.npz") as evaluations:
                kept = data["sb3_matrl"]["matrix_game_v0"][setting][f"seed_{seed}"]
                assert [kept[f"step_{i}"]["step_count"] for i in (1, 2)] == evaluations["timesteps"].tolist() == [100, 200]
                assert kept["step_2"]["return_greedy"] == evaluations["results_greedy"][1].tolist()
                finals.append(evaluations["results"][-1].mean())
        (row,) = (row for row in rows if (row["env"], row["setting"]) == ("matrix_game_v0", setting))
        assert float(row["sampled_mean"]) == pytest.approx(np.mean(finals)) and row["seeds"] == "2"
    assert {row["env"] for row in rows} == {"matrix_game_v0", "all environments"}


def test_absolute_metrics_are_those_of_the_best_model(finished):
    out, _ = finished
    model = MATRL.load(out / "runs" / "matrix_game_v0" / "matrl" / "1" / "best_model.zip")
    data = json.loads((out / "results.json").read_text())["sb3_matrl"]["matrix_game_v0"]["matrl"]["seed_1"]
    env = make_joint_vec_env("matrix_game_v0", n_envs=4, env_kwargs={"game": "stag_hunt"})
    greedy = evaluate_policy(model, env, 20, deterministic=True, seed=0)
    env.close()
    # Greedy play of a one-shot game has one outcome.
    assert data["absolute_metrics"]["return_greedy"] == greedy.returns.tolist()
    assert set(data["absolute_metrics"]["return"]) <= {2.0 * payoff for payoff in (4.0, 3.0, 2.0, 1.0, 0.0)} | {3.0, 4.0}


def test_record_says_how_it_came_about(finished):
    out, _ = finished
    record = json.loads((out / "record.json").read_text())
    assert record["machine"]["versions"]["numpy"] == np.__version__ and record["reference"] == "ippo"
    assert record["options"]["seeds"] == [0, 1] and record["options"]["settings"][2]["name"] == "broken"
    budgets = {(run["setting"], run["env_steps"], *run["gradient_steps"].values()) for run in record["runs"]}
    # 2 iterations of 2 minibatches: 2 epochs, and 1 more of the best response.
    assert budgets == {("matrl", 200, 12, 12), ("ippo", 200, 8, 8)}
    assert all(run["hyperparameters"]["n_envs"] == 4 and run["machine"]["cpu_count"] for run in record["runs"])
    for row in record["table"]:
        runs = [run for run in record["runs"] if (run["env"], run["setting"]) == (row["env"], row["setting"])]
        for run in runs:
            assert run["timesteps"] == [100, 200] and [len(curve) for curve in run["returns"].values()] == [2, 2]
        for policy in ("sampled", "greedy") if runs else ():
            assert row[f"{policy}_mean"] == pytest.approx(np.mean([run["returns"][policy][-1] for run in runs]))


def test_curves_are_drawn(finished):
    out, _ = finished
    picture = matplotlib.image.imread(out / "learning_curves.png")
    # Both colours of the palette's beginning are seen.
    for colour in ("0072B2", "E69F00"):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        assert (np.abs(picture[..., :3] - rgb).max(axis=-1) < 0.02).sum() > 50
    assert "<svg" in (out / "learning_curves.svg").read_text()[:1000]


def test_finished_benchmark_is_not_run_again(finished, capsys, monkeypatch):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    monkeypatch.setattr(statistics, "N_RESAMPLES", 100)
    monkeypatch.setattr(execution, "execute", None)
    assert main([*COMMAND, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == before
    printed = capsys.readouterr()
    assert "all 4 runs were finished before" in printed.err and "P(> ippo)" in printed.out
    assert "gradient steps per agent differ: matrl 12, ippo 8" in printed.out


def test_changed_options_are_an_error(finished, capsys):
    out, _ = finished
    with pytest.raises(SystemExit) as error:
        main([*COMMAND[:-2], "-n", "300", "--out", str(out)])
    assert error.value.code == 2 and "n_timesteps was 200, now 300" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--algos", "mtrl"], "did you mean 'matrl'"),
        (["--setting", "x: 3"], "setting 'x': expected a mapping"),
        (["--setting", "x"], "expected one 'name: {key: value}' as YAML"),
        (["--setting", "x: {algo: ippo}", "--setting", "x: {algo: matrl}"], "--setting: 'x' is given twice"),
        (["--settings", "nowhere.yml"], "nowhere.yml"),
        (["--algos", "ippo", "--reference", "matrl"], "--reference: setting 'matrl' is unknown"),
        (["--env-kwargs", "checkers_v0: 3"], "checkers_v0 needs a mapping"),
        (["--bounds", "switch_v0: [0, 1]"], "--bounds: env 'switch_v0' is unknown"),
        (["--bounds", "checkers_v0: [1, 0]"], "needs [low, high] with low < high"),
        (["--bounds", "checkers_v0: 3"], "needs [low, high] with low < high"),
        (["--seed-list", "1", "1"], "a seed is given twice"),
        (["--seeds", "2", "--seed-list", "1"], "not allowed with"),
        (["--sead", "2"], "did you mean '--seed"),
        (["--tasks", "chicken"], "--tasks needs --suite"),
        (["--suite", "coordination", "--envs", "checkers_v0"], "--suite has its own --envs: leave one of them out"),
        (["--suite", "coordination", "--tasks", "chiken"], "--tasks: task 'chiken' is unknown; did you mean 'chicken'?"),
        (["--suite", "coordination", "--methods", "matlr"], "--methods: method 'matlr' is unknown; did you mean 'matrl'?"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as error:
        main(["--out", str(tmp_path / "out"), *words])
    printed = capsys.readouterr().err
    assert error.value.code == 2 and message in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def options_of(*words):
    return benchmark.benchmark_options(benchmark.parse_words(words))


def test_settings_come_from_file_and_command_line(tmp_path):
    path = tmp_path / "settings.yml"
    path.write_text("'ippo, 15 epochs': {algo: ippo, n_epochs: 15}\n")
    options = options_of("--settings", str(path), "--setting", "il-la: {gamma: 0.9}", "slow: {algo: matrl, br_n_epochs: 1}")
    assert [(s.name, s.algo, s.changes) for s in options.settings] == [
        ("ippo, 15 epochs", "ippo", {"n_epochs": 15}),
        ("il-la", "il-la", {"gamma": 0.9}),
        ("slow", "matrl", {"br_n_epochs": 1}),
    ]
    assert [s.name for s in options_of("--seeds", "3").settings] == ["matrl", "matrl-no-br", "il-la", "ippo"]
    assert options_of("--seeds", "3").seeds == (0, 1, 2) and options_of("--seed-list", "7", "4").seeds == (7, 4)


STUDY = """
envs: [switch_v0, matrix_game_v0]
env_kwargs: {switch_v0: {n_agents: 2}, matrix_game_v0: {game: rps}}
n_timesteps: 300
seed_list: [4, 5]
algos: [matrl]
hyperparams: {gamma: 0.9, policy_kwargs.net_arch: [3]}
settings: {"odd: name, 1": {algo: ippo, n_epochs: 15}}
bounds: {switch_v0: [-20, 20]}
eval_freq: -1
aggregate: true
conf_file: null
"""


def test_file_may_hold_a_whole_benchmark_and_flags_win(tmp_path):
    path = tmp_path / "study.yml"
    path.write_text(STUDY)
    given = benchmark.parse_words(["--settings", str(path)])
    options = benchmark.benchmark_options(given)
    assert (options.envs, options.seeds, options.n_timesteps) == (("switch_v0", "matrix_game_v0"), (4, 5), 300)
    assert options.env_kwargs == {"switch_v0": {"n_agents": 2}, "matrix_game_v0": {"game": "rps"}}
    assert options.hyperparams == {"gamma": 0.9, "policy_kwargs.net_arch": [3]}
    assert [(s.name, s.algo, s.changes) for s in options.settings] == [
        ("matrl", "matrl", {}),
        ("odd: name, 1", "ippo", {"n_epochs": 15}),
    ]
    assert given.bounds == {"switch_v0": [-20, 20]} and given.aggregate and options.eval_freq == -1
    words = [
        "--envs",
        "switch_v0",
        "--seeds",
        "1",
        "-n",
        "50",
        "-params",
        "gamma:0.8",
        "--env-kwargs",
        "switch_v0: {n_agents: 3}",
    ]
    changed = options_of("--settings", str(path), *words)
    assert (changed.envs, changed.seeds, changed.n_timesteps) == (("switch_v0",), (0,), 50)
    assert changed.hyperparams == {"gamma": 0.8, "policy_kwargs.net_arch": [3]}
    assert changed.env_kwargs["switch_v0"] == {"n_agents": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("envs: [switch_v0]\nsede: 3", "study.yml: key 'sede' is unknown; did you mean 'seeds'?"),
        ("envs: [switch_v0]\nsettings: 3", "study.yml: settings: expected a mapping, got 3"),
        ("envs: [switch_v0]\nseeds: many", "study.yml: argument --seeds: expected a whole number"),
        ("envs: [switch_v0]\nseeds: [1, 2]", "study.yml: seeds: expected one value, got .1, 2.; seed_list takes several"),
        ("envs: [switch_v0]\ndevice: [cpu]", "study.yml: device: expected one value, got .'cpu'."),
        ("seeds: 2\nseed_list: [1]", "study.yml: argument --seed-list: not allowed with argument --seeds"),
        ("mine: 3", "setting 'mine': expected a mapping"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    path = tmp_path / "study.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        options_of("--settings", str(path))


@pytest.mark.cases(quick=["value_based"], rest="expensive")
@pytest.mark.parametrize("path", sorted(Path("benchmarks/studies").glob("*.yml")), ids=lambda path: path.stem)
def test_shipped_studies_can_be_planned(path):
    assert plan_runs(options_of("--settings", str(path)))


def test_reference_is_ippo_unless_said_otherwise():
    both, without = options_of("--algos", "matrl", "ippo"), options_of("--algos", "matrl", "il-la")
    assert benchmark.reference_setting(both, None) == "ippo" and benchmark.reference_setting(without, None) == "matrl"
    assert benchmark.reference_setting(both, "matrl") == "matrl"


def test_suites_have_defaults_of_their_own():
    given = benchmark.parse_words(["--suite", "grid"])
    assert (given.out, given.seeds, benchmark.asked_seeds(given)) == ("logs/suite", 10, tuple(range(10)))
    given = benchmark.parse_words(["--suite", "grid", "--out", "mine", "--seed-list", "4", "2"])
    assert given.out == "mine" and benchmark.asked_seeds(given) == (4, 2)


@pytest.mark.e2e
def test_suite_writes_one_table_and_the_files_of_its_tasks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(forked_runs, "local_launcher", in_this_process)
    monkeypatch.setattr(execution, "POLL_SECONDS", 0.0)
    words = [
        "--suite",
        "coordination",
        "--tasks",
        "chicken",
        "--methods",
        "il-la",
        "--seeds",
        "1",
        "-n",
        "1000",
        "--device",
        "cpu",
    ]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "suite.json").read_text())
    (task,) = record["tasks"]
    assert [row["method"] for row in task["rows"]] == ["ippo", "il-la"] and task["rows"][0]["env_steps"] == 1000
    assert (tmp_path / "out" / "suite.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "out" / "chicken" / "table.md").exists() and record["notes"][-1].startswith(
        "warning: 1 seed says little"
    )


@pytest.mark.expensive
def test_killed_benchmark_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, "-m", "sb3_matrl.zoo.benchmark", *COMMAND, "--jobs", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.rglob("result.json")):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143 and "give the same command again" in errors
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert 1 <= len(done) < 4
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of 4 runs were finished before" in again.stderr
    assert len(list(tmp_path.rglob("result.json"))) == 4
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_lists_of_settings_files_are_the_flags_that_take_several_values() -> None:
    actions = benchmark.build_parser()._actions
    several = {action.dest for action in actions if action.nargs == "+" and not isinstance(action.default, list)}
    assert several | {"envs"} == set(LISTS)
