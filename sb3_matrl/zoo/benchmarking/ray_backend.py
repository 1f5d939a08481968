"""
Runs as tasks of a ray cluster.

Every task starts the same process as a local run, so the machines must share the benchmark's folder and have the same
installation. ray is an optional dependency and imported only with ``--backend ray``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sb3_matrl.zoo.benchmarking.execution import (
    GRACE_SECONDS,
    POLL_SECONDS,
    Handle,
    Launcher,
    worker_command,
    worker_environment,
)
from sb3_matrl.zoo.benchmarking.plan import PlannedRun

# Time for a cancelled run to save its training: less than that after which the benchmark ends the whole task.
SAVING_SECONDS = GRACE_SECONDS - 5.0


def require_ray() -> None:
    """
    :raises ImportError: if ray is not installed
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--backend ray needs ray: pip install 'sb3-matrl[ray]'")


def run_process(command: list[str], environment: dict[str, str], folder: str, log: str) -> int:
    """
    Run a command; if the task is cancelled, ask the command to end, and wait until it has.

    ray cancels a task by :func:`_thread.interrupt_main`, which raises ``KeyboardInterrupt`` as soon as Python code runs, but
    does not end a system call: waiting for the process in one would hold it back until the process ends by itself.

    :param command: words of the command
    :param environment: environment variables; ray sets CUDA_VISIBLE_DEVICES
    :param folder: working directory
    :param log: file to which the output is appended
    :return: exit code of the command
    """
    variables = {**environment, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=variables, cwd=folder
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


class RayHandle:
    """
    Handle of a task of ray.

    :param ray: the module
    :param task: reference to the future exit code
    :param run: the run
    """

    def __init__(self, ray: Any, task: Any, run: PlannedRun) -> None:
        self._ray, self._task, self._run = ray, task, run
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """Exit code; ``None`` while the run is active; 1 if the task was lost, with ray's error at the end of the log."""
        if self._exit_code is None and self._ray.wait([self._task], timeout=0)[0]:
            try:
                self._exit_code = int(self._ray.get(self._task))
            except self._ray.exceptions.RayError as error:
                self._exit_code = 1
                with self._run.log.open("a", encoding="utf-8") as log:
                    log.write(f"\nray: {error}\n")
        return self._exit_code

    def terminate(self) -> None:
        """Interrupt the task, which ends the process of the run."""
        self._ray.cancel(self._task)

    def kill(self) -> None:
        """End the process of the task."""
        self._ray.cancel(self._task, force=True)


@contextmanager
def ray_launcher(jobs: int) -> Iterator[Launcher]:
    """
    Join the cluster at ``RAY_ADDRESS``, or start one on this machine; leave it at the end.

    :param jobs: number of runs at a time, for a cluster on this machine
    """
    ray: Any = importlib.import_module("ray")
    cluster: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": jobs, "include_dashboard": False}
    ray.init(log_to_driver=False, **cluster)
    remote = ray.remote(run_process)

    def launch(run: PlannedRun) -> Handle:
        devices = 1 if run.options.device.startswith("cuda") else 0
        task = remote.options(num_cpus=1, num_gpus=devices, max_retries=0).remote(
            worker_command(run), worker_environment(run), os.getcwd(), str(run.log.absolute())
        )
        return RayHandle(ray, task, run)

    try:
        yield launch
    finally:
        ray.shutdown()
