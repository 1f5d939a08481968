"""
Runs as tasks of a ray cluster.

Every task starts the same process as a local run, so the machines must share the benchmark's folder and have the same
installation. ray is an extra and imported only when it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sb3_matrl.zoo.benchmarking.execution import GRACE_SECONDS, Handle, Launcher, worker_command, worker_environment
from sb3_matrl.zoo.benchmarking.plan import PlannedRun


def require_ray() -> None:
    """
    :raises ImportError: when ray is not installed; says how to install it
    """
    if importlib.util.find_spec("ray") is None:
        raise ImportError("--backend ray needs ray: pip install 'sb3-matrl[ray]'")


def run_process(command: list[str], environment: dict[str, str], folder: str, log: str) -> int:
    """
    Run a command to its end; when the task is cancelled meanwhile, the command is ended too.

    :param command: with its arguments
    :param environment: variables to set; CUDA_VISIBLE_DEVICES is left to ray
    :param folder: to work in
    :param log: file to which is added what it prints
    :return: its exit code
    """
    variables = {**environment, "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=variables, cwd=folder
        )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait(GRACE_SECONDS)
        raise


class RayHandle:
    """
    A task of ray, watched like a child process.

    :param ray: the module
    :param task: reference to the exit code to come
    :param run: the run
    """

    def __init__(self, ray: Any, task: Any, run: PlannedRun) -> None:
        self._ray, self._task, self._run = ray, task, run
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """Exit code, ``None`` while it runs; 1 when the task was lost, with ray's words at the end of the log."""
        if self._exit_code is None and self._ray.wait([self._task], timeout=0)[0]:
            try:
                self._exit_code = int(self._ray.get(self._task))
            except self._ray.exceptions.RayError as error:
                self._exit_code = 1
                with self._run.log.open("a", encoding="utf-8") as log:
                    log.write(f"\nray: {error}\n")
        return self._exit_code

    def terminate(self) -> None:
        """Interrupt the task, which ends the run's process."""
        self._ray.cancel(self._task)

    def kill(self) -> None:
        """End the task's process."""
        self._ray.cancel(self._task, force=True)


@contextmanager
def ray_launcher(jobs: int) -> Iterator[Launcher]:
    """
    Join the cluster that ``RAY_ADDRESS`` names, or start one on this machine; leave it at the end.

    :param jobs: how many runs go at a time, for a cluster of this machine
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
