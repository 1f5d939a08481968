"""No file chooses which code runs: an environment ``module:callable`` in a file needs the user's word."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_matrl import MATRL
from sb3_matrl.common.loading import load_model
from sb3_matrl.envs.env_ids import is_registered, registered_ids
from sb3_matrl.zoo import benchmark, enjoy, report, sweep, train
from sb3_matrl.zoo.benchmarking import worker
from sb3_matrl.zoo.common.trusted_envs import check_env_of_file
from sb3_matrl.zoo.diagnosis.saved_model import check_model
from tests.files.hostile import changed_document, read_members, write_members
from tests.zoo.sweeps import SWEEP, write_sweep

CALLS: list[str] = []
SMALL = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}


def spy(**kwargs: Any) -> Any:
    """A factory that notes its calls."""
    CALLS.append(str(kwargs))
    from sb3_matrl.envs import switch_v0

    return switch_v0.parallel_env(render_mode=kwargs.get("render_mode"))


ENV = f"{__name__}:spy"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder whose ``args.yml`` names the factory."""
    folder = tmp_path / "run"
    folder.mkdir()
    MATRL("MlpPolicy", "switch_v0", seed=0, device="cpu", **SMALL).save(folder / f"{ENV.replace(':', '-')}.zip")
    (folder / "args.yml").write_text(yaml.safe_dump({"algo": "matrl", "env": ENV, "seed": 0}))
    (folder / "config.yml").write_text(yaml.safe_dump({ENV: {"env_kwargs": {"mark": 1}}}))
    (folder / "progress.csv").write_text("time/total_timesteps\n1\n")
    CALLS.clear()
    return folder


