"""An algorithm of another package, registered by its entry point, works with every command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sb3_matrl import load_model
from sb3_matrl.common import registry
from sb3_matrl.zoo import benchmark, doctor, enjoy, report, sweep, train
from tests.common.step_counter import StepCounter

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TRAIN = ["--algo", "step-counter", "--env", "checkers_v0", "--seed", "1", "--eval-episodes", "2", "--verbose", "0"]


@pytest.fixture(autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package, as pip would leave it, for this process and those that it starts."""
    site = tmp_path_factory.mktemp("site")
    info = site / "step_counter-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: step-counter\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[sb3_matrl.algorithms]\nstep-counter = tests.common.step_counter:SPEC\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
    registry._registered.cache_clear()
    yield
    registry._registered.cache_clear()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    assert train.main([*TRAIN, "--run-dir", str(folder), "--save-freq", "20"]) == 0
    return folder


def test_train_and_resume(run_dir: Path) -> None:
    model = load_model(run_dir / "checkers_v0.zip")
    assert isinstance(model, StepCounter) and (model.num_timesteps, int(model.count)) == (60, 60)
    assert train.main(["--resume", str(run_dir), "-n", "90"]) == 0
    assert int(load_model(run_dir / "checkers_v0.zip").count) == 90  # type: ignore[attr-defined]
    with np.load(run_dir / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [90], "as in a run that was never stopped"


def test_play_report_and_diagnose(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enjoy.main(["--run-dir", str(run_dir), "--n-episodes", "2"]) == 0
    assert report.main([str(run_dir), "--frames", "2"]) == 0
    assert "Meta-game" not in (run_dir / "report.html").read_text(encoding="utf-8")
    assert doctor.main([str(run_dir / "checkers_v0.zip")]) == 0
    assert "StepCounter" in capsys.readouterr().out


def test_continue_training_a_model(run_dir: Path, tmp_path: Path) -> None:
    more = ["-i", str(run_dir / "checkers_v0.zip"), "-n", "30", "--n_steps=3", "--run-dir", str(tmp_path / "more")]
    assert train.main([*TRAIN, *more]) == 0
    model = load_model(tmp_path / "more" / "checkers_v0.zip")
    assert isinstance(model, StepCounter) and (model.num_timesteps, int(model.count), model.n_steps) == (90, 90, 3)


def test_arguments_of_other_algorithms_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main([*TRAIN, "--n_epochs=3"])
    assert stop.value.code == 2
    assert "n_epochs" in capsys.readouterr().err


def test_benchmark_beside_another_algorithm(tmp_path: Path) -> None:
    words = ["--algos", "step-counter", "ippo", "--envs", "matrix_game_v0", "--seeds", "1", "-n", "40", "--eval-episodes", "2"]
    assert benchmark.main([*words, "-params", "n_steps:5", "n_envs:2", "--jobs", "1", "--out", str(tmp_path)]) == 0
    table = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["table"]
    assert (table[0]["setting"], table[0]["env_steps"], table[0]["gradient_steps"]) == ("step-counter", 40, 0)


def test_sweep(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "sweep.yaml").write_text(
        "program: zoo/train.py\nmethod: grid\nmetric: {name: eval/mean_reward, goal: maximize}\n"
        "parameters: {n_steps: {values: [2, 4]}}\n"
        "command: ['${env}', '${interpreter}', '${program}', --algo=step-counter, --env=checkers_v0, '${args}']\n"
    )
    assert sweep.main([str(tmp_path / "sweep.yaml"), "-n", "16", "-f", str(tmp_path / "logs")]) == 0
    summary = json.loads(next((tmp_path / "logs").rglob("summary.json")).read_text(encoding="utf-8"))
    assert summary["best"]["algo"] == "step-counter"
