"""The comparison of recurrent updates: ratios are those of the measured seconds, and the update alone differs."""

import pytest

from benchmarks import recurrent_speed
from benchmarks.recurrent_speed import build, measure

SMALL = {"n_envs": 2, "n_steps": 8, "batch_size": 8, "n_epochs": 1}


def test_speeds_are_medians_of_the_rounds_after_the_first_one(monkeypatch):
    seconds = {"auto": iter([9.0, 1.0, 2.0, 4.0]), "sb3": iter([9.0, 8.0, 8.0, 5.0])}
    monkeypatch.setattr(recurrent_speed, "iteration_seconds", lambda model: next(seconds[model.arguments["backend"]]))
    row = measure("switch_v0", "matrl", 3, **SMALL)
    assert (row["auto"], row["sb3"], row["ratio"], row["agents"]) == (16 / 2.0, 16 / 8.0, 4.0, 4)


@pytest.mark.parametrize("backend", recurrent_speed.BACKENDS)
def test_which_update_is_measured(backend):
    model = build("checkers_v0", "ippo", backend, **SMALL)
    assert ("LSTMs read whole sequences" in model.coordinator.joint.describe()) == (backend == "auto")
    assert recurrent_speed.iteration_seconds(model) > 0.0
    assert (model.num_timesteps, model.report.best_response) == (16, {})
