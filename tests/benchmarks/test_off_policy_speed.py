"""The comparison of off-policy speed: equal work is required, and rates and ratios are those of the measured seconds."""

import pytest

from benchmarks import off_policy_speed
from benchmarks.off_policy_speed import compare, measure_ours


@pytest.fixture
def small(monkeypatch):
    for name, value in {"PART": 40, "WARM_UP": 1020, "PARTS": 2, "NET_ARCH": [8]}.items():
        monkeypatch.setattr(off_policy_speed, name, value)


@pytest.mark.parametrize("algorithm", off_policy_speed.ALGORITHMS)
def test_ours_takes_a_gradient_step_per_ten_joint_steps(small, algorithm):
    result = measure_ours(algorithm)
    assert (result["env_steps"], result["gradient_steps"]) == (40, 4)
    assert len(result["seconds"]) == len(result["cpu_seconds"]) == 2


def work(seconds, gradient_steps=4):
    return {"seconds": seconds, "cpu_seconds": [0.5], "env_steps": 40, "gradient_steps": gradient_steps}


def test_rates_are_medians_over_all_rounds(small, monkeypatch):
    ours = iter([work([1.0, 2.0]), work([9.0]), work([3.0, 8.0]), work([9.0])])
    monkeypatch.setattr(off_policy_speed, "_in_process", lambda *_: next(ours))
    monkeypatch.setattr(off_policy_speed, "measure_benchmarl", lambda _: work([10.0]))
    vdn = compare(rounds=2)["vdn"]
    assert vdn["sb3-matrl"]["env_steps_per_second"] == 40 / 2.5
    assert vdn["sb3-matrl"]["gradient_steps_per_second"] == 4 / 2.5
    assert vdn["ratio_of_env_steps_per_second"] == 4.0
    assert vdn["ratio_of_env_steps_per_cpu_second"] == 1.0


def test_other_work_cannot_be_compared(small, monkeypatch):
    monkeypatch.setattr(off_policy_speed, "_in_process", lambda *_: work([1.0]))
    monkeypatch.setattr(off_policy_speed, "measure_benchmarl", lambda _: work([1.0], gradient_steps=8))
    with pytest.raises(RuntimeError, match="BenchMARL did other work than expected"):
        compare(rounds=1)