def error_of(capsys: Any, function: Any, *words: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        function(list(words))
    assert exit_info.value.code == 2
    message: str = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


@pytest.mark.parametrize("env_id", [*registered_ids(), "manysegmentswimmer_2x2", "pettingzoo:sisl/multiwalker-v9"])
def test_own_ids_name_no_code(env_id: str) -> None:
    assert is_registered(env_id)
    check_env_of_file(env_id, "args.yml")


@pytest.mark.parametrize(
    "env_id", ["subprocess:run", "os:system", "checkers_v0:env", "pettingzoo.sisl:x", "nonsense", "", ":"]
)
def test_other_ids_need_the_users_word(env_id: str) -> None:
    for given, trust in (((), False), (("checkers_v0", None), False)):
        with pytest.raises(ValueError, match=r"args\.yml names the environment"):
            check_env_of_file(env_id, "args.yml", given, trust)
    check_env_of_file(env_id, "args.yml", (env_id,))
    check_env_of_file(env_id, "args.yml", trust=True)


@pytest.mark.parametrize("words", [[], ["--env", "switch_v0"]])
def test_enjoy_asks(run_folder: Path, capsys: Any, words: list[str]) -> None:
    message = error_of(capsys, enjoy.main, "--run-dir", str(run_folder), *words)
    assert f"add --env {ENV} or --trust" in message or "leave --env out" in message
    assert not CALLS


@pytest.mark.parametrize("words", [["--env", ENV], ["--trust"]])
def test_enjoy_plays_what_is_trusted(run_folder: Path, words: list[str]) -> None:
    (run_folder / "config.yml").write_text(yaml.safe_dump({ENV: {}}))
    assert enjoy.main(["--run-dir", str(run_folder), "--n-episodes", "1", *words]) == 0
    assert CALLS


@pytest.mark.parametrize("words", [["--resume"], ["--env", "switch_v0", "--resume"]])
def test_resume_asks(run_folder: Path, capsys: Any, words: list[str]) -> None:
    assert f"add --env {ENV} or --trust" in error_of(capsys, train.main, *words, str(run_folder))
    assert not CALLS


@pytest.mark.parametrize("words", [["--env", ENV], ["--trust"]])
def test_resume_accepts_what_is_trusted(run_folder: Path, capsys: Any, words: list[str]) -> None:
    assert "ended before a checkpoint was saved" in error_of(capsys, train.main, *words, "--resume", str(run_folder))
    assert CALLS


@pytest.mark.e2e
@pytest.mark.parametrize("words", [[], ["--trust"]])
def test_report_shows_frames_of_trusted_environments(run_folder: Path, words: list[str]) -> None:
    assert report.main([str(run_folder), *words]) == 0
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert bool(CALLS) == bool(words)
    assert ("if you trust it, add --trust" in page) == (not words)


def test_env_of_config_yml_alone_is_not_trusted(run_folder: Path) -> None:
    (run_folder / "args.yml").unlink()
    assert report.main([str(run_folder)]) == 0
    assert not CALLS


def test_algorithm_of_a_run_folder_must_be_registered(run_folder: Path, capsys: Any) -> None:
    (run_folder / "args.yml").write_text(yaml.safe_dump({"algo": f"{__name__}:spy", "env": "switch_v0", "seed": 0}))
    (run_folder / "config.yml").write_text("switch_v0: {}")
    assert "is unknown" in error_of(capsys, train.main, "--resume", str(run_folder))
    assert not CALLS


def test_environment_and_class_in_a_model_are_not_imported(run_folder: Path, tmp_path: Path) -> None:
    model = MATRL("MlpPolicy", "switch_v0", seed=0, device="cpu", **SMALL)
    model.save(tmp_path / "model.zip", {"run": {"env": ENV, "algo": ENV, "env_wrapper": ENV}})
    load_model(tmp_path / "model.zip", device="cpu")
    list(map(str, check_model(tmp_path / "model.zip")))
    members = changed_document(read_members(tmp_path / "model.zip"), lambda document: {**document, "algorithm": ENV})
    write_members(tmp_path / "model.zip", members)
    with pytest.raises(ValueError, match="is unknown"):
        load_model(tmp_path / "model.zip", device="cpu")
    assert not CALLS


def test_command_and_wandb_id_of_a_run_folder_are_text(run_folder: Path, capsys: Any) -> None:
    for name in ("command.txt", "wandb_id.txt"):
        (run_folder / name).write_text(f"touch {run_folder / 'mark'}; $(touch {run_folder / 'mark'})\n")
    error_of(capsys, train.main, "--resume", str(run_folder), "--trust")
    assert report.main([str(run_folder)]) == 0
    assert not (run_folder / "mark").exists()


def test_benchmark_asks_for_environments_of_its_settings_file(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "study.yml"
    file.write_text(yaml.safe_dump({"envs": ["switch_v0", ENV], "algos": ["ippo"]}))
    CALLS.clear()
    assert f"add --envs {ENV} or --trust" in error_of(capsys, benchmark.main, "--settings", str(file))
    file.write_text(yaml.safe_dump({"envs": [ENV], "algos": ["ippo"], "trust": True}))
    assert "'trust' is unknown" in error_of(capsys, benchmark.main, "--settings", str(file))
    assert not CALLS


@pytest.mark.parametrize("words", [["--envs", ENV], ["--trust"]])
def test_benchmark_accepts_what_is_trusted(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "study.yml"
    file.write_text(yaml.safe_dump({"envs": [ENV], "algos": ["ippo"]}))
    assert benchmark.parse_words(["--settings", str(file), *words]).envs == [ENV]


def test_run_of_a_benchmark_resumes_in_its_own_environment_only(run_folder: Path, capsys: Any) -> None:
    words = ["--seed", "0", "--run-dir", str(run_folder), "--env"]
    assert "leave them" not in error_of(capsys, worker.main, *words, "switch_v0")
    assert not CALLS
    assert "ended before a checkpoint" in error_of(capsys, worker.main, *words, ENV)


def sweep_with(tmp_path: Path, *words: str, **parameters: Any) -> str:
    command = [*SWEEP["command"][:3], "--algo=ippo", *words, "--n_timesteps=16", "${args}"]
    return str(write_sweep(tmp_path, command=command, parameters={**SWEEP["parameters"], **parameters}))


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ([f"--env={ENV}"], {}),
        (["--env", ENV], {}),
        ([], {"env": {"values": ["switch_v0", ENV]}}),
        (["--env=switch_v0", "--trust"], {}),
        (["--env=switch_v0", "--trust=true"], {}),
        (["--env=switch_v0"], {"trust": {"value": True}}),
    ],
)
@pytest.mark.parametrize("budget", [[], ["--n-evaluations", "2"]])
def test_sweep_asks(tmp_path: Path, capsys: Any, words: list[str], parameters: dict[str, Any], budget: list[str]) -> None:
    CALLS.clear()
    message = error_of(capsys, sweep.main, sweep_with(tmp_path, *words, **parameters), "-f", str(tmp_path), *budget)
    assert "--trust" in message and not CALLS


def test_sweep_accepts_what_is_trusted(tmp_path: Path) -> None:
    CALLS.clear()
    options = sweep.parse_options([sweep_with(tmp_path, f"--env={ENV}"), "--trust"])
    assert sweep.checked_sweep(options)[1].env == ENV and CALLS


@pytest.mark.e2e
def test_study_on_disk_chooses_no_environment(tmp_path: Path, capsys: Any) -> None:
    """The data base of a study holds JSON; even values that were changed there make no other environment."""
    file = sweep_with(tmp_path, "--env=matrix_game_v0", "--eval_freq=16", "--eval_episodes=1")
    assert sweep.main([file, "-f", str(tmp_path), "--n-trials", "1"]) == 0
    (database,) = tmp_path.glob("sweeps/*/study.db")
    with sqlite3.connect(database) as connection:
        table = "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'values'"
        connection.execute(table, (f'{{"env": "{ENV}", "trust": true}}',))
    CALLS.clear()
    with pytest.raises(ValueError, match="trust"):
        sweep.main([file, "-f", str(tmp_path), "--n-trials", "1"])
    assert not CALLS
