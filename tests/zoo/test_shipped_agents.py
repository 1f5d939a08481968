"""Trained agents that come with the package: small files that play as their record says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch as th

from benchmarks.pretrained_agents import EPISODES, RECORD, TASKS, table, without_training_state
from sb3_matrl import MATRL
from sb3_matrl.common.loading import load_model
from sb3_matrl.files.model_files import read_model
from sb3_matrl.zoo.enjoy import main, parse_options
from sb3_matrl.zoo.playing import shipped_agents
from sb3_matrl.zoo.playing.display_check import NoScreenError
from sb3_matrl.zoo.playing.match import play, prepare
from sb3_matrl.zoo.playing.shipped_agents import SHIPPED, card, find_shipped, shipped_names
from tests.documentation import DOCS

RECORDED: list[dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))["agents"]


# One quick case and one of CI; all others only in the whole suite.
SLOWER = {"kuhn_poker": pytest.mark.e2e, "climbing": ()}
# Payoffs of rock, paper and scissors, of the row player and of the column player. Equilibrium: (1/5, 3/5, 1/5).
UNEVEN_RPS = [[[0, -1, 3], [1, 0, -1], [-3, 1, 0]], [[0, 1, -3], [-1, 0, 1], [3, -1, 0]]]


def row_of(name: str) -> dict[str, Any]:
    return next(row for row in RECORDED if row["name"] == name)


def test_every_task_is_shipped_and_recorded() -> None:
    tasks = [(task.name, task.title) for task in TASKS]
    assert tasks == [(row["name"], row["title"]) for row in RECORDED]
    assert shipped_names() == sorted(task.name for task in TASKS)


def test_files_are_small() -> None:
    sizes = [path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()]
    assert max(sizes) < 500_000 and sum(sizes) < 1_500_000


def test_table_of_the_documentation_is_that_of_the_record() -> None:
    page = (DOCS / "pretrained.md").read_text(encoding="utf-8")
    assert table({"agents": RECORDED}) in page


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row["name"], marks=SLOWER.get(row["name"], pytest.mark.expensive)) for row in RECORDED]
)
def test_agents_play_as_recorded(row: dict[str, Any]) -> None:
    """Fewer episodes with the same seed; their mean is within four standard errors of the recorded one."""
    if row["env"].startswith("openspiel:"):
        pytest.importorskip("pyspiel")
    options = parse_options(["--pretrained", row["name"], "--n-episodes", "20", "--device", "cpu"])
    for policy, result in play(prepare(options), options).items():
        error = row[policy]["std"] * math.sqrt(1 / 20 + 1 / EPISODES)
        assert result.mean == pytest.approx(row[policy]["mean"], abs=4 * error + 1e-6), policy


def test_nash_conv_is_the_largest_gain_of_both_players() -> None:
    """By a loop over the actions of each player, from the probabilities that the networks give."""
    model = load_model(find_shipped("uneven_rps").last_model, device="cpu")
    ones = th.ones(1, 1)
    first, second = (one.policy.get_distribution(ones).distribution.probs[0].tolist() for one in model.agents.values())
    payoffs = [[sum(row[j] * second[j] for j in range(3)) for row in UNEVEN_RPS[0]]]
    payoffs.append([sum(UNEVEN_RPS[1][i][j] * first[i] for i in range(3)) for j in range(3)])
    gain = sum(
        max(one) - sum(p * x for p, x in zip(own, one, strict=True)) for own, one in zip((first, second), payoffs, strict=True)
    )
    assert row_of("uneven_rps")["nash_conv"]["trained"] == pytest.approx(gain, abs=1e-6)
    assert gain < row_of("uneven_rps")["nash_conv"]["chance"] == pytest.approx(4 / 3)


def test_command_says_what_is_recorded_and_what_else_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pretrained", "climbing", "--n-episodes", "2", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"climbing, matrl-optimistic on matrix_game_v0: {row_of('climbing')['title']}"
    assert lines[2].startswith("Recorded team return: 22.00 sampled") and "random play -6.89" in lines[2]
    assert "checkers, checkers_qmix, chicken" in lines[-1] and "climbing" not in lines[-1]
    assert "Exact NashConv: " in card("uneven_rps") and "team return" not in card("uneven_rps")


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


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main([*words])
    return capsys.readouterr().err


def test_mistakes_are_errors_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "--pretrained", "chekers")
    assert "did you mean 'checkers'? Known: checkers, checkers_qmix" in error and error.count("\n") == 1
    assert "is a run of matrl on checkers_v0, not with --env pong_v3" in error_of(capsys, "--pretrained", "--env", "pong_v3")
    assert "not allowed with argument" in error_of(capsys, "--pretrained", "--run-dir", "runs/mine")
    with pytest.raises(FileNotFoundError, match="did you mean 'checkers'"):
        find_shipped("chekers")


def test_games_that_cannot_be_shown_are_errors_before_or_instead_of_the_first_episode(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = error_of(capsys, "--pretrained", "climbing", "--render")
    assert error == "error: env matrix_game_v0 cannot be shown by --render: it has no render_mode 'human', only ansi\n"
    options = parse_options(["--pretrained", "climbing", "--device", "cpu"])
    game = replace(prepare(options), env_id="tests.zoo.test_shipped_agents:promising", env_kwargs={})
    with pytest.raises(NoScreenError, match="unexpected keyword argument 'render_mode'"):
        play(game, replace(options, render=True))


def promising() -> None:
    """An environment that does not take ``render_mode``, whatever its metadata say."""


def test_an_installation_without_agents_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipped_agents, "SHIPPED", tmp_path)
    assert "this installation has no trained agents" in error_of(capsys, "--pretrained")
