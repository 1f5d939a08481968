"""What a model file holds, and what is said when it holds something else."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl import MATRL, load_model
from sb3_matrl.files.archive import read_archive, write_archive
from sb3_matrl.files.model_files import SavedModel, read_model, restore_arguments, write_model, zip_path

SAVED = SavedModel(
    algorithm="MATRL",
    observation_spaces={"z/1": spaces.Box(-1, 1, (2,), np.float32), "a": spaces.Discrete(3)},
    action_spaces={"z/1": spaces.Discrete(2), "a": spaces.Discrete(4)},
    arguments={"gamma": 0.9, "policy_kwargs": {"activation_fn": th.nn.Tanh}},
    counters={
        "n_envs": 2,
        "num_timesteps": 10,
        "total_timesteps": 20,
        "n_updates": 1,
        "skipped_updates": 2,
        "learner_n_updates": [3, 4],
    },
    generators={"coordinator": dict(np.random.default_rng(0).bit_generator.state)},
    parameters={"z/1": {"policy": {"w": th.ones(2)}}, "a": {"policy": {"w": th.zeros(3)}}},
)


def test_everything_comes_back_in_order(tmp_path: Path) -> None:
    write_model(tmp_path / "model", SAVED)
    read = read_model(tmp_path / "model.zip")
    assert list(read.observation_spaces) == ["z/1", "a"]
    assert (read.observation_spaces, read.action_spaces) == (SAVED.observation_spaces, SAVED.action_spaces)
    assert (read.counters, read.generators) == (SAVED.counters, SAVED.generators)
    assert restore_arguments(read.arguments, SAVED.arguments, (), {}, {}) == SAVED.arguments
    for agent, parameters in SAVED.parameters.items():
        assert th.equal(read.parameters[agent]["policy"]["w"], parameters["policy"]["w"])


def test_suffix_is_added_only_where_there_is_none() -> None:
    assert zip_path("a/model") == Path("a/model.zip")
    assert zip_path("a/model.bin") == Path("a/model.bin")


@pytest.mark.parametrize("use", [read_model, lambda file: write_model(file, SAVED), MATRL.load, load_model])
def test_an_open_file_is_refused_with_what_to_give(use: Any) -> None:
    with pytest.raises(TypeError, match="by their path, not as BytesIO: give a str or a Path"):
        use(io.BytesIO())


@pytest.mark.parametrize("lost", ["agents", "arguments", "counters", "generators"])
def test_a_file_without_a_part_is_named_damaged(tmp_path: Path, lost: str) -> None:
    write_model(tmp_path / "model", SAVED)
    documents, tensors = read_archive(tmp_path / "model.zip")
    model: dict[str, Any] = dict(documents["model"])
    del model[lost]
    write_archive(tmp_path / "model.zip", {"model": model}, tensors)
    with pytest.raises(ValueError, match=f"damaged, or not a saved model.*{lost}"):
        read_model(tmp_path / "model.zip")


def test_a_class_that_is_not_loaded_names_its_argument_and_can_be_given() -> None:
    stored = {"gamma": 0.9, "learner_class": {"__kind__": "class", "module": "os", "name": "system"}}
    defaults = {"gamma": 0.99, "learner_class": None}
    with pytest.raises(ValueError, match=r"learner_class: .*os\.system.*custom_objects=\{'learner_class'"):
        restore_arguments(stored, defaults, (), {}, {})
    assert restore_arguments(stored, defaults, (), {"learner_class": dict}, {}) == {"gamma": 0.9, "learner_class": dict}


def test_files_of_version_1_lack_what_came_later(tmp_path: Path) -> None:
    write_model(tmp_path / "model", SAVED)
    documents, tensors = read_archive(tmp_path / "model.zip")
    model: dict[str, Any] = dict(documents["model"])
    del model["counters"]["skipped_updates"], model["learners"], model["frozen"]
    write_archive(tmp_path / "model.zip", {"model": model}, tensors)
    read = read_model(tmp_path / "model")
    assert read.counters == SAVED.counters | {"skipped_updates": 0}
    assert list(read.parameters) == ["z/1", "a"] and read.frozen == {} and read.normalizers == {}


def test_what_normalises_and_who_is_frozen_come_back(tmp_path: Path) -> None:
    statistics = {"observations": [{"mean": th.ones(2)}], "running": th.zeros(3)}
    frozen = {"a": ({"policy": None}, {}), "b/2": ({"policy": 1}, {"policy": {"w": th.ones(1)}})}
    write_model(tmp_path / "model", replace(SAVED, normalizers={"z/1": statistics}, frozen=frozen))
    read = read_model(tmp_path / "model")
    assert list(read.frozen) == ["a", "b/2"] and read.frozen["a"] == ({"policy": None}, {})
    assert th.equal(read.frozen["b/2"][1]["policy"]["w"], th.ones(1))
    assert th.equal(read.normalizers["z/1"]["observations"][0]["mean"], th.ones(2))


@pytest.mark.parametrize(
    "space",
    [{"type": "Box", "low": 0, "high": 1, "shape": [10**9, 10**9], "dtype": "float32"}, [], {"type": "Dict", "spaces": 1}],
)
def test_a_space_that_is_none_names_the_file(tmp_path: Path, space: Any) -> None:
    write_model(tmp_path / "model", SAVED)
    documents, tensors = read_archive(tmp_path / "model.zip")
    documents["model"]["observation_spaces"][0] = space
    write_archive(tmp_path / "model.zip", {"model": documents["model"]}, tensors)
    with pytest.raises(ValueError, match=r"model\.zip is damaged, or not a saved model: model\.json: .*(space|shape)"):
        read_model(tmp_path / "model.zip")


_names = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


@given(
    agents=st.lists(_names, min_size=1, max_size=3, unique=True),
    arguments=st.dictionaries(_names, _values, max_size=3),
    numbers=st.lists(st.integers(0, 2**62), min_size=6, max_size=6),
)
@settings(deadline=None, max_examples=30)
def test_any_model_comes_back(
    tmp_path_factory: pytest.TempPathFactory, agents: list[str], arguments: dict[str, Any], numbers: list[int]
) -> None:
    spaces_ = {agent: spaces.Discrete(2 + i) for i, agent in enumerate(agents)}
    saved = SavedModel(
        algorithm="MATRL",
        observation_spaces=spaces_,
        action_spaces=spaces_,
        arguments=arguments,
        counters=dict(zip(SAVED.counters, [*numbers[:5], numbers], strict=True)),
        generators=SAVED.generators,
        parameters={agent: {"policy": {"w": th.full((2,), float(i))}} for i, agent in enumerate(agents)},
    )
    path = tmp_path_factory.mktemp("any") / "model.zip"
    write_model(path, saved)
    read = read_model(path)
    assert list(read.observation_spaces) == agents and read.action_spaces == saved.action_spaces
    assert read.counters == saved.counters
    restored = restore_arguments(read.arguments, saved.arguments, (), {}, {})
    assert repr(restored) == repr(saved.arguments)  # unlike ==, it takes NaN for NaN
    for agent in agents:
        assert th.equal(read.parameters[agent]["policy"]["w"], saved.parameters[agent]["policy"]["w"])
