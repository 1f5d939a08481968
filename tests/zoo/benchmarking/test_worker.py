"""One run of a benchmark: what was broken off goes on, as far as it can."""

import json
import shutil
import signal

import numpy as np
import pytest

from benchmarks.kill_test import differences
from sb3_matrl.matrl.coordinator import MATRLCoordinator
from sb3_matrl.zoo.benchmarking import worker
from sb3_matrl.zoo.benchmarking.exact_measures import measures_file
from sb3_matrl.zoo.benchmarking.plan import make_ready
from sb3_matrl.zoo.benchmarking.run_results import read_result
from tests.zoo.benchmarking.small import CHANGES, plan


def planned(folder, **changes):
    return plan(folder, seeds=(0,), **changes)[0]


@pytest.fixture(scope="module")
def folder_of_whole(tmp_path_factory):
    """A benchmark of one run, which ended."""
    folder = tmp_path_factory.mktemp("whole")
    run = planned(folder)
    make_ready(run)
    assert worker.main(run.words) == 0
    return folder


@pytest.fixture(scope="module")
def folder_of_stopped(tmp_path_factory):
    """A benchmark of one run, which got a signal in its second iteration of two."""
    folder = tmp_path_factory.mktemp("stopped")
    run = planned(folder)
    make_ready(run)
    update, updates = MATRLCoordinator.update, []

    def interrupt(*arguments, **options):
        updates.append(arguments)
        if len(updates) == 2:
            signal.raise_signal(signal.SIGTERM)
        return update(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MATRLCoordinator, "update", interrupt)
        assert worker.main(run.words) == 143
    assert not run.result.exists() and run.folder.checkpoint_steps() == [100]
    return folder


@pytest.fixture
def whole(folder_of_whole, tmp_path):
    return planned(shutil.copytree(folder_of_whole, tmp_path / "whole"))


@pytest.fixture
def stopped(folder_of_stopped, tmp_path):
    return planned(shutil.copytree(folder_of_stopped, tmp_path / "stopped"))


def absolute_metrics(run):
    return json.loads(run.result.read_text())["absolute_metrics"]


@pytest.mark.e2e
def test_stopped_training_goes_on_and_ends_as_if_it_had_not_stopped(whole, stopped):
    run = stopped
    run.log.write_text("what the first process said\n")
    make_ready(run)
    assert worker.main(run.words) == 0
    assert differences(run.folder, whole.folder) == [] and absolute_metrics(run) == absolute_metrics(whole)
    assert run.log.read_text() == "what the first process said\n"
    assert read_result(run).gradient_steps == read_result(whole).gradient_steps
    measures = read_result(whole).measures
    assert measures["timesteps"].tolist() == [0, 100, 200] and np.isfinite(measures["nash_conv"]).all()
    assert measures_file(run.folder).read_bytes() == measures_file(whole.folder).read_bytes()


def test_training_is_not_repeated_when_only_the_absolute_metrics_are_missing(whole, monkeypatch):
    before, seconds = absolute_metrics(whole), read_result(whole).seconds[-1]
    whole.result.unlink()
    make_ready(whole)
    monkeypatch.delattr("sb3_matrl.zoo.benchmarking.worker.MeasuredRun")
    assert worker.main(whole.words) == 0
    assert absolute_metrics(whole) == before and read_result(whole).total_seconds == seconds


@pytest.mark.cases(e2e=["damaged checkpoint"], rest="expensive")
@pytest.mark.parametrize("obstacle", ["other options", "damaged checkpoint", "no checkpoint", "damaged config"])
def test_what_cannot_go_on_begins_again(whole, stopped, tmp_path, obstacle):
    run = stopped
    run.log.write_text("old\n")
    checkpoint = run.folder.checkpoint(100)
    if obstacle == "other options":
        run = planned(tmp_path / "stopped", hyperparams={**CHANGES, "gamma": 0.5})
    elif obstacle == "damaged checkpoint":
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    elif obstacle == "no checkpoint":
        checkpoint.unlink()
    else:
        run.folder.config.write_text("{")
    make_ready(run)
    assert not run.folder.path.exists() and not run.log.exists() and run.log.parent.is_dir()
    assert worker.main(run.words) == 0
    same = absolute_metrics(run) == absolute_metrics(whole) and differences(run.folder, whole.folder) == []
    assert same == (obstacle != "other options") and np.isfinite(read_result(run).total_seconds)
