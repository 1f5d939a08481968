"""Runs that a server forks: their words, threads, log and lock, and how they end."""

import json
import multiprocessing
import os
import shlex
import signal
import time

import pytest

from sb3_matrl.zoo.benchmark import IN_USE
from sb3_matrl.zoo.benchmarking import forked_runs, worker
from sb3_matrl.zoo.benchmarking.execution import worker_command
from sb3_matrl.zoo.benchmarking.forked_runs import forked_launcher, local_launcher
from sb3_matrl.zoo.benchmarking.plan import make_ready
from sb3_matrl.zoo.common.locking import locked_folder
from tests.zoo.benchmarking.small import plan


def wait(handle, seconds=120.0):
    deadline = time.monotonic() + seconds
    while (code := handle.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return code


def test_processes_are_started_anew_where_nothing_can_be_forked(monkeypatch):
    calls = []
    monkeypatch.setattr(forked_runs, "forked_launcher", lambda lock: calls.append(("forked", lock)))
    monkeypatch.setattr(forked_runs, "process_launcher", lambda lock: calls.append(("new", lock)))
    local_launcher(3)
    monkeypatch.setattr(forked_runs, "get_all_start_methods", lambda: ["spawn"])
    local_launcher(4)
    assert calls == [("forked", 3), ("new", 4)]


@pytest.mark.e2e
def test_forked_run_is_the_run_of_a_new_process(tmp_path):
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork from a server")
    (run,) = plan(tmp_path / "out", seeds=(0,))[:1]
    make_ready(run)
    before = dict(os.environ)
    with locked_folder(tmp_path / "out", IN_USE) as lock:
        handle = forked_launcher(lock)(run)
        assert handle.poll() is None and dict(os.environ) == before
    with pytest.raises(ValueError, match="a run that one left behind"), locked_folder(tmp_path / "out", IN_USE):
        pass
    assert wait(handle) == 0 and run.result.exists() and "steps in" in run.log.read_text()
    with locked_folder(tmp_path / "out", IN_USE):
        pass
    record = json.loads(run.result.read_text())
    assert record["machine"]["command"] == shlex.join(["python", *worker_command(run)[1:]])
    (other,) = plan(tmp_path / "other", seeds=(0,))[:1]
    make_ready(other)
    assert worker.main(other.words) == 0
    assert json.loads(other.result.read_text())["absolute_metrics"] == record["absolute_metrics"]


@pytest.mark.e2e
def test_forked_run_ends_when_asked_and_says_its_mistakes(tmp_path):
    (long, wrong) = plan(tmp_path / "out", seeds=(0,), n_timesteps=10**7)[:2]
    with locked_folder(tmp_path / "out", IN_USE) as lock:
        launch = forked_launcher(lock)
        make_ready(long)
        handle = launch(long)
        deadline = time.monotonic() + 60
        while not long.folder.progress.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        handle.terminate()
        assert wait(handle) == 128 + signal.SIGTERM and long.folder.checkpoint_steps()
        make_ready(wrong)
        wrong.folder.path.mkdir(parents=True)
        (wrong.folder.path / "strange.txt").write_text("not a run")
        assert wait(launch(wrong)) == 2 and wrong.log.read_text().startswith("error: ")
