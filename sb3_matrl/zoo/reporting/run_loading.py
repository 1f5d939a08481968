"""Content of run folders; files may be incomplete, because the run still writes them or was killed while it did."""

from __future__ import annotations

import csv
import json
import zipfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.evaluation.evaluate import structure_of
from sb3_matrl.utils.reward_structure import RewardStructure
from sb3_matrl.utils.suggest import did_you_mean
from sb3_matrl.zoo.common.references import References
from sb3_matrl.zoo.common.run_folder import RunFolder, runs_below
from sb3_matrl.zoo.common.yaml_files import read_yaml

STEPS = "time/total_timesteps"
FIXED_POINT = "metagame/fixed_point"
# Limit on the size of a zip's members, in bytes of the file; members of FREE_SIZE bytes in all are always read.
MAX_INFLATION = 20
FREE_SIZE = 2**26
_Content = TypeVar("_Content")


@dataclass(frozen=True)
class Progress:
    """
    SB3's ``progress.csv``.

    :param numbers: key -> column of shape (rows,), nan where the cell is empty or holds text
    :param fixed_points: cells of ``metagame/fixed_point``, as many as rows; empty without that column
    :param dropped: number of rows that were cut off or damaged
    """

    numbers: Mapping[str, np.ndarray]
    fixed_points: Sequence[str]
    dropped: int

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Values logged under a key.

        :param key: key of the logger
        :return: steps and finite values at them, both of shape (k,); empty if nothing was logged under that key
        """
        steps = self.numbers[STEPS]
        values = self.numbers.get(key, np.full(len(steps), np.nan))
        # Larger numbers, which only damaged rows have, would overflow in the axis of a chart.
        there = (np.abs(steps) < 1e100) & (np.abs(values) < 1e100)
        return steps[there], values[there]

    def table(self, keys: Sequence[str]) -> np.ndarray:
        """
        Values logged under several keys, of the rows that have all of them.

        :param keys: keys of the logger
        :return: shape (k, number of keys)
        """
        missing = np.full(len(self.numbers[STEPS]), np.nan)
        values = np.stack([self.numbers.get(key, missing) for key in keys], axis=1) if keys else np.empty((0, 0))
        return np.asarray(values[np.isfinite(values).all(axis=1)])

    def has(self, key: str) -> bool:
        """Whether any value was logged under a key."""
        return bool(np.isfinite(self.numbers.get(key, np.empty(0))).any())

    @property
    def has_strategies(self) -> bool:
        """Whether the strategies of the meta-game are others than the usual two, which have no weights of their own."""
        return bool(self._weighted_strategies())

    @property
    def strategies(self) -> list[str]:
        """Names of the meta-game's strategies, ``current`` first."""
        found = self._weighted_strategies()
        order = ["current", "predicted"]
        return [name for name in order if name in found] + sorted(found - set(order)) if found else order

    def _weighted_strategies(self) -> set[str]:
        parts = (key.rpartition("/metagame/sigma_") for key in self.numbers)
        return {name for _, found, name in parts if found}

    def of_agents(self, suffix: str) -> np.ndarray:
        """
        Values of all agents under a key.

        :param suffix: key without the name of the agent
        :return: shape (k, agents), of the rows that have a value for all agents
        """
        return self.table([f"{agent}/{suffix}" for agent in self.agents_with(suffix)])

    def agents_with(self, suffix: str) -> list[str]:
        """Agents that have a key ``<agent>/<suffix>``, sorted ``agent_10`` after ``agent_2``."""
        ending = f"/{suffix}"
        names = (key.removesuffix(ending) for key in self.numbers if key.endswith(ending))
        return sorted(names, key=lambda name: (len(name), name))


@dataclass(frozen=True)
class Evaluations:
    """
    ``evaluations.npz`` as :class:`sb3_matrl.evaluation.MultiAgentEvalCallback` writes it.

    :param steps: training steps before each of the m evaluations, shape (m,)
    :param sampled: results of the sampled policies
    :param greedy: results of the greedy policies
    """

    steps: np.ndarray
    sampled: Sequence[EvaluationResult]
    greedy: Sequence[EvaluationResult]

    @cached_property
    def structure(self) -> RewardStructure:
        """How the agents' returns depend on each other."""
        return structure_of([*self.sampled, *self.greedy])


