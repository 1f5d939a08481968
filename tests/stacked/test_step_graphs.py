"""Steps as CUDA graphs, with a recorder that repeats the step's Python code in place of the GPU's."""

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch as th

from sb3_matrl.stacked import lockstep, step_graphs
from sb3_matrl.stacked.minibatches import Minibatch
from tests.stacked.test_lockstep import make, numbers, updated

SETTINGS = {"learning_rate": 1e-3, "betas": (0.9, 0.999), "eps": 1e-5, "clip_range": 0.2, "clip_range_vf": None}
SETTINGS |= {"normalize_advantage": True, "ent_coef": 0.0, "vf_coef": 0.5, "kl_coef": 0.0, "max_grad_norm": 0.5}


class Recorder:
    """What :func:`~sb3_matrl.stacked.step_graphs.record` does, on the CPU; counts recordings and repetitions."""

    def __init__(self) -> None:
        self.recorded: list[Minibatch] = []
        self.repeated = 0

    def __call__(self, step: step_graphs.Step, minibatch: Minibatch) -> tuple[Callable[[], None], th.Tensor]:
        self.recorded.append(minibatch)
        result = th.full((5, len(minibatch.counts)), th.nan)

        def repeat() -> None:
            self.repeated += 1
            result.copy_(step(minibatch))

        return repeat, result


@pytest.mark.cases(rest="e2e", quick=["uneven minibatches"])
@pytest.mark.parametrize("case", ["Discrete", "Box, unequal", "deaths, masks", "uneven minibatches", "different settings"])
def test_repeated_steps_equal_those_that_are_not_recorded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(case, "torch")
    assert model.collect_rollouts(model._init_callback(None))
    rollouts = {name: copy.deepcopy(learner.rollout_buffer) for name, learner in model.learners.items()}
    expected = updated(model, rollouts)
    recorder = Recorder()
    monkeypatch.setattr(lockstep, "_has_graphs", lambda *_: True)
    monkeypatch.setattr(step_graphs, "record", recorder)
    found = updated(make(case, "torch"), rollouts)
    kinds = {minibatch.kind for minibatch in recorder.recorded}
    assert recorder.repeated > 10 * len(kinds) > 0
    assert len(recorder.recorded) <= 2 * len(kinds), "at most one recording of each kind in each of the two updates"
    for key, value in numbers(expected).items():
        assert th.equal(numbers(found)[key], value), key
    assert found.report is not None and expected.report is not None
    assert found.report.best_response == expected.report.best_response


def test_graphs_are_for_gpus_and_steps_that_ask_nothing() -> None:
    free, asking = (lockstep.StepSettings(**SETTINGS, target_kl=limit) for limit in (None, 0.01))
    assert lockstep._has_graphs(th.device("cuda"), [free, free])
    assert not lockstep._has_graphs(th.device("cuda"), [free, asking])
    assert not lockstep._has_graphs(th.device("cpu"), [free])


def test_a_recording_that_fails_costs_only_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Discrete", "torch")
    assert model.collect_rollouts(model._init_callback(None))
    rollouts = {name: copy.deepcopy(learner.rollout_buffer) for name, learner in model.learners.items()}
    expected = updated(model, rollouts)
    calls = []

    def fail(step: step_graphs.Step, minibatch: Minibatch) -> Any:
        calls.append(minibatch)
        raise RuntimeError("CUDA error: operation failed\nduring capture")

    monkeypatch.setattr(lockstep, "_has_graphs", lambda *_: True)
    monkeypatch.setattr(step_graphs, "record", fail)
    with pytest.warns(UserWarning, match="no CUDA graphs, .*: CUDA error: operation failed during capture"):
        found = updated(make("Discrete", "torch"), rollouts)
    assert len(calls) == 2, "one in each of the two updates"
    for key, value in numbers(expected).items():
        assert th.equal(numbers(found)[key], value), key


def test_no_graph_is_freed_while_another_one_is_recorded() -> None:
    with step_graphs._nothing_is_freed():
        assert not gc.isenabled()
    assert gc.isenabled()
