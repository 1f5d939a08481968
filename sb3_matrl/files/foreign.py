"""Load files of plain Stable-Baselines3, which hold one agent, partly as pickles."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


def is_sb3_file(path: Path) -> bool:
    """Whether a file is a zip written by SB3's ``save``; only the names of its members are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # no file, no zip, or a damaged one, which causes many errors
        return False
    return "data" in names and "manifest.json" not in names


def load_sb3_agent(path: Path, trust: bool = False, device: th.device | str = "auto") -> OnPolicyAlgorithm:
    """
    Load an agent saved by plain SB3.

    :param path: path of the file
    :param trust: allow the file to run code: SB3's files are partly pickles
    :param device: device of the networks
    :return: learner with the policy and optimiser of the file; any SB3 algorithm with an actor-critic policy is supported
    :raises ValueError: if ``trust`` is ``False``, or the file holds no such agent
    """
    if not trust:
        raise ValueError(
            f"{path} is a file of plain Stable-Baselines3, which holds pickles: loading it can run arbitrary "
            "code. If you trust its origin, pass --trust on the command line or trust=True in Python"
        )
    try:
        return _learner_class(path).load(path, device=device)
    except Exception as error:  # a foreign file can cause any error
        raise ValueError(f"{path} holds no agent with an actor-critic policy: {' '.join(str(error).split())}") from error


def _learner_class(path: Path) -> type[OnPolicyAlgorithm]:
    """Infer the algorithm from the module of the policy class, because the file does not name it; PPO reads all others."""
    with zipfile.ZipFile(path) as archive:
        module = json.loads(archive.read("data"))["policy_class"]["__module__"]
    learners: tuple[type[OnPolicyAlgorithm], ...] = (MaskablePPO, RecurrentPPO)
    modules = {cls.__module__: learner for learner in learners for cls in learner.policy_aliases.values()}
    return modules.get(module, PPO)
