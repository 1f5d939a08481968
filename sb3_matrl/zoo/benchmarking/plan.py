"""Plan of a benchmark: settings x environments x seeds, each one training with its own run folder."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.envs.making import check_env
from sb3_matrl.files.checkpoints import latest_checkpoint
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.benchmarking.benchmark_folder import BenchmarkFolder
from sb3_matrl.zoo.benchmarking.settings_file import pairs
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.run_folder import RunFolder, safe_name
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.train import parse_options
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from sb3_matrl.zoo.training.options import TrainOptions

# Options of train.py that change the result of a run; its hyper-parameters are compared as well.
COMPARED_OPTIONS = ("algo", "env", "seed", "eval_freq", "eval_episodes", "vec_env", "device", "num_threads")


@dataclass(frozen=True)
class Setting:
    """
    One of the compared methods.

    :param name: name in tables and pictures
    :param algo: name of the algorithm
    :param changes: hyper-parameters to change; ``policy_kwargs.net_arch`` changes one key of a mapping
    """

    name: str
    algo: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class BenchmarkOptions:
    """
    Options of a benchmark; the schema of ``options`` in ``record.json``.

    ``conf_file``, ``eval_freq``, ``eval_episodes``, ``vec_env``, ``device`` and ``num_threads`` are options of ``train.py``.

    :param out: folder of the benchmark
    :param settings: the compared methods
    :param envs: environments: registered ids, or ``module:callable``
    :param seeds: seeds of the runs, the same for all settings
    :param n_timesteps: steps of every run; ``None`` for those of the conf file
    :param hyperparams: changes in all settings, applied before a setting's own changes
    :param env_kwargs: environment -> its options
    """

    out: str
    settings: tuple[Setting, ...]
    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    n_timesteps: int | None = None
    hyperparams: dict[str, Any] | None = None
    env_kwargs: dict[str, dict[str, Any]] | None = None
    conf_file: str | None = None
    eval_freq: int = 10_000
    eval_episodes: int = 20
    vec_env: str = "auto"
    device: str = "auto"
    num_threads: int = 1


@dataclass(frozen=True)
class PlannedRun:
    """
    One run of the benchmark, finished or not.

    :param setting: name of its setting
    :param words: command line of ``train.py``, without the program's name
    :param options: options in this command line
    :param hyperparameters: hyper-parameters of the run: conf file and changes
    :param log: file for the output of the run's process
    :param task: name of its task in a suite; empty outside of suites
    """

    setting: str
    words: tuple[str, ...]
    options: TrainOptions
    hyperparameters: Hyperparameters
    log: Path
    task: str = ""

    @property
    def env(self) -> str:
        return self.options.env

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def name(self) -> str:
        return f"{self.task or self.env}, {self.setting}, seed {self.seed}"

    @property
    def folder(self) -> RunFolder:
        assert self.options.run_dir is not None
        return RunFolder(Path(self.options.run_dir), self.env)

    @property
    def result(self) -> Path:
        """The last file of the run, which is finished if the file exists."""
        return self.folder.result


def read_settings(algos: Iterable[str], named: Mapping[str, Any]) -> tuple[Setting, ...]:
    """
    :param algos: algorithms to compare with the hyper-parameters of their files
    :param named: name -> changed hyper-parameters; ``algo`` is the algorithm, by default the name
    :raises ValueError: if a setting is no mapping or has no known algorithm, or names are not distinct
    """
    settings = [Setting(algo, algo, {}) for algo in algos]
    for name, content in named.items():
        if not isinstance(content, Mapping):
            raise ValueError(f"setting {name!r}: expected a mapping of hyper-parameters, got {content!r}")
        changes = {str(key): value for key, value in content.items()}
        algo = changes.pop("algo", name)
        if algo not in algorithm_names():
            raise ValueError(f"setting {name!r}: " + unknown("algo", str(algo), algorithm_names()))
        settings.append(Setting(str(name), algo, changes))
    if not settings:
        raise ValueError("nothing to compare: give --algos, --setting or --settings")
    _check_distinct("settings", [setting.name for setting in settings])
    return tuple(settings)


def _check_distinct(kind: str, names: Sequence[str]) -> None:
    """Names must differ as folders, too."""
    folders: dict[str, str] = {}
    for name in names:
        other = folders.setdefault(safe_name(name), name)
        if other is not name or names.count(name) > 1:
            raise ValueError(f"{kind} {other!r} and {name!r} have the same folder {safe_name(name)!r}: names must differ more")


def plan_runs(options: BenchmarkOptions) -> list[PlannedRun]:
    """
    All runs in the order of their start: seed by seed, so that every method has results early.

    :param options: options of the benchmark
    :raises ValueError: on a user's mistake; nothing is written
    :raises OSError: if a file cannot be read
    """
    _check_distinct("environments", options.envs)
    for env in options.env_kwargs or {}:
        if env not in options.envs:
            raise ValueError("--env-kwargs: " + unknown("env", env, options.envs))
    runs = [
        _plan_run(options, env, setting, seed)
        for seed in options.seeds
        for env in options.envs
        for setting in options.settings
    ]
    for env in options.envs:
        # Settings may differ in the wrappers of the environment.
        for hyperparameters in [run.hyperparameters for run in runs if run.env == env and run.seed == options.seeds[0]]:
            check_env(env, hyperparameters.env_kwargs, hyperparameters.env_wrapper)
    return runs


def _plan_run(options: BenchmarkOptions, env: str, setting: Setting, seed: int) -> PlannedRun:
    folder = BenchmarkFolder(Path(options.out))
    words = _train_words(options, env, setting, seed)
    parsed = parse_options(words)
    try:
        hyperparameters = read_hyperparameters(parsed)
    except ValueError as error:
        raise ValueError(f"setting {setting.name!r}: {error}") from None
    return PlannedRun(setting.name, tuple(words), parsed, hyperparameters, folder.log(env, setting.name, seed))


def _train_words(options: BenchmarkOptions, env: str, setting: Setting, seed: int) -> list[str]:
    """Command line of ``train.py`` for one run."""
    path = BenchmarkFolder(Path(options.out)).run(env, setting.name, seed).path
    words = ["--algo", setting.algo, "--env", env, "--seed", str(seed), "--run-dir", str(path), "--verbose", "0"]
    words += ["--eval-freq", str(options.eval_freq), "--eval-episodes", str(options.eval_episodes)]
    words += ["--vec-env", options.vec_env, "--device", options.device, "--num-threads", str(options.num_threads)]
    words += ["--kernel-threads", str(options.num_threads)]
    if options.n_timesteps is not None:
        words += ["-n", str(options.n_timesteps)]
    if options.conf_file is not None:
        words += ["--conf-file", options.conf_file]
    changes = {"--hyperparams": {**(options.hyperparams or {}), **setting.changes}}
    changes["--env-kwargs"] = (options.env_kwargs or {}).get(env, {})
    return words + [word for flag, values in changes.items() if values for word in (flag, *pairs(values))]


def split_finished(runs: Iterable[PlannedRun]) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """
    Split runs into finished and other ones; nothing is written.

    :param runs: all runs
    :return: finished runs, and the others
    :raises ValueError: if a finished run has other options
    :raises OSError: if the files of a finished run cannot be read
    """
    finished: list[PlannedRun] = []
    left: list[PlannedRun] = []
    differing: list[str] = []
    for run in runs:
        differences = _differences(run) if run.result.exists() else []
        (finished if run.result.exists() else left).append(run)
        differing += [f"{run.folder.path}: {', '.join(differences)}"] if differences else []
    if differing:
        more = f"; and {len(differing) - 1} more runs differ" if len(differing) > 1 else ""
        raise ValueError(
            f"finished runs have other options than asked for. {differing[0]}{more}. Give the old options, or another --out"
        )
    return finished, left


def _differences(run: PlannedRun) -> list[str]:
    """``option was old value, now new value`` for the options in which an earlier run differs."""
    arguments, config = read_yaml(run.folder.arguments), read_yaml(run.folder.config)
    old_hyperparameters = Hyperparameters.from_mapping(run.options.algo, config.get(run.env, {}), str(run.folder.config))
    old = {**{name: arguments.get(name) for name in COMPARED_OPTIONS}, **old_hyperparameters.as_mapping()}
    given = asdict(run.options)
    new = {**{name: given[name] for name in COMPARED_OPTIONS}, **run.hyperparameters.as_mapping()}
    return [f"{name} was {old[name]!r}, now {new[name]!r}" for name in new if old[name] != new[name]]


def make_ready(run: PlannedRun) -> None:
    """Remove the files of an earlier run that cannot be resumed, because a new run needs an empty folder."""
    if not can_resume(run):
        shutil.rmtree(run.folder.path, ignore_errors=True)
        run.log.unlink(missing_ok=True)
    run.log.parent.mkdir(parents=True, exist_ok=True)


def can_resume(run: PlannedRun) -> bool:
    """Whether an interrupted run has the options asked for, and a checkpoint that can be read."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about damaged ones: the run itself reports them
            latest_checkpoint(run.folder.checkpoints)
        return not _differences(run)
    except (OSError, ValueError):
        return False
