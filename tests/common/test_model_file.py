"""What a model file holds, and what is said when it holds something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_matrl.common.archive import read_archive, write_archive
from sb3_matrl.common.model_file import SavedModel, read_model, restore_arguments, write_model, zip_path

SAVED = SavedModel(
    observation_spaces={"z/1": spaces.Box(-1, 1, (2,), np.float32), "a": spaces.Discrete(3)},
    action_spaces={"z/1": spaces.Discrete(2), "a": spaces.Discrete(4)},
    arguments={"gamma": 0.9, "policy_kwargs": {"activation_fn": th.nn.Tanh}},
    counters={"n_envs": 2, "num_timesteps": 10, "total_timesteps": 20, "n_updates": 1, "learner_n_updates": [3, 4]},
    coordinator_rng=dict(np.random.default_rng(0).bit_generator.state),
    parameters={"z/1": {"policy": {"w": th.ones(2)}}, "a": {"policy": {"w": th.zeros(3)}}},
)


def test_everything_comes_back_in_order(tmp_path: Path) -> None:
    write_model(tmp_path / "model", SAVED)
    read = read_model(tmp_path / "model.zip")
    assert list(read.observation_spaces) == ["z/1", "a"]
    assert (read.observation_spaces, read.action_spaces) == (SAVED.observation_spaces, SAVED.action_spaces)
    assert (read.counters, read.coordinator_rng) == (SAVED.counters, SAVED.coordinator_rng)
    assert restore_arguments(read.arguments, SAVED.arguments, {}, {}) == SAVED.arguments
    for agent, parameters in SAVED.parameters.items():
        assert th.equal(read.parameters[agent]["policy"]["w"], parameters["policy"]["w"])


def test_suffix_is_added_only_where_there_is_none() -> None:
    assert zip_path("a/model") == Path("a/model.zip")
    assert zip_path("a/model.bin") == Path("a/model.bin")


@pytest.mark.parametrize("lost", ["agents", "arguments", "counters", "coordinator_rng"])
def test_a_file_without_a_part_is_named_damaged(tmp_path: Path, lost: str) -> None:
    write_model(tmp_path / "model", SAVED)
    documents, tensors = read_archive(tmp_path / "model.zip")
    model: dict[str, Any] = dict(documents["model"])
    del model[lost]
    write_archive(tmp_path / "model.zip", {"model": model}, tensors)
    with pytest.raises(ValueError, match=f"damaged, or not a MATRL model.*{lost}"):
        read_model(tmp_path / "model.zip")


def test_a_class_that_is_not_loaded_names_its_argument_and_can_be_given() -> None:
    stored = {"gamma": 0.9, "learner_class": {"__kind__": "class", "module": "os", "name": "system"}}
    defaults = {"gamma": 0.99, "learner_class": None}
    with pytest.raises(ValueError, match=r"learner_class: .*os\.system.*custom_objects=\{'learner_class'"):
        restore_arguments(stored, defaults, {}, {})
    assert restore_arguments(stored, defaults, {"learner_class": dict}, {}) == {"gamma": 0.9, "learner_class": dict}