@dataclass(frozen=True)
class Run:
    """
    One run folder.

    :param name: short name, unique among the runs of a report
    :param folder: run folder
    :param arguments: content of ``args.yml``
    :param config: hyper-parameters
    :param command: command line that repeats the run
    :param versions: library -> version that saved the model
    :param progress: content of ``progress.csv``; ``None`` if it cannot be read
    :param evaluations: content of ``evaluations.npz``; ``None`` if it cannot be read
    :param references: returns for comparison
    :param problems: sentences on what is missing or damaged
    """

    name: str
    folder: RunFolder
    arguments: Mapping[str, Any]
    config: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    progress: Progress | None
    evaluations: Evaluations | None
    references: References
    problems: tuple[str, ...]


def load_runs(paths: Sequence[Path]) -> list[Run]:
    """
    Read run folders.

    :param paths: paths of the folders
    :raises ValueError: if a folder is given twice, is no run, or holds no results yet
    :raises FileNotFoundError: if a folder does not exist
    """
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"run {path} is given twice")
        check_is_run(path)
    return [load_run(path, name) for path, name in zip(paths, run_names(places), strict=True)]


def run_names(paths: Sequence[Path]) -> list[str]:
    """``<algo>/<env>_<k>`` of every path, with as many parent folders as make the names unique."""
    longest = max(len(path.parts) for path in paths)
    for depth in range(2, longest + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def check_is_run(path: Path) -> None:
    """
    Check that a path is a run folder.

    :raises FileNotFoundError: if there is no such folder
    :raises ValueError: if it is a file, or a folder that ``train.py`` did not write
    """
    if not path.exists():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, (sibling.name for sibling in siblings if sibling.is_dir()))
        raise FileNotFoundError(f"there is no run folder {path}{hint}")
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give the run folder, such as logs/matrl/checkers_v0_1")
    folder = RunFolder(path, "")
    if not any(file.is_file() for file in (folder.arguments, folder.progress, folder.evaluations)):
        runs = list(map(str, runs_below(path)))
        below = f"; below it: {', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''}" if runs else ""
        raise ValueError(f"{path} is no run of train.py: it has no args.yml{below}")


def load_run(path: Path, name: str) -> Run:
    """
    Read one run folder; missing and damaged files are listed in ``problems``.

    :param path: path of the folder
    :param name: name of the run in the report
    :raises ValueError: if neither ``progress.csv`` nor ``evaluations.npz`` can be used
    """
    problems: list[str] = []
    folder = RunFolder(path, "")
    arguments = _read_or_note(problems, read_yaml, folder.arguments) or {}
    config_file = _read_or_note(problems, read_yaml, folder.config) or {}
    env_id = str(arguments.get("env") or next(iter(config_file), "unknown environment"))
    progress = _read_or_note(problems, read_progress, folder.progress)
    evaluations = _read_or_note(problems, read_evaluations, folder.evaluations)
    if progress is None and evaluations is None:
        raise ValueError(f"run {path} has no results to report (yet): {'; '.join(problems)}")
    if progress is not None and progress.dropped:
        problems.append(f"{folder.progress.name}: {progress.dropped} cut-off or damaged rows were skipped")
    folder = replace(folder, env_id=env_id)
    config = config_file.get(env_id)
    references = _read_or_note(problems, References.read, folder.references) or References()
    return Run(
        name=name,
        folder=folder,
        arguments=arguments,
        config=config if isinstance(config, dict) else {},
        command=_read_or_note(problems, _read_text, folder.command) or "",
        versions=read_versions(saved_model(folder)),
        progress=progress,
        evaluations=evaluations,
        references=references,
        problems=tuple(problems),
    )


def saved_model(folder: RunFolder) -> Path | None:
    """Path of the last model, or of the best one if there is no last one, or ``None``."""
    return next((path for path in (folder.last_model, folder.best_model) if path.is_file()), None)


