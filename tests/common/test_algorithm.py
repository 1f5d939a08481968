"""The base class is enough for a new algorithm: training, files, exact resume and acting come with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL, load_model
from sb3_matrl.common import registry
from sb3_matrl.common.registry import AlgorithmSpec, algorithm_names, algorithm_spec
from sb3_matrl.evaluation import evaluate_policy
from tests.common.step_counter import SPEC, StepCounter


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> AlgorithmSpec:
    names = dict(registry._registered())
    monkeypatch.setattr(registry, "_registered", lambda: names)
    registry.register(SPEC)
    return SPEC


class StopAt(BaseCallback):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def _on_step(self) -> bool:
        return self.num_timesteps < self.steps


def make(**arguments: Any) -> StepCounter:
    return StepCounter(env="checkers_v0", n_envs=2, seed=1, **arguments)


def test_it_learns_and_evaluates() -> None:
    model = make().learn(40)
    assert (model.num_timesteps, model._n_updates, int(model.count)) == (40, 4, 40)
    assert model.logger.name_to_value["train/count"] == 0, "dumped"
    assert evaluate_policy(model, "checkers_v0", 2, seed=0).n_episodes == 2


def test_saving_and_loading(tmp_path: Path, registered: AlgorithmSpec) -> None:
    make(n_steps=7).learn(28).save(tmp_path / "model")
    for model in (StepCounter.load(tmp_path / "model"), load_model(tmp_path / "model")):
        assert isinstance(model, StepCounter)
        assert (int(model.count), model.n_steps, model.num_timesteps) == (28, 7, 28)
    with pytest.raises(ValueError, match="holds a model of StepCounter, not of MATRL: load it with load_model"):
        MATRL.load(tmp_path / "model")


def test_a_stopped_training_resumes_exactly(tmp_path: Path) -> None:
    whole = make().learn(60)
    make().learn(60, callback=StopAt(34)).save(tmp_path / "model")
    resumed = StepCounter.load(tmp_path / "model", env="checkers_v0")
    assert (resumed.num_timesteps, int(resumed.count)) == (30, 30), "the state before the rollout under way"
    resumed.learn(30, reset_num_timesteps=False)
    assert (resumed.num_timesteps, int(resumed.count)) == (60, 60)
    for agent, rows in whole.position.observations.items():
        np.testing.assert_array_equal(rows, resumed.position.observations[agent])


def test_a_file_of_an_unregistered_class_is_not_loaded_by_name(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match="model: algorithm class 'StepCounter' is unknown"):
        load_model(tmp_path / "model")


def test_registered_names(registered: AlgorithmSpec) -> None:
    assert algorithm_names()[:4] == ["matrl", "matrl-no-br", "il-la", "ippo"] and algorithm_names()[-1] == "step-counter"
    assert {"mappo", "iql", "vdn", "qmix", "qtran", "qdpp", "iddpg", "maddpg", "comix"} <= set(algorithm_names())
    assert algorithm_spec("ippo").load_class() is MATRL and algorithm_spec("step-counter").load_class() is StepCounter
    with pytest.raises(ValueError, match="algorithm 'matr' is unknown; did you mean 'matrl'"):
        algorithm_spec("matr")
    with pytest.raises(ValueError, match="registered already"):
        registry.register(registered)


def test_plug_ins_register_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class EntryPoint:
        name, value = "step-counter", "plugin:SPEC"
        loaded: Any = SPEC

        def load(self) -> Any:
            return self.loaded

    monkeypatch.setattr(registry, "entry_points", lambda group, name=None: [EntryPoint()])
    monkeypatch.setattr(registry, "_registered", registry._registered.__wrapped__)
    assert algorithm_names()[-1] == "step-counter"
    assert algorithm_spec("step-counter") is SPEC
    monkeypatch.setattr(EntryPoint, "loaded", StepCounter)
    with pytest.raises(ValueError, match=r"the entry point 'step-counter' \(plugin:SPEC\) must be an AlgorithmSpec"):
        algorithm_spec("step-counter")
