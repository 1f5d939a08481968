"""Run folders: ``<log folder>/<algo>/<env>_<k>/`` and the files in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CHECKPOINT_PREFIX = "rl_model"


def safe_name(env_id: str) -> str:
    """``env_id`` as part of a file name: whatever is no letter, digit, ``.``, ``_`` or ``-`` becomes ``-``."""
    return re.sub(r"[^\w.-]", "-", env_id)


@dataclass(frozen=True)
class RunFolder:
    """
    Where the files of one run lie.

    :param path: the folder
    :param env_id: the run's environment; the last model is named after it
    """

    path: Path
    env_id: str

    @property
    def arguments(self) -> Path:
        return self.path / "args.yml"

    @property
    def config(self) -> Path:
        return self.path / "config.yml"

    @property
    def command(self) -> Path:
        return self.path / "command.txt"

    @property
    def best_model(self) -> Path:
        return self.path / "best_model.zip"

    @property
    def last_model(self) -> Path:
        return self.path / f"{safe_name(self.env_id)}.zip"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def learning_curve(self) -> Path:
        return self.path / "learning_curve.png"

    def checkpoint(self, steps: int) -> Path:
        """Model after ``steps`` steps, as SB3's ``CheckpointCallback`` names it."""
        return self.checkpoints / f"{CHECKPOINT_PREFIX}_{steps}_steps.zip"

    def checkpoint_steps(self) -> list[int]:
        """Steps of all checkpoints, rising."""
        names = (re.fullmatch(rf"{CHECKPOINT_PREFIX}_(\d+)_steps\.zip", path.name) for path in self.checkpoints.glob("*.zip"))
        return sorted(int(name[1]) for name in names if name)


def run_numbers(log_folder: Path, algorithm: str, env_id: str) -> list[int]:
    """Numbers k of the runs that there are, rising."""
    pattern = re.compile(re.escape(safe_name(env_id)) + r"_(\d+)")
    folder = log_folder / algorithm
    names = (pattern.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name[1]) for name in names if name)


def create_run_folder(log_folder: Path, algorithm: str, env_id: str) -> RunFolder:
    """
    Make the folder with the next free number; processes that do so at the same time get different ones.

    :raises OSError: when it cannot be made
    """
    k = max(run_numbers(log_folder, algorithm, env_id), default=0) + 1
    while True:
        path = log_folder / algorithm / f"{safe_name(env_id)}_{k}"
        try:
            path.mkdir(parents=True)
            return RunFolder(path, env_id)
        except FileExistsError:
            k += 1


def check_output_folder(path: Path) -> None:
    """
    :raises ValueError: when ``path`` is a file or a folder with something in it
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; --run-dir needs a new or empty folder")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} exists and is not empty; nothing is overwritten: choose another --run-dir")


def find_run_folder(log_folder: Path, algorithm: str, env_id: str, exp_id: int = 0) -> RunFolder:
    """
    :param exp_id: number of the run; 0 for the latest
    :raises FileNotFoundError: when there is none; says which runs there are
    """
    numbers = run_numbers(log_folder, algorithm, env_id)
    if not numbers:
        runs = sorted(str(path.relative_to(log_folder)) for path in log_folder.glob("*/*_*") if path.is_dir())
        there = f"it has: {', '.join(runs)}" if runs else "it has no runs; train one with zoo/train.py"
        raise FileNotFoundError(f"{log_folder} has no run of {algorithm} on {env_id}; {there}")
    if exp_id and exp_id not in numbers:
        raise FileNotFoundError(f"{algorithm} on {env_id} has no run {exp_id}; it has: {', '.join(map(str, numbers))}")
    return RunFolder(log_folder / algorithm / f"{safe_name(env_id)}_{exp_id or numbers[-1]}", env_id)
