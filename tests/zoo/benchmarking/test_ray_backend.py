"""With a stand-in for ray, which is not needed to run the tests."""

import os
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from sb3_matrl.zoo.benchmarking import ray_backend
from sb3_matrl.zoo.benchmarking.ray_backend import ray_launcher, require_ray, run_process
from tests.zoo.benchmarking.small import plan


class RayError(Exception):
    pass


class FakeRay(ModuleType):
    """Tasks are done when they are waited for the second time."""

    def __init__(self):
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.calls, self.waits, self.lost = [], 0, None

    def init(self, **given):
        self.calls.append(("init", given))

    def shutdown(self):
        self.calls.append(("shutdown",))

    def remote(self, function):
        def options(**given):
            self.calls.append(("options", given))
            return SimpleNamespace(remote=lambda *arguments: (function, arguments))

        return SimpleNamespace(options=options)

    def wait(self, tasks, timeout):
        assert timeout == 0
        self.waits += 1
        return (tasks, []) if self.waits > 1 else ([], tasks)

    def get(self, task):
        if self.lost:
            raise self.lost
        function, arguments = task
        return function(*arguments)

    def cancel(self, task, force=False):
        self.calls.append(("cancel", force))


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        ray_backend, "worker_command", lambda run: [sys.executable, "-c", "print('hello'); raise SystemExit(3)"]
    )
    return fake


@pytest.fixture
def run(tmp_path):
    run = plan(tmp_path)[0]
    run.log.parent.mkdir(parents=True)
    return run


def test_task_runs_the_worker_and_gives_its_exit_code(ray, run):
    with ray_launcher(jobs=2) as launch:
        handle = launch(run)
        assert handle.poll() is None
        assert handle.poll() == 3 == handle.poll()
    assert run.log.read_text() == "hello\n"
    assert ray.calls[0] == ("init", {"log_to_driver": False, "num_cpus": 2, "include_dashboard": False})
    assert ray.calls[1] == ("options", {"num_cpus": 1, "num_gpus": 0, "max_retries": 0})
    assert ray.calls[-1] == ("shutdown",)


def test_cluster_of_the_environment_is_joined(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    with pytest.raises(RuntimeError, match="inside"), ray_launcher(jobs=2):
        raise RuntimeError("inside")
    assert ray.calls == [("init", {"log_to_driver": False}), ("shutdown",)]


def test_lost_task_is_a_failed_run(ray, run):
    ray.lost = RayError("the machine is gone")
    with ray_launcher(jobs=1) as launch:
        handle = launch(run)
        handle.poll()
        assert handle.poll() == 1
    assert "ray: the machine is gone" in run.log.read_text()


def test_tasks_are_interrupted_first_and_forced_then(ray, run):
    with ray_launcher(jobs=1) as launch:
        handle = launch(run)
        handle.terminate()
        handle.kill()
    assert [call[1] for call in ray.calls if call[0] == "cancel"] == [False, True]


def test_cancelled_task_ends_its_process(tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(ray_backend.subprocess, "Popen", Interrupted)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        run_process(command, dict(os.environ), str(tmp_path), str(tmp_path / "log"))
    assert started[0].poll() == -15 and time.monotonic() - begin < 50


def test_missing_ray_is_told(monkeypatch):
    monkeypatch.setattr(ray_backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sb3-matrl\[ray\]'"):
        require_ray()
