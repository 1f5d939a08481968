"""Trainings that begin from a saved model: its critics must see what those of the algorithm see."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_matrl import MATRL
from sb3_matrl.zoo.train import main

SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1"]
QUICK = ["--env", "matrix_game_v0", "-n", "100", "--eval-freq", "-1", "--verbose", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> path: models with either critic, and one agent of each."""
    folder, paths = tmp_path_factory.mktemp("models"), {}
    for critic in ("own", "central"):
        arguments = {"n_steps": 8, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
        model = MATRL("MlpPolicy", "matrix_game_v0", critic=critic, device="cpu", **arguments)  # type: ignore[arg-type]
        model.save(folder / critic)
        model.agents["agent_0"].save(folder / f"agent_{critic}")
        paths |= {name: str(folder / f"{name}.zip") for name in (critic, f"agent_{critic}")}
    return paths


@pytest.mark.e2e
def test_central_critics_are_trained_further(saved: dict[str, str], tmp_path: Path) -> None:
    assert main(["-f", str(tmp_path), "--algo", "mappo", *QUICK, "-i", saved["central"], *SMALL]) == 0
    model = MATRL.load(tmp_path / "mappo" / "matrix_game_v0_1" / "matrix_game_v0", device="cpu")
    assert model.num_timesteps == 100 and model.arguments["critic"] == "central"


@pytest.mark.parametrize(
    ("algorithm", "file", "message"),
    [
        ("mappo", "own", "its networks have critic='own', those of mappo critic='central'"),
        ("ippo", "central", "its networks have critic='central', those of ippo critic='own'"),
        ("mappo", "agent_own", "its policy is a ActorCriticPolicy, that of agent_0 a CentralCriticPolicy"),
        ("ippo", "agent_central", "its policy is a CentralCriticPolicy, expected one of"),
    ],
)
def test_other_critics_are_rejected(
    algorithm: str, file: str, message: str, saved: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["-f", str(tmp_path / "logs"), "--algo", algorithm, *QUICK, "-i", saved[file], "--trust", *SMALL])
    error = capsys.readouterr().err
    assert exit_info.value.code == 2 and error.startswith(f"error: --trained-agent {saved[file]}: {message}")
    assert error.count("\n") == 1 and not (tmp_path / "logs").exists()
