"""Who takes part in a cross-play: snapshots of runs, models, the random player, functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_matrl.envs.env_ids import factory
from sb3_matrl.evaluation.role_players import RANDOM
from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.checkpoints import checkpoint_path, checkpoint_steps
from sb3_matrl.files.foreign import is_sb3_file, load_sb3_agent
from sb3_matrl.utils.suggest import did_you_mean
from sb3_matrl.zoo.common.invocation import command_prefix
from sb3_matrl.zoo.common.run_folder import RunFolder, runs_below
from sb3_matrl.zoo.common.trusted_envs import check_env_of_file
from sb3_matrl.zoo.playing.players import open_run_folder, trained_hyperparameters
from sb3_matrl.zoo.training.snapshots import snapshot_folder


@dataclass(frozen=True)
class World:
    """
    Environment of a cross-play.

    :param env_id: id
    :param env_kwargs: options
    :param env_wrapper: wrappers
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    env_wrapper: Any

    def __str__(self) -> str:
        parts = [f"{key}: {value}" for key, value in self.env_kwargs.items()]
        parts += [f"wrapper: {self.env_wrapper}"] if self.env_wrapper else []
        return f"{self.env_id} with {', '.join(parts)}" if parts else self.env_id


@dataclass(frozen=True)
class Entrant:
    """
    A player on the command line.

    :param name: name in tables
    :param group: name of the run, or the player's own; players of one group are neighbours in the heat maps
    :param source: path of a model, ``"random"``, or ``module:callable``
    :param steps: steps after which a snapshot was taken; ``None`` for others
    """

    name: str
    group: str
    source: str
    steps: int | None = None

    @property
    def content(self) -> str:
        """Digest of a model's file, or the source itself: what games must have been played with to be kept."""
        path = Path(self.source)
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else self.source

    def load(self, trust: bool, device: str) -> Any:
        """
        What :func:`~sb3_matrl.evaluation.role_players.make_contestant` takes.

        :param trust: accept files of plain SB3, which can run code when they are loaded
        :param device: device of the networks
        :raises ValueError: if the file is none, or is not trusted
        """
        path = Path(self.source)
        if path.is_file():
            return load_sb3_agent(path, trust, device) if is_sb3_file(path) else path
        return self.source if self.source == RANDOM else factory(self.source)


