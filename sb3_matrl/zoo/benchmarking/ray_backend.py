"""Runs as tasks of a Ray cluster; each starts the same process as a local run, which continues from the newest checkpoint."""

from __future__ import annotations

from sb3_matrl.zoo.benchmarking.execution import Handle, Launcher, worker_command, worker_environment
from sb3_matrl.zoo.benchmarking.plan import PlannedRun
from sb3_matrl.zoo.common.ray_tasks import RayCluster

# How often a run goes on elsewhere after its machine was lost.
RETRIES = 3


def gpus_of(device: str) -> int:
    """
    :param device: ``--device`` of a run
    :return: number of GPUs that Ray reserves for it
    """
    return 1 if device.startswith("cuda") else 0


def ray_launcher(cluster: RayCluster) -> Launcher:
    """
    Launcher of tasks.

    :param cluster: cluster that runs them
    """

    def launch(run: PlannedRun) -> Handle:
        gpus = gpus_of(run.options.device)
        return cluster.start(worker_command(run), worker_environment(run), run.log, gpus, retries=RETRIES)

    return launch
