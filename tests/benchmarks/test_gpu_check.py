"""The check of a GPU, on the CPU."""

from __future__ import annotations

import json
import sys

import pytest
import torch as th

from benchmarks import gpu_equality
from benchmarks.gpu_check import main, missing_device
from benchmarks.gpu_equality import RandomNumbersOfTheCPU, cases, compare
from benchmarks.gpu_speed import crossover
from tests.host_syncs import META


def test_a_missing_gpu_is_told(monkeypatch, capsys):
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert main() == 2
    assert "there is no cuda: torch" in capsys.readouterr().err
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    monkeypatch.setattr(th.cuda, "device_count", lambda: 1)
    assert missing_device("cuda:0") is None and "no cuda:1" in str(missing_device("cuda:1"))


@pytest.mark.cases(e2e=["QMIX"], expensive=["PPO, stacked"])
@pytest.mark.parametrize("name", ["PPO, stacked", "QMIX"])
def test_one_device_equals_itself_and_other_random_numbers_do_not(name, monkeypatch):
    (case,) = (one for one in cases() if one.name == name)
    found = compare(case, "cpu")
    assert found["equal"] and found["difference"] == 0.0 < found["change"]
    seeds = iter(range(4))
    monkeypatch.setattr(gpu_equality, "_seed", lambda: gpu_equality.np.random.seed(next(seeds)))
    assert not compare(case, "cpu")["equal"]


def test_random_numbers_are_those_of_the_cpu():
    th.manual_seed(3)
    expected = [th.rand(2, 3), th.zeros(4).exponential_(), th.multinomial(th.full((2, 3), 0.3), 1)]
    th.manual_seed(3)
    with RandomNumbersOfTheCPU():
        drawn = [th.rand(2, 3, device="cpu"), th.zeros(4).exponential_(), th.full((2, 3), 0.3).multinomial(1)]
        assert th.rand(2, 3, device=META).device == META
    assert all(map(th.equal, drawn, expected))


def test_crossover_is_where_the_device_stays_faster():
    rows = [(128, 1.0, 3.0), (512, 2.0, 1.0), (2048, 4.0, 4.5), (8192, 9.0, 5.0), (16384, 20.0, 6.0)]
    table = [dict(zip(("work", "cpu", "device"), row, strict=True)) for row in rows]
    assert crossover(table[::-1]) == 8192
    assert crossover(table[:3]) is None
    assert crossover([]) is None


@pytest.mark.expensive
def test_whole_check_at_a_tiny_scale(tmp_path, monkeypatch):
    words = ["--device", "cpu", "--tiny", "--out", str(tmp_path / "record.json")]
    monkeypatch.setattr(sys, "argv", ["gpu_check", *words])
    assert main() == 0
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert len(record["equality"]) == len(cases()) and not record["skipped"] and not record["errors"]
    assert {row["world"] for row in record["trainings"]} == {"pong_v3, pixels", "2 agents"}