@dataclass(frozen=True)
class EntrantFinder:
    """
    Finds players by the words of the command line.

    :param log_folder: folder of runs named ``<algo>/<env>_<k>``
    :param env: environment on the command line; ``None``: that of the runs
    :param env_kwargs: options of the environment to change
    :param per_run: largest number of snapshots of a run, evenly spaced; ``None`` for all
    :param trust: accept environments ``module:callable`` that files name, and files of plain SB3
    """

    log_folder: Path
    env: str | None = None
    env_kwargs: Mapping[str, Any] | None = None
    per_run: int | None = None
    trust: bool = False

    def find(self, words: Sequence[str]) -> tuple[list[Entrant], World]:
        """
        :param words: run folders, models, ``random`` or ``module:callable``; each may begin with ``NAME=``
        :return: players with different names, and their environment
        :raises FileNotFoundError: if there is no such run or model, or a run has no snapshots and no checkpoints
        :raises ValueError: if the environments differ, none is known, or two players have the same name
        """
        entrants: list[Entrant] = []
        sources: list[str] = []
        worlds: dict[str, World] = {}
        for word in words:
            name, source = self._split(word)
            found, world = self._find_one(name, source)
            entrants += found
            sources += [source] * len(found)
            if world is not None:
                worlds[source] = world
        names = [entrant.name for entrant in entrants]
        for name, source in zip(names, sources, strict=True):
            if names.count(name) > 1:
                raise ValueError(f"two players are named {name}: give one another name, as NAME={source}")
        if len(entrants) < 2:
            raise ValueError(f"cross-play needs at least two players, found {', '.join(names) or 'none'}")
        return entrants, self._common(worlds)

    def _split(self, word: str) -> tuple[str | None, str]:
        """Name and source of a word; a path may have a ``=`` of its own."""
        name, equals, source = word.partition("=")
        if not equals or self._path(word) is not None:
            return None, word
        return name, source

    def _path(self, source: str) -> Path | None:
        return next((path for path in (Path(source), self.log_folder / source) if path.exists()), None)

    def _find_one(self, name: str | None, source: str) -> tuple[list[Entrant], World | None]:
        path = self._path(source)
        if path is not None and path.is_dir():
            return self._snapshots(name, path)
        if path is not None:
            label = name or path.stem
            return [Entrant(label, label, str(path))], self.world_of_file(path)
        if source == RANDOM:
            return [Entrant(name or RANDOM, name or RANDOM, RANDOM)], None
        if ":" in source:
            factory(source)  # its error says what is wrong with the name
            label = name or source.rpartition(":")[2]
            return [Entrant(label, label, source)], None
        runs = [str(run.relative_to(self.log_folder)) for run in runs_below(self.log_folder)]
        there = f"neither as a path nor in {self.log_folder}{did_you_mean(source, [*runs, RANDOM])}"
        raise FileNotFoundError(f"there is no run or model {source}, {there}")

    def _snapshots(self, name: str | None, path: Path) -> tuple[list[Entrant], World]:
        """Snapshots of a run, or its checkpoints if it has none."""
        folder, algorithm = open_run_folder(path)
        check_env_of_file(folder.env_id, folder.arguments, [self.env], self.trust)
        found = snapshots_of(folder)
        if not found:
            train = " ".join(command_prefix("train"))
            raise FileNotFoundError(
                f"{path} has no snapshots and no checkpoints: train with {train} --snapshots 10, or give a model, such as "
                f"{folder.last_model}"
            )
        label = name or f"{algorithm}/{path.name}"
        values = trained_hyperparameters(folder)
        world = World(folder.env_id, {**values.env_kwargs, **(self.env_kwargs or {})}, values.env_wrapper)
        kept = evenly_spaced(sorted(found), self.per_run)
        return [Entrant(f"{label}@{steps}", label, str(found[steps]), steps) for steps in kept], world

    def world_of_file(self, path: Path) -> World | None:
        """
        Environment that a model's file names; its options are only known where a run folder has them.

        :param path: path of the model
        :return: ``None`` if the file names none, or the command line another one
        :raises ValueError: if the file is damaged, or names an environment ``module:callable`` that is not trusted
        """
        run = {} if is_sb3_file(path) else read_archive(path)[0].get("run")
        if not isinstance(run, dict) or not isinstance(run.get("env"), str) or self.env not in (None, run["env"]):
            return None
        folder = next((RunFolder(parent, run["env"]) for parent in path.parents[:2] if _is_run(parent)), None)
        check_env_of_file(run["env"], path, [self.env], self.trust)
        options = trained_hyperparameters(folder).env_kwargs if folder is not None else {}
        return World(run["env"], {**options, **(self.env_kwargs or {})}, run.get("env_wrapper"))

    def _common(self, worlds: Mapping[str, World]) -> World:
        if not worlds:
            if self.env is None:
                raise ValueError("no player says which environment is played: give it with --env")
            return World(self.env, dict(self.env_kwargs or {}), None)
        (first, world), *others = worlds.items()
        for source, other in others:
            if other != world:
                raise ValueError(
                    f"{first} was trained in {world}, {source} in {other}: cross-play needs one environment; make options "
                    "equal with --env-kwargs, or leave one out"
                )
        if self.env not in (None, world.env_id):
            raise ValueError(f"{first} was trained in {world}, not in --env {self.env}: leave --env out")
        return world


def _is_run(folder: Path) -> bool:
    run = RunFolder(folder, env_id="")
    return run.arguments.is_file() and run.config.is_file()


def snapshots_of(folder: RunFolder) -> dict[int, Path]:
    """
    Snapshots of a run, or its checkpoints if it has none.

    :param folder: run folder
    :return: steps -> path
    """
    place = snapshot_folder(folder)
    steps = checkpoint_steps(place)
    if not steps:
        place, steps = folder.checkpoints, folder.checkpoint_steps()
    return {step: checkpoint_path(place, step) for step in steps}


def evenly_spaced(steps: Sequence[int], count: int | None) -> list[int]:
    """
    Some of the numbers, evenly spaced, the last one included.

    :param steps: ascending
    :param count: how many, at most; ``None`` for all
    """
    if count is None or count >= len(steps):
        return list(steps)
    return [steps[(part + 1) * len(steps) // count - 1] for part in range(count)]