def read_versions(model: Path | None) -> dict[str, str]:
    """Library -> version from the manifest of a saved model; empty if there is no model or it is damaged."""
    if model is None:
        return {}
    try:
        with zipfile.ZipFile(model) as archive:
            check_sizes(archive)
            versions = json.loads(archive.read("manifest.json"))["versions"]
        return {str(library): str(version) for library, version in versions.items()}
    except Exception:  # damaged files cause many errors
        return {}


def check_sizes(archive: zipfile.ZipFile) -> None:
    """
    Check that a zip does not hold much more than its size suggests; read it only afterwards.

    :param archive: open zip
    :raises ValueError: if its members are larger together than :data:`MAX_INFLATION` times what they take in the file
    """
    infos = archive.infolist()
    size, stored = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    if size > MAX_INFLATION * stored + FREE_SIZE:
        raise ValueError(f"its members would take {size:,} bytes, {stored:,} in the file")


def _read_or_note(problems: list[str], read: Callable[[Path], _Content], path: Path) -> _Content | None:
    """Return ``read(path)``; if the file is missing or damaged, add a sentence to ``problems`` and return ``None``."""
    try:
        return read(path)
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be used: {error}")
    return None


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def read_progress(path: Path) -> Progress:
    """
    Read ``progress.csv``; rows that are cut off or damaged are skipped and counted.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it has no header with the number of steps, or no whole row
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        # Every line is one row: line ends between quotes would join a damaged row to the next ones.
        lines = (line if line.endswith("\n") else None for line in file)
        header = _cells(next(lines, None))
        if STEPS not in header:
            raise ValueError(f"it has no header with {STEPS}")
        values, fixed_points, dropped = _read_rows(lines, header)
    if not values:
        raise ValueError("it has no whole row")
    table = np.frombuffer(values).reshape(-1, len(header))
    return Progress({key: table[:, i] for i, key in enumerate(header)}, fixed_points, dropped)


def _read_rows(lines: Iterable[str | None], header: Sequence[str]) -> tuple[array[float], list[str], int]:
    """Numbers of all whole rows, row by row; fixed points of these rows; number of rows skipped."""
    values, fixed_points, dropped = array("d"), [], 0
    place = header.index(FIXED_POINT) if FIXED_POINT in header else None
    for line in lines:
        cells = _cells(line)
        if len(cells) != len(header):
            dropped += 1
            continue
        values.extend(map(_number, cells))
        if place is not None:
            fixed_points.append(cells[place])
    return values, fixed_points, dropped


def _cells(line: str | None) -> list[str]:
    """Cells of a line; empty if the line is cut off or no CSV."""
    try:
        return next(csv.reader([line or ""]), [])
    except csv.Error:
        return []


def _number(text: str) -> float:
    if not text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan


def read_evaluations(path: Path) -> Evaluations:
    """
    Read ``evaluations.npz`` without pickle.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is damaged, or its arrays have different lengths
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged files cause many errors
        raise ValueError(f"it is damaged or no npz file ({' '.join(str(error).split())})") from None
    try:
        agents = tuple(map(str, arrays["agents"]))
        steps = np.asarray(arrays["timesteps"], dtype=np.float64)
        evaluations = Evaluations(steps, _results(arrays, agents, ""), _results(arrays, agents, "_greedy"))
    except KeyError as error:
        raise ValueError(f"it lacks the array {error}") from None
    if not 0 < len(steps) == len(evaluations.sampled) == len(evaluations.greedy):
        raise ValueError("its arrays hold different numbers of evaluations, or none")
    return evaluations


def _results(arrays: Mapping[str, np.ndarray], agents: tuple[str, ...], ending: str) -> list[EvaluationResult]:
    keys = ("results", "ep_lengths", "agent_returns")
    returns, lengths, of_agents = (np.asarray(arrays[key + ending], dtype=np.float64) for key in keys)
    fit = lengths.shape == returns.shape and of_agents.shape == (*returns.shape, len(agents))
    if returns.ndim != 2 or not returns.size or not fit:
        raise ValueError(
            f"its arrays do not fit together: returns {returns.shape}, lengths {lengths.shape}, "
            f"returns of {len(agents)} agents {of_agents.shape}"
        )
    return [EvaluationResult(agents, *rows) for rows in zip(returns, of_agents, lengths, strict=True)]
