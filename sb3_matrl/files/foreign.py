"""Load files of plain Stable-Baselines3, which hold one agent, partly as pickles."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import DDPG, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


def is_sb3_file(path: Path) -> bool:
    """Whether a file is a zip written by SB3's ``save``; only the names of its members are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # no file, no zip, or a damaged one, which causes many errors
        return False
    return "data" in names and "manifest.json" not in names


def load_sb3_agent(path: Path, trust: bool = False, device: th.device | str = "auto") -> BaseAlgorithm:
    """
    Load an agent saved by plain SB3.

    :param path: path of the file
    :param trust: allow the file to run code: SB3's files are partly pickles
    :param device: device of the networks
    :return: learner with the policy and optimiser of the file: any on-policy algorithm, DQN, DDPG (also for TD3), or SAC
    :raises ValueError: if ``trust`` is ``False``, or the file holds no such agent
    """
    if not trust:
        raise ValueError(
            f"{path} is a file of plain Stable-Baselines3, which holds pickles: loading it can run arbitrary "
            "code. If you trust its origin, pass --trust on the command line or trust=True in Python"
        )
    try:
        learner = _learner_class(path)
        # Its replay buffer is not in the file, and an empty one needs no memory.
        small = {"buffer_size": 1} if issubclass(learner, OffPolicyAlgorithm) else None
        return learner.load(path, device=device, custom_objects=small)
    except Exception as error:  # a foreign file can cause any error
        raise ValueError(f"{path} holds no agent of SB3 that is known here: {' '.join(str(error).split())}") from error


def _learner_class(path: Path) -> type[BaseAlgorithm]:
    """Infer the algorithm from the module of the policy class, because the file does not name it; PPO reads all others."""
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("data"))["policy_class"]
    # A policy with a central critic names SB3's class, as "<class 'module.Name'>".
    counterpart = described.get("counterpart")
    module = described["__module__"] if counterpart is None else counterpart.split("'")[1].rpartition(".")[0]
    learners: tuple[type[BaseAlgorithm], ...] = (MaskablePPO, RecurrentPPO, DQN, DDPG, SAC)
    modules = {cls.__module__: learner for learner in learners for cls in learner.policy_aliases.values()}
    return modules.get(module, PPO)
