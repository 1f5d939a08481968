"""Run folders: ``<log folder>/<algo>/<env>_<k>/``, optionally with ``_<uuid>`` at the end, and the names of their files."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_matrl.files.checkpoints import checkpoint_path, checkpoint_steps
from sb3_matrl.zoo.common.invocation import command_prefix
from sb3_matrl.zoo.common.locking import locked_folder

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ARGUMENTS = "args.yml"
_IN_USE = "is in use by another training"


def safe_name(env_id: str) -> str:
    """``env_id`` as part of a file name: all but letters, digits, ``.``, ``_`` and ``-`` becomes ``-``."""
    return re.sub(r"[^\w.-]", "-", env_id)


@dataclass(frozen=True)
class RunFolder:
    """
    Names of the files of one run.

    TensorBoard's event files lie in the folder itself, files of W&B in ``wandb/``, and the lock in ``.lock``.

    :param path: path of the folder
    :param env_id: environment of the run, after which the last model is named
    """

    path: Path
    env_id: str

    @property
    def arguments(self) -> Path:
        """Options of the run."""
        return self.path / _ARGUMENTS

    @property
    def config(self) -> Path:
        """Hyper-parameters of the run, keyed by env id."""
        return self.path / "config.yml"

    @property
    def command(self) -> Path:
        """Command lines that started and resumed the run."""
        return self.path / "command.txt"

    @property
    def progress(self) -> Path:
        """Rows of the log."""
        return self.path / "progress.csv"

    @property
    def evaluations(self) -> Path:
        """Returns and lengths of the evaluations' episodes."""
        return self.path / "evaluations.npz"

    @property
    def references(self) -> Path:
        """Team returns for comparison: by chance, and the best possible one."""
        return self.path / "references.json"

    @property
    def best_model(self) -> Path:
        """Model of the best evaluation."""
        return self.path / "best_model.zip"

    @property
    def last_model(self) -> Path:
        """Model at the end of the run."""
        return self.path / f"{safe_name(self.env_id)}.zip"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def wandb_id(self) -> Path:
        """Id of the run at W&B."""
        return self.path / "wandb_id.txt"

    @property
    def video(self) -> Path:
        """Film of a greedy episode."""
        return self.path / "video.mp4"

    @property
    def learning_curve(self) -> Path:
        """Picture of the evaluations' mean returns."""
        return self.path / "learning_curve.png"

    @property
    def result(self) -> Path:
        """Result of a benchmark's run."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """Page that ``report.py`` writes."""
        return self.path / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether the training has ended: the learning curve is its last file."""
        return self.learning_curve.is_file()

    @property
    def resume_command(self) -> str:
        """Command line that resumes the run."""
        env = ["--env", self.env_id] if ":" in self.env_id else []  # a file alone does not choose which code runs
        return shlex.join([*command_prefix("train"), "--resume", str(self.path), *env])

    def checkpoint(self, steps: int) -> Path:
        """Checkpoint after ``steps`` steps."""
        return checkpoint_path(self.checkpoints, steps)

    def checkpoint_steps(self) -> list[int]:
        """Steps of all checkpoints, in ascending order."""
        return checkpoint_steps(self.checkpoints)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Reserve the folder for this process.

        :raises ValueError: if another process trains in the folder
        """
        with locked_folder(self.path, _IN_USE):
            yield


class RunStart:
    """
    Steps of the model before the run, which its checkpoints store.

    :param steps: 0 except with ``--trained-agent``
    """

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def state(self) -> dict[str, Any]:
        """:return: the state in JSON types"""
        return {"steps": self.steps}

    def set_state(self, state: dict[str, Any]) -> None:
        """:param state: result of :meth:`state`"""
        self.steps = int(state["steps"])


def run_folders(log_folder: Path, algorithm: str, env_id: str) -> dict[int, Path]:
    """Number k -> folder of all runs, k ascending; the newest one if several have the same number."""
    pattern = re.compile(re.escape(safe_name(env_id)) + rf"_(\d+)(?:_{_UUID})?")
    folder = log_folder / algorithm
    paths = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns) if folder.is_dir() else []
    found = {int(match[1]): path for path in paths if (match := pattern.fullmatch(path.name))}
    return dict(sorted(found.items()))


def runs_below(path: Path) -> list[Path]:
    """
    Run folders one or two levels below a folder, such as the log folder or that of an algorithm.

    :param path: path of the folder
    :return: paths, sorted
    """
    return sorted(found.parent for pattern in ("*", "*/*") for found in path.glob(f"{pattern}/{_ARGUMENTS}"))


def create_run_folder(log_folder: Path, algorithm: str, env_id: str, unique: bool = False) -> RunFolder:
    """
    Create the folder with the next free number; concurrent processes get different ones.

    :param log_folder: folder of all runs
    :param algorithm: name of the algorithm
    :param env_id: environment of the run
    :param unique: add a unique id to the name, for processes on different machines that share the log folder
    :raises OSError: if the folder cannot be created
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
    :param path: path of a run folder to be created
    :raises ValueError: if the path is a file, or a folder that is not empty
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; --run-dir needs a new or empty folder")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} exists and is not empty; nothing is overwritten: choose another --run-dir")


def find_run_folder(log_folder: Path, algorithm: str, env_id: str, exp_id: int = 0) -> RunFolder:
    """
    :param log_folder: folder of all runs
    :param algorithm: name of the algorithm
    :param env_id: environment of the run
    :param exp_id: number of the run; 0 for the latest
    :raises FileNotFoundError: if there is no such run; lists the runs
    """
    folders = run_folders(log_folder, algorithm, env_id)
    if not folders:
        runs = sorted(str(path.relative_to(log_folder)) for path in log_folder.glob("*/*_*") if path.is_dir())
        train = shlex.join(command_prefix("train"))
        there = f"it has: {', '.join(runs)}" if runs else f"it has no runs; train one with {train}"
        raise FileNotFoundError(f"{log_folder} has no run of {algorithm} on {env_id}; {there}")
    if exp_id and exp_id not in folders:
        raise FileNotFoundError(f"{algorithm} on {env_id} has no run {exp_id}; it has: {', '.join(map(str, folders))}")
    return RunFolder(folders[exp_id or max(folders)], env_id)
