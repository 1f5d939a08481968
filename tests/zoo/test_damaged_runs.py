"""Run folders with damaged or hostile files: one line that names the file, nothing raw."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl.files.checkpoints import restore_parts
from sb3_matrl.files.foreign import is_sb3_file
from sb3_matrl.zoo.common.run_folder import RunFolder, RunStart
from sb3_matrl.zoo.reporting.run_loading import read_evaluations, read_versions
from sb3_matrl.zoo.train import main
from sb3_matrl.zoo.training.resuming import prepare_resumed
from tests.files.hostile import WRONG, changed_document, mutate, read_members, write_members

pytestmark = pytest.mark.e2e

SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[4]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "--seed", "3"]
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["--run-dir", str(folder), *QUICK, *SMALL, "--env", "matrix_game_v0", "-n", "100", "--save-freq", "100"]) == 0
    return RunFolder(folder, "matrix_game_v0")


def resume(run: RunFolder) -> None:
    """Check and load a run; only errors that the command line prints in one line may come out."""
    try:
        with warnings.catch_warnings(action="ignore"):
            prepare_resumed(run.path, {"n_timesteps": 200}, False)[0].close()
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error) and str(error)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from(["args.yml", "config.yml"]))
def test_mutated_options(run: RunFolder, seed: int, name: str) -> None:
    file = run.path / name
    before = file.read_text()
    try:
        file.write_text(yaml.safe_dump(mutate(yaml.safe_load(before), random.Random(seed), WRONG), sort_keys=False))
        resume(run)
    finally:
        file.write_text(before)


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(["start.json", "evaluation.json", "log.json", "run.json", "model.json"]))
def test_mutated_checkpoints(run: RunFolder, seed: int, name: str) -> None:
    file = run.checkpoint(100)
    before = file.read_bytes()
    try:
        members = read_members(file)
        write_members(file, changed_document(members, lambda document: mutate(document, random.Random(seed), WRONG), name))
        resume(run)
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_threads", 10**9),
        ("kernel_threads", 10**9),
        ("n_eval_envs", 10**9),
        ("n_eval_envs", 0),
        ("seed", -1),
        ("device", "x:1"),
        ("eval_episodes", 0),
    ],
)
def test_options_out_of_range_are_refused(run: RunFolder, tmp_path: Path, name: str, value: Any) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / "args.yml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), name: value}))
    with pytest.raises(ValueError, match=rf"args\.yml, {name}: expected"):
        prepare_resumed(tmp_path / "run", {}, False)


@pytest.mark.parametrize("document", [{}, [], "x", {"steps": "x"}, {"steps": None}])
def test_damaged_parts_of_checkpoints_are_named(run: RunFolder, tmp_path: Path, document: Any) -> None:
    write_members(
        tmp_path / "model.zip", changed_document(read_members(run.checkpoint(100)), lambda _: document, "start.json")
    )
    with pytest.raises(ValueError, match=r"model\.zip is damaged: start\.json"):
        restore_parts(tmp_path / "model.zip", {"start": RunStart()})


def test_zip_bombs_are_not_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "evaluations.npz", results=np.zeros(2**24))
    with pytest.raises(ValueError, match="its members would take 134,2"):
        read_evaluations(tmp_path / "evaluations.npz")
    assert read_versions(tmp_path / "evaluations.npz") == {}


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + b"\xff" * 18, b"x" * 100])
def test_what_is_no_zip_is_no_sb3_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.zip").write_bytes(content)
    assert not is_sb3_file(tmp_path / "agent.zip")
    assert not is_sb3_file(tmp_path)
    assert not is_sb3_file(tmp_path / "nowhere.zip")


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "evaluations.npz", agents=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_evaluations(tmp_path / "evaluations.npz")
