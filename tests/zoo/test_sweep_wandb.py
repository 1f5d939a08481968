import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from sb3_matrl.zoo.sweep import main
from tests.zoo.sweeps import SWEEP, write_sweep


@pytest.fixture
def online(monkeypatch):
    """A key that leads to no server."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


def fails(tmp_path, capsys, **changes):
    with pytest.raises(SystemExit) as stop:
        main([str(write_sweep(tmp_path, **changes)), "--backend", "wandb"])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_sweep_is_registered_and_the_agent_runs_it(tmp_path, monkeypatch, online):
    calls = []
    monkeypatch.setattr(wandb, "sweep", lambda sweep, entity, project: calls.append((sweep, entity, project)) or "abc")
    monkeypatch.setattr(subprocess, "run", lambda command, env, check: calls.append((command, env)) or FakeExit())
    path = write_sweep(tmp_path, entity="us", run_cap=7)
    assert main([str(path), "--backend", "wandb", "--wandb-project-name", "grid", "-n", "300"]) == 3
    (sweep, entity, project), (command, env) = calls
    assert (entity, project) == ("us", "grid")
    assert sweep["parameters"] == SWEEP["parameters"] and sweep["metric"] == SWEEP["metric"]
    assert sweep["command"] == [*(word for word in SWEEP["command"] if "n_timesteps" not in word), "--n_timesteps=300"]
    assert command == [sys.executable, "-m", "wandb", "agent", "--count", "7", "us/grid/abc"]
    # The agent starts "python": this one.
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


class FakeExit:
    returncode = 3


def test_without_a_key_the_other_backend_is_named(tmp_path, monkeypatch, capsys):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    error = fails(tmp_path, capsys)
    assert "no API key was found; run `wandb login`, or search locally with --backend optuna" in error


def test_offline_mode_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE is offline; unset it" in fails(tmp_path, capsys)


def test_refusal_of_the_server_is_one_line(tmp_path, monkeypatch, capsys, online):
    def refuse(*args, **kwargs):
        raise wandb.errors.CommError("permission denied")

    monkeypatch.setattr(wandb, "sweep", refuse)
    assert "W&B did not take the sweep: permission denied; check network and key, or search locally" in fails(tmp_path, capsys)


@pytest.mark.e2e
def test_agent_needs_the_repositorys_folder(tmp_path, monkeypatch, capsys, online):
    monkeypatch.chdir(tmp_path)
    assert "start the sweep in the repository's folder" in fails(tmp_path, capsys)
