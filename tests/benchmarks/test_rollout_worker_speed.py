"""The benchmark of rollout workers, with tiny trainings."""

from __future__ import annotations

import json

import pytest

from benchmarks import rollout_workers
from benchmarks.results_page import RENDERERS


@pytest.mark.expensive
def test_workers_play_the_same_in_turn_and_in_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(rollout_workers, "STEPS", 64)
    monkeypatch.setattr(rollout_workers, "ROUND_STEPS", 64)
    contestants = [(None, "", 1), (1, "process", 1), (2, "process", 2), (2, "in-turn", 2)]
    monkeypatch.setattr(rollout_workers, "CONTESTANTS", contestants)
    out = tmp_path / "record.json"
    words = ["--cases", "checkers_v0:4", "--env", "checkers_v0", "--iterations", "1", "--kills", "1", "--workers", "1", "2"]
    words += ["--off-policy-cases", "qmix:checkers_v0:4"]
    monkeypatch.setattr("sys.argv", ["rollout_workers", *words, "--sleep", "0.01", "--out", str(out)])
    rollout_workers.main()
    record = json.loads(out.read_text(encoding="utf-8"))
    for rows in (record["speed"], record["off-policy"]):
        assert [row["n_envs"] for row in rows] == [4, 4, 8, 8]
        assert rows[2]["parameter_hash"] == rows[3]["parameter_hash"]
        assert len({row["parameter_hash"] for row in rows}) == 3
    assert record["kills"]["identical"] == record["kills"]["restarts"] == 1
    first, second = record["scaling"]["rows"]
    assert second["mib_per_iteration"] == pytest.approx(2 * first["mib_per_iteration"])
    assert "checkers_v0" in RENDERERS["rollout_workers"](record)
