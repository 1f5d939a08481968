import warnings

import pytest
import torch as th

from sb3_matrl import MATRL
from sb3_matrl.common.callbacks import ResumableCheckpointCallback
from sb3_matrl.files.archive import write_archive
from sb3_matrl.files.argument_codec import KIND
from sb3_matrl.files.checkpoints import (
    checkpoint_path,
    checkpoint_steps,
    latest_checkpoint,
    restore_parts,
)
from tests.evaluation.test_eval_callback import flat_parameters, small_model


class Counter:
    """Has a state of its own."""

    def __init__(self, number=0):
        self.number = number

    def state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]


@pytest.mark.e2e
def test_saves_where_a_multiple_is_passed_and_at_the_end(tmp_path):
    small_model().learn(220, ResumableCheckpointCallback(tmp_path, save_freq=60))
    # Iterations end at 40, 80, 120, 160, 200, 240; multiples of 60 are 60, 120, 180, 240.
    assert checkpoint_steps(tmp_path) == [80, 120, 200, 240]


def test_without_frequencies_it_saves_at_the_end_only(tmp_path):
    small_model().learn(120, ResumableCheckpointCallback(tmp_path, save_freq=-1))
    assert checkpoint_steps(tmp_path) == [120]


def test_saves_by_the_clock(tmp_path, monkeypatch):
    now = iter(range(0, 10_000, 30))  # half a minute passes from one look at the clock to the next
    monkeypatch.setattr("sb3_matrl.common.callbacks.time.monotonic", lambda: float(next(now)))
    small_model().learn(240, ResumableCheckpointCallback(tmp_path, save_freq=-1, every_minutes=1.5))
    # Looks at 0 s (start), 30, 60 and 90 s (before the rollouts from 0, 40 and 80 steps: saved), 120 s (saved), ...
    assert checkpoint_steps(tmp_path) == [80, 200, 240]


@pytest.mark.cases(expensive=["0-steps0", "2-steps2"])
@pytest.mark.parametrize(("keep", "steps"), [(0, [40, 80, 120, 160, 200]), (1, [200]), (2, [160, 200])])
def test_keeps_the_latest(tmp_path, keep, steps):
    small_model().learn(200, ResumableCheckpointCallback(tmp_path, save_freq=40, keep=keep))
    assert checkpoint_steps(tmp_path) == steps


def test_a_later_damaged_one_does_not_push_out_a_good_one(tmp_path):
    checkpoint_path(tmp_path, 999).write_bytes(b"damaged")
    small_model().learn(80, ResumableCheckpointCallback(tmp_path, save_freq=40, keep=1))
    assert checkpoint_steps(tmp_path) == [80, 999]


@pytest.mark.e2e
def test_training_goes_on_from_the_latest_as_if_never_stopped(tmp_path):
    env, counter = "checkers_v0", Counter(7)
    arguments = {"n_envs": 4, "n_steps": 10, "batch_size": 40, "n_epochs": 1, "br_n_epochs": 1, "seed": 0, "device": "cpu"}
    whole = MATRL("MlpPolicy", env, **arguments).learn(240)
    MATRL("MlpPolicy", env, **arguments).learn(
        160, ResumableCheckpointCallback(tmp_path, save_freq=60, parts={"counter": counter})
    )
    path, restored = latest_checkpoint(tmp_path), Counter()
    restore_parts(path, {"counter": restored})
    resumed = MATRL.load(path, env=env, device="cpu")
    resumed.learn(80, reset_num_timesteps=False)
    assert path.name == "rl_model_160_steps.zip" and restored.number == 7
    assert th.equal(flat_parameters(resumed), flat_parameters(whole))


def test_a_damaged_one_is_told_and_the_one_before_is_taken(tmp_path):
    small_model().learn(80, ResumableCheckpointCallback(tmp_path, save_freq=40))
    path = checkpoint_path(tmp_path, 80)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.warns(UserWarning, match=r"rl_model_80_steps\.zip is not a saved model, .*; using rl_model_40_steps\.zip"):
        assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 40)
    checkpoint_path(tmp_path, 40).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read: .*80.*40"), warnings.catch_warnings():
        warnings.simplefilter("error")
        latest_checkpoint(tmp_path)


def test_a_folder_without_checkpoints_is_told(tmp_path):
    (tmp_path / "other.zip").touch()
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        latest_checkpoint(tmp_path)


def test_a_part_that_was_not_saved_is_named(tmp_path):
    small_model().learn(40, ResumableCheckpointCallback(tmp_path, save_freq=-1, parts={"counter": Counter()}))
    with pytest.raises(ValueError, match="was saved without 'other'; it has counter, manifest, model"):
        restore_parts(latest_checkpoint(tmp_path), {"other": Counter()})


def test_arrays_in_a_state_take_no_more_memory_than_the_file_justifies(tmp_path):
    wide = {KIND: "array", "items": [0] * 100, "dtype": "<U1000000", "shape": [100]}
    write_archive(tmp_path / "model.zip", {"model": {}, "counter": {"number": [wide] * 20}}, {})
    with pytest.raises(ValueError, match=r"damaged: counter\.json: .*would take more than"):
        restore_parts(tmp_path / "model.zip", {"counter": Counter()})
