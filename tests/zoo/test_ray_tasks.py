"""With a stand-in for Ray, which is not needed to run the tests; tests/zoo/test_on_ray.py has those with Ray."""

import _thread
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from sb3_matrl.zoo.benchmarking import execution, ray_backend
from sb3_matrl.zoo.benchmarking.ray_backend import ray_launcher
from sb3_matrl.zoo.common import ray_tasks
from sb3_matrl.zoo.common.ray_tasks import ray_cluster, require_ray, run_process
from sb3_matrl.zoo.sweeping import ray_trials
from tests.zoo.benchmarking.small import plan


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class FakeRay(ModuleType):
    """Tasks are done when they are waited for the second time."""

    def __init__(self):
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.resources, self.hosts = {"CPU": 2.0}, ["here"]
        self.calls, self.waits, self.lost = [], 0, None

    def init(self, **given):
        self.calls.append(("init", given))

    def shutdown(self):
        self.calls.append(("shutdown",))

    def cluster_resources(self):
        return self.resources

    def nodes(self):
        return [{"Alive": True, "NodeManagerHostname": host} for host in self.hosts]

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


QUIET = {"log_to_driver": False, "logging_level": logging.WARNING}


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
    with ray_cluster(None, jobs=2) as cluster:
        handle = ray_launcher(cluster)(run)
        assert handle.poll() is None
        assert handle.poll() == 3 == handle.poll()
    assert run.log.read_text() == f"ray: starts on {socket.gethostname()}\nhello\n"
    assert ray.calls[0] == ("init", {**QUIET, "num_cpus": 2, "include_dashboard": False})
    assert ray.calls[1] == ("options", {"num_cpus": 1, "num_gpus": 0, "max_retries": 3})
    assert ray.calls[-1] == ("shutdown",)


def test_cluster_of_the_environment_is_joined(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    with pytest.raises(RuntimeError, match="inside"), ray_cluster(None, jobs=2):
        raise RuntimeError("inside")
    assert ray.calls == [("init", {**QUIET, "address": "somewhere:6379"}), ("shutdown",)]


def test_what_a_cluster_lacks_is_told(ray, monkeypatch):
    with ray_cluster("auto", 2) as cluster:
        cluster.check_resources(gpus=0)
        assert cluster.cpus == 2 and cluster.hosts == {"here"}
        with pytest.raises(ValueError, match="has no GPU, and every run needs one"):
            cluster.check_resources(gpus=1)

    def refuse(**given):
        raise ConnectionError("nobody\nanswers")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ValueError, match="Ray cluster at auto cannot be used: nobody answers"), ray_cluster("auto", 2):
        pass


def test_lost_task_is_a_failed_run(ray, run):
    ray.lost = RayError("the machine is gone")
    with ray_cluster(None, jobs=1) as cluster:
        handle = ray_launcher(cluster)(run)
        handle.poll()
        assert handle.poll() == 1 and handle.lost == "the machine is gone"
        ray.lost = RayTaskError("no such program")
        handle = ray_launcher(cluster)(run)
        assert handle.poll() == 1 and not handle.lost
    assert "ray: the machine is gone" in run.log.read_text()


def test_tasks_are_interrupted_first_and_forced_then(ray, run):
    with ray_cluster(None, jobs=1) as cluster:
        handle = ray_launcher(cluster)(run)
        handle.terminate()
        handle.kill()
    assert [call[1] for call in ray.calls if call[0] == "cancel"] == [False, True]


# A training that saves what it has when it is asked to end, and one that does not listen.
SAVES = """
import signal, sys, time

def save(*_):
    open(sys.argv[1] + "/saved", "w").close()
    raise SystemExit(0)

signal.signal(signal.SIGTERM, save)
open(sys.argv[1] + "/ready", "w").close()
time.sleep(60)
"""
STUBBORN = SAVES.replace("raise SystemExit(0)", "return").replace("time.sleep(60)", "[time.sleep(0.1) for _ in range(600)]")


@pytest.mark.e2e
def test_a_command_ends_with_the_process_of_its_task(tmp_path):
    code = (
        "import os, sys\n"
        "from sb3_matrl.zoo.common.ray_tasks import run_process\n"
        "run_process([sys.executable, '-c', sys.argv[1], sys.argv[2]], dict(os.environ), sys.argv[2], sys.argv[2] + '/log')\n"
    )
    child = "import os, sys, time; open(sys.argv[1] + '/ready', 'w').write(str(os.getpid())); time.sleep(60)"
    task = subprocess.Popen([sys.executable, "-c", code, child, str(tmp_path)])
    while not (tmp_path / "ready").exists() or not (tmp_path / "ready").read_text():
        time.sleep(0.02)
    process = int((tmp_path / "ready").read_text())
    task.kill()
    task.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _is_active(process):
        time.sleep(0.02)
    assert not _is_active(process)


def _is_active(process):
    try:
        return open(f"/proc/{process}/stat").read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def cancel_when_ready(folder):
    """Cancel the task that this thread runs, as ray's worker does: :func:`_thread.interrupt_main` in another thread."""

    def cancel():
        while not (folder / "ready").exists():
            time.sleep(0.01)
        _thread.interrupt_main()

    thread = threading.Thread(target=cancel)
    thread.start()
    return thread


@pytest.mark.parametrize(("script", "seconds"), [(SAVES, 25.0), (STUBBORN, 0.2)], ids=["saves", "stubborn"])
def test_cancelled_task_lets_its_process_save_and_leaves_none_behind(tmp_path, monkeypatch, script, seconds):
    monkeypatch.setattr(ray_tasks, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ray_tasks, "SAVING_SECONDS", seconds)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        ray_tasks.subprocess, "Popen", lambda *words, **given: started.append(popen(*words, **given)) or started[0]
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    begin, thread = time.monotonic(), cancel_when_ready(tmp_path)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_process([sys.executable, "-c", script, str(tmp_path)], dict(os.environ), str(tmp_path), str(tmp_path / "log"))
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert started[0].wait(5) == (0 if script is SAVES else -signal.SIGKILL)
    assert (tmp_path / "saved").exists() and time.monotonic() - begin < 20


def test_cancelled_process_has_less_time_than_its_task():
    assert 0 < ray_tasks.SAVING_SECONDS < min(execution.GRACE_SECONDS, ray_trials.GRACE_SECONDS)


def test_missing_ray_is_told(monkeypatch):
    monkeypatch.setattr(ray_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sb3-matrl\[ray\]'"):
        require_ray()
