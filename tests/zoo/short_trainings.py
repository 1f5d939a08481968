"""Short trainings by the command line, for tests."""

import csv
from pathlib import Path

from sb3_matrl.zoo.train import main

WORLD = "tests.evaluation.worlds:RandomLength"
SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:2", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu"]


def train(log_folder: Path, *words: str) -> None:
    assert main(["-f", str(log_folder), *QUICK, *SMALL, *words]) == 0


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))
