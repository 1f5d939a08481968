"""Agents named by numbers on the command lines: their text in flags, files and tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sb3_matrl.common.loading import load_model
from sb3_matrl.zoo.enjoy import main as enjoy
from sb3_matrl.zoo.train import main as train

pytestmark = pytest.mark.e2e

GAME = ["--env", "tests.vec_env.test_agent_names:Twins", "--env-kwargs", "names:[0, 1]"]
SMALL = [
    "-n",
    "32",
    "--eval-freq",
    "32",
    "--eval-episodes",
    "2",
    "--verbose",
    "0",
    "--device",
    "cpu",
    "--seed",
    "0",
    "-params",
]
SMALL += ["n_envs:2", "n_steps:16", "batch_size:32", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[4]"]


@pytest.mark.cases(expensive=["learning_rate:{'0': 0.001, '1': 0.01}"], rest="e2e")
@pytest.mark.parametrize(
    "settings", ["learning_rate:{0: 0.001, 1: 0.01}", "learning_rate:{'0': 0.001, '1': 0.01}", "share:{team: [0, 1]}"]
)
def test_numbers_name_agents_in_settings_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str) -> None:
    assert train([*GAME, "-f", str(tmp_path), *SMALL, settings]) == 0
    (folder,) = (tmp_path / "matrl").iterdir()
    model = load_model(next(folder.glob("tests*.zip")))
    assert model.possible_agents == ["0", "1"]
    if "share" in settings:
        assert model.agents[0] is model.agents["1"]
    else:
        assert [model.agents[agent].learning_rate for agent in (0, "1")] == [0.001, 0.01]
    with (folder / "progress.csv").open() as file:
        assert {"eval/0/mean_reward", "eval/1/mean_reward"} <= set(next(csv.reader(file)))
    capsys.readouterr()
    assert enjoy([*GAME, "-f", str(tmp_path), "--n-episodes", "2", "--no-render", "--agent", f"0={folder}:1"]) == 0
    assert "greedy    1 " in capsys.readouterr().out


def test_a_frozen_agent_is_found_by_its_number(tmp_path: Path) -> None:
    assert train([*GAME, "-f", str(tmp_path / "first"), *SMALL]) == 0
    model = next(tmp_path.rglob("tests*.zip"))
    assert train([*GAME, "-f", str(tmp_path / "second"), *SMALL, f"frozen:{{0: [{model}, 1]}}"]) == 0
    frozen = load_model(next((tmp_path / "second").rglob("tests*.zip")))
    assert list(frozen.team.frozen) == ["0"] and list(frozen.learners) == ["1"]
