"""Trained agents that come with the package: small files that play as their record says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pretrained_agents import EPISODES, RECORD, TASKS, table, without_training_state
from sb3_matrl import MATRL
from sb3_matrl.common.loading import load_model
from sb3_matrl.files.model_files import read_model
from sb3_matrl.zoo.enjoy import main, parse_options
from sb3_matrl.zoo.playing import shipped_agents
from sb3_matrl.zoo.playing.match import play, prepare
from sb3_matrl.zoo.playing.shipped_agents import SHIPPED, find_shipped, shipped_runs
from tests.documentation import DOCS

RECORDED: list[dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))["agents"]


def test_every_task_is_shipped_and_recorded_with_its_options() -> None:
    tasks = [(task.algorithm, task.env_id) for task in TASKS]
    assert sorted(shipped_runs()) == sorted(tasks) == sorted((row["algorithm"], row["env"]) for row in RECORDED)


def test_files_are_small() -> None:
    sizes = [path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()]
    assert max(sizes) < 300_000 and sum(sizes) < 800_000


def test_table_of_the_documentation_is_that_of_the_record() -> None:
    page = (DOCS / "pretrained.md").read_text(encoding="utf-8")
    assert table({"agents": RECORDED}) in page


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row["env"])
def test_agents_play_as_recorded(row: dict[str, Any]) -> None:
    """Fewer episodes with the same seed; their mean is within four standard errors of the recorded one."""
    words = ["--algo", row["algorithm"], "--env", row["env"], "--pretrained", "--n-episodes", "20", "--device", "cpu"]
    options = parse_options(words)
    for policy, result in play(prepare(options), options).items():
        error = row[policy]["std"] * math.sqrt(1 / 20 + 1 / EPISODES)
        assert result.mean == pytest.approx(row[policy]["mean"], abs=4 * error + 1e-6), policy


@pytest.mark.e2e
def test_copies_without_training_state_act_alike_and_can_be_trained(tmp_path: Path) -> None:
    small = {"n_envs": 2, "n_steps": 20, "batch_size": 40, "n_epochs": 1, "br_n_epochs": 1}
    model = MATRL("MlpPolicy", "checkers_v0", seed=0, **small).learn(80)
    model.save(tmp_path / "whole.zip", documents={"run": {"env": "checkers_v0", "algo": "matrl"}})
    without_training_state(tmp_path / "whole.zip", tmp_path / "small.zip")
    assert (tmp_path / "small.zip").stat().st_size < (tmp_path / "whole.zip").stat().st_size / 3
    saved = read_model(tmp_path / "small.zip")
    assert saved.training is None and saved.counters["num_timesteps"] == 80
    copy = load_model(tmp_path / "small.zip", env="checkers_v0")
    for mine, other in zip(model.policy.parameters(), copy.policy.parameters(), strict=True):
        assert mine.equal(other)
    assert copy.learn(40, reset_num_timesteps=False).num_timesteps == 120


def test_unknown_agents_are_an_error_that_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--pretrained", "--env", "pong_v3"])
    error = capsys.readouterr().err
    assert "no agents trained by matrl on pong_v3 come with sb3-matrl" in error
    assert "--algo matrl --env checkers_v0" in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["--pretrained", "--run-dir", "runs/mine"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_an_installation_without_agents_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped_agents, "SHIPPED", tmp_path)
    with pytest.raises(FileNotFoundError, match="this installation has no trained agents"):
        find_shipped("matrl", "checkers_v0")
