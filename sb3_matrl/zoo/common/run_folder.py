"""Run folders: ``<log folder>/<algo>/<env>_<k>/``, also with ``_<uuid>`` behind, and the files in them."""

from __future__ import annotations

import re
import shlex
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_matrl.files.checkpoints import checkpoint_path, checkpoint_steps

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


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
    def wandb_id(self) -> Path:
        return self.path / "wandb_id.txt"

    @property
    def video(self) -> Path:
        return self.path / "video.mp4"

    @property
    def learning_curve(self) -> Path:
        return self.path / "learning_curve.png"

    @property
    def is_finished(self) -> bool:
        """Whether the training came to its end: the learning curve is the last file that it leaves."""
        return self.learning_curve.is_file()

    @property
    def resume_command(self) -> str:
        """The command line that goes on with this run."""
        return shlex.join(["python", "zoo/train.py", "--resume", str(self.path)])

    def checkpoint(self, steps: int) -> Path:
        """Model after ``steps`` steps."""
        return checkpoint_path(self.checkpoints, steps)

    def checkpoint_steps(self) -> list[int]:
        """Steps of all checkpoints, rising."""
        return checkpoint_steps(self.checkpoints)


class RunStart:
    """
    How far the model was trained before the run, which its checkpoints remember.

    :param steps: 0 but for ``--trained-agent``
    """

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def state(self) -> dict[str, Any]:
        """:return: in JSON types"""
        return {"steps": self.steps}

    def set_state(self, state: dict[str, Any]) -> None:
        """:param state: as :meth:`state` returned it"""
        self.steps = int(state["steps"])


def run_folders(log_folder: Path, algorithm: str, env_id: str) -> dict[int, Path]:
    """Number k -> folder of the runs that there are, k rising; of several with one number, the one made last."""
    pattern = re.compile(re.escape(safe_name(env_id)) + rf"_(\d+)(?:_{_UUID})?")
    folder = log_folder / algorithm
    paths = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns) if folder.is_dir() else []
    found = {int(match[1]): path for path in paths if (match := pattern.fullmatch(path.name))}
    return dict(sorted(found.items()))


def create_run_folder(log_folder: Path, algorithm: str, env_id: str, unique: bool = False) -> RunFolder:
    """
    Make the folder with the next free number; processes that do so at the same time get different ones.

    :param unique: add a unique id to the name, for processes on different machines that share the log folder
    :raises OSError: when it cannot be made
    """
    k = max(run_folders(log_folder, algorithm, env_id), default=0) + 1
    suffix = f"_{uuid.uuid4()}" if unique else ""
    while True:
        path = log_folder / algorithm / f"{safe_name(env_id)}_{k}{suffix}"
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
    folders = run_folders(log_folder, algorithm, env_id)
    if not folders:
        runs = sorted(str(path.relative_to(log_folder)) for path in log_folder.glob("*/*_*") if path.is_dir())
        there = f"it has: {', '.join(runs)}" if runs else "it has no runs; train one with zoo/train.py"
        raise FileNotFoundError(f"{log_folder} has no run of {algorithm} on {env_id}; {there}")
    if exp_id and exp_id not in folders:
        raise FileNotFoundError(f"{algorithm} on {env_id} has no run {exp_id}; it has: {', '.join(map(str, folders))}")
    return RunFolder(folders[exp_id or max(folders)], env_id)
