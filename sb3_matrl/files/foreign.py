"""Files of plain Stable-Baselines3, which hold one agent, partly as pickles."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


def is_sb3_file(path: Path) -> bool:
    """Whether it is a zip as SB3's ``save`` writes it; nothing of it is read but the names of its members."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return "data" in names and "manifest.json" not in names


def load_sb3_agent(path: Path, trust: bool = False, device: th.device | str = "auto") -> OnPolicyAlgorithm:
    """
    Load an agent that plain SB3 saved.

    :param path: of the file
    :param trust: whoever made the file may run code here: SB3's files are pickled in part
    :param device: of its networks
    :return: with the policy and the optimiser of any of SB3's algorithms that have an actor-critic policy
    :raises ValueError: without trust, or if it is no such file
    """
    if not trust:
        raise ValueError(
            f"{path} is a file of plain Stable-Baselines3, which holds pickles: loading it can run any code that somebody put "
            "there. If you trust where it comes from, say so: --trust on the command line, trust=True in Python"
        )
    try:
        return _learner_class(path).load(path, device=device)
    except Exception as error:  # whatever a foreign file causes
        raise ValueError(f"{path} holds no agent with an actor-critic policy: {' '.join(str(error).split())}") from error


def _learner_class(path: Path) -> type[OnPolicyAlgorithm]:
    """The file does not say which algorithm saved it; the module of its policy tells those apart that PPO cannot read."""
    with zipfile.ZipFile(path) as archive:
        module = json.loads(archive.read("data"))["policy_class"]["__module__"]
    learners: tuple[type[OnPolicyAlgorithm], ...] = (MaskablePPO, RecurrentPPO)
    modules = {cls.__module__: learner for learner in learners for cls in learner.policy_aliases.values()}
    return modules.get(module, PPO)
