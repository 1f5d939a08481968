"""Trained agents that come with the package, in the form of run folders without a log: ``enjoy.py --pretrained``."""

from __future__ import annotations

from pathlib import Path

from sb3_matrl.zoo.common.run_folder import RunFolder, run_folders, runs_below
from sb3_matrl.zoo.playing.players import open_run_folder

SHIPPED = Path(__file__).parents[1] / "trained_agents"


def shipped_runs() -> list[tuple[str, str]]:
    """:return: algorithm and environment of all trained agents that come with the package"""
    found = (open_run_folder(path) for path in runs_below(SHIPPED))
    return [(algorithm, folder.env_id) for folder, algorithm in found]


def find_shipped(algorithm: str, env_id: str) -> RunFolder:
    """
    Find trained agents that come with the package.

    :param algorithm: name of the algorithm
    :param env_id: id of the environment
    :raises FileNotFoundError: if there are none; lists those that there are
    """
    folders = run_folders(SHIPPED, algorithm, env_id)
    if not folders:
        there = ", ".join(f"--algo {algo} --env {env}" for algo, env in shipped_runs())
        choice = f"choose from: {there}" if there else "this installation has no trained agents at all, install it anew"
        raise FileNotFoundError(f"no agents trained by {algorithm} on {env_id} come with sb3-matrl; {choice}")
    return RunFolder(folders[max(folders)], env_id)
