"""Files of a repository on the hub: made from a run folder, and made into one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sb3_matrl.common.loading import load_model
from sb3_matrl.zoo.common.run_folder import RunFolder, create_run_folder
from sb3_matrl.zoo.playing.enjoy_options import ModelChoice
from sb3_matrl.zoo.playing.players import model_path, open_run_folder, trained_hyperparameters

CARD = "README.md"
CURVE = "learning_curve.png"
#: The hub shows a video of this name above the card.
VIDEO = "replay.mp4"
NEEDED = ("args.yml", "config.yml")
#: Patterns of the files that are fetched.
PATTERNS = (CARD, CURVE, VIDEO, *NEEDED, "command.txt", "progress.csv", "evaluations.npz", "references.json", "*.zip")


@dataclass(frozen=True)
class TrainedRun:
    """
    A run with one of its models.

    :param folder: run folder
    :param algorithm: name of the algorithm
    :param model: path of the model
    """

    folder: RunFolder
    algorithm: str
    model: Path


def trained_run(folder: Path, choice: ModelChoice) -> TrainedRun:
    """
    :param folder: path of a run folder
    :param choice: which of its models
    :raises FileNotFoundError: if the folder, its settings or the model do not exist
    :raises ValueError: if its settings are damaged
    """
    run, algorithm = open_run_folder(folder)
    trained_hyperparameters(run)
    return TrainedRun(run, algorithm, model_path(run, choice))


def _pairs(run: TrainedRun, repository: Path) -> Iterator[tuple[Path, Path]]:
    """File of the run, and its place in the repository."""
    folder = run.folder
    yield run.model, repository / folder.last_model.name
    for path in (folder.arguments, folder.config, folder.command, folder.progress, folder.evaluations, folder.references):
        yield path, repository / path.name
    yield folder.learning_curve, repository / CURVE
    yield folder.video, repository / VIDEO


def copy_run(run: TrainedRun, repository: Path) -> None:
    """
    Copy the files of a run that a repository holds; those that the run lacks are left out.

    :param run: the run
    :param repository: folder that the files are copied to
    """
    for source, target in _pairs(run, repository):
        if source.is_file():
            shutil.copyfile(source, target)


def check_repository(place: Path, repo_id: str, algorithm: str | None = None, env_id: str | None = None) -> TrainedRun:
    """
    Check fetched files, of which nothing is executed: they hold the settings and a model of a known algorithm.

    :param place: folder of the files
    :param repo_id: id of the repository, for errors
    :param algorithm: algorithm that the user asked for; ``None`` for any
    :param env_id: environment that the user asked for; ``None`` for any
    :return: the run in that folder
    :raises ValueError: if a file is missing or damaged, or the user asked for something else
    """
    missing = [name for name in NEEDED if not (place / name).is_file()]
    if missing:
        raise ValueError(f"{repo_id} has no {' and no '.join(missing)}: it was not made by push-to-hub")
    try:
        run = trained_run(place, ModelChoice())
        load_model(run.model, device="cpu", verbose=0)
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace(str(place), repo_id)) from error
    for flag, given, found in (("--algo", algorithm, run.algorithm), ("--env", env_id, run.folder.env_id)):
        if given not in (None, found):
            raise ValueError(f"{repo_id} is a run of {run.algorithm} on {run.folder.env_id}, not with {flag} {given}")
    return run


def install(run: TrainedRun, log_folder: Path) -> RunFolder:
    """
    Move checked files into a new run folder.

    :param run: result of :func:`check_repository`
    :param log_folder: folder of all runs
    :return: the run folder, with the next free number
    """
    new = create_run_folder(log_folder, run.algorithm, run.folder.env_id)
    target = TrainedRun(new, run.algorithm, new.last_model)
    pairs = [*_pairs(target, run.folder.path), (new.path / CARD, run.folder.path / CARD)]
    # The arguments come last: a folder without them is no run.
    for path, fetched in sorted(pairs, key=lambda pair: pair[0] == new.arguments):
        if fetched.is_file():
            fetched.replace(path)
    return new
