"""
Commands as tasks of a Ray cluster.

Every task starts the same process as a local run, so the machines must share the folder of the results and have the same
installation. Ray is an optional dependency and imported only when it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb3_matrl.utils.one_line import one_line

POLL_SECONDS = 0.5
# Time for a cancelled command to save its work: less than that after which the whole task is ended.
SAVING_SECONDS = 25.0

# The command ends at once if the process of its task does: Ray kills that when a node is stopped, and the task may then run
# elsewhere. Systems other than Linux have no such request.
_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def require_ray() -> None:
    """
    :raises ImportError: if Ray is not installed
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--backend ray needs Ray: pip install 'sb3-matrl[ray]'")


def run_process(command: list[str], environment: dict[str, str], folder: str, log: str) -> int:
    """
    Run a command; if the task is cancelled, ask the command to end, and wait until it has.

    Ray cancels a task by :func:`_thread.interrupt_main`, which raises ``KeyboardInterrupt`` as soon as Python code runs, but
    does not end a system call: waiting for the process in one would hold it back until the process ends by itself.

    :param command: words of the command, the path of a program first
    :param environment: environment variables; Ray sets CUDA_VISIBLE_DEVICES
    :param folder: working directory
    :param log: file to which the name of the machine and the output are appended
    :return: exit code of the command
    """
    variables = {**environment, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    with open(log, "ab") as file:
        file.write(f"ray: starts on {socket.gethostname()}\n".encode())
        file.flush()
        process = subprocess.Popen(
            [sys.executable, "-c", _WITH_PARENT, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=folder,
        )
    try:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
        return process.returncode
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and kill it if it has not ended after ``SAVING_SECONDS``, or on another interrupt."""
    try:
        process.terminate()
        process.wait(SAVING_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()


class RayTask:
    """
    Handle of a command that runs as a task of Ray.

    :param ray: the module
    :param task: reference to the future exit code
    :param log: file of its output, to which Ray's errors are appended
    """

    def __init__(self, ray: Any, task: Any, log: Path) -> None:
        self._ray, self._task, self._log = ray, task, log
        self._exit_code: int | None = None
        #: Ray's error if the task was lost, because its machine or its process ended; empty otherwise
        self.lost = ""

    def poll(self) -> int | None:
        """Exit code; ``None`` while the command is active; 1 if the task failed, with Ray's error at the end of the log."""
        if self._exit_code is None and self._ray.wait([self._task], timeout=0)[0]:
            try:
                self._exit_code = int(self._ray.get(self._task))
            except self._ray.exceptions.RayError as error:
                self._exit_code = 1
                if not isinstance(error, self._ray.exceptions.RayTaskError):
                    self.lost = one_line(error)
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(f"\nray: {error}\n")
        return self._exit_code

    def terminate(self) -> None:
        """Interrupt the task, which ends the process of the command."""
        self._ray.cancel(self._task)

    def kill(self) -> None:
        """End the process of the task."""
        self._ray.cancel(self._task, force=True)


class RayCluster:
    """
    A cluster that this process has joined.

    :param ray: the module
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote = ray.remote(run_process)

    @property
    def cpus(self) -> int:
        """Number of CPUs of all machines."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    @property
    def hosts(self) -> set[str]:
        """Names of the machines."""
        return {node["NodeManagerHostname"] for node in self._ray.nodes() if node["Alive"]}

    def check_resources(self, gpus: int) -> None:
        """
        Check that there is room for a task.

        :param gpus: GPUs of a task, beside its CPU
        :raises ValueError: if no task could ever start
        """
        found = self._ray.cluster_resources()
        for name, needed in (("CPU", 1), ("GPU", gpus)):
            if found.get(name, 0) < needed:
                raise ValueError(f"the Ray cluster has no {name}, and every run needs one: add a machine, or change --device")

    def start(self, command: list[str], environment: dict[str, str], log: Path, gpus: int = 0, retries: int = 0) -> RayTask:
        """
        Start a command as a task with one CPU, as soon as a machine has room for it.

        :param command: words of the command
        :param environment: environment variables
        :param log: file of its output
        :param gpus: GPUs that it needs
        :param retries: how often it is started again if its machine is lost
        """
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": retries}
        task = self._remote.options(**options).remote(command, environment, os.getcwd(), str(log.absolute()))
        return RayTask(self._ray, task, log)


@contextmanager
def ray_cluster(address: str | None, jobs: int) -> Iterator[RayCluster]:
    """
    Join a Ray cluster, or start one on this machine; leave it at the end.

    :param address: address of the cluster, or ``auto`` for the one of this machine; by default ``RAY_ADDRESS``, and without
        that a new cluster
    :param jobs: number of tasks at a time, for a new cluster
    :raises ValueError: if there is no cluster at the address, or it has another version of Ray or Python
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when a cluster is started
    ray: Any = importlib.import_module("ray")
    place = address or os.environ.get("RAY_ADDRESS")
    cluster: dict[str, Any] = {"address": place} if place else {"num_cpus": jobs, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **cluster)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = one_line(error)
        raise ValueError(f"the Ray cluster at {place or 'this machine'} cannot be used: {reason}") from error
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()
