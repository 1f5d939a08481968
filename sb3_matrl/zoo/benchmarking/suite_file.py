"""Suites: shipped files that name tasks, their budgets and known optima, and the methods that are compared on them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.benchmarking.plan import Setting, read_settings
from sb3_matrl.zoo.benchmarking.suite_names import ALL_SUITES, SUITES_FOLDER, suite_names
from sb3_matrl.zoo.common.hyperparameters import HYPERPARAMS_FOLDER
from sb3_matrl.zoo.common.yaml_files import read_yaml

# What the runs of a task are compared by.
WELFARE, NASH_CONV, RETURN = "welfare", "nash_conv", "return"
SCORES = (WELFARE, NASH_CONV, RETURN)
# In env_kwargs: the seed of the run, so that every run has another game.
RUN_SEED = "run seed"
_MAPPINGS = ("env_kwargs", "hyperparams", "settings")


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """
    One task: an environment with its options, a budget, and the methods that are trained on it.

    :param name: name of the task, of its folder and of its tuned hyper-parameter file, if there is one
    :param title: what the task is, in one line
    :param env: id of the environment
    :param score: ``welfare``, ``nash_conv`` or ``return``, see :mod:`sb3_matrl.zoo.benchmarking.suite_scores`
    :param n_timesteps: steps of every run, over all copies
    :param settings: method -> its ``algo``, by default the method's name, and changed hyper-parameters
    :param hyperparams: hyper-parameters of all methods
    :param env_kwargs: options of the environment; a value ``run seed`` is replaced by the seed of the run
    :param best: best team return that is known, in expectation; ``None`` if it is unknown or differs between runs
    :param chance: team return of uniform play, exact; ``None`` if it is unknown or differs between runs
    :param reference: method that the others are compared with
    :param needs: package without which the environment cannot be made; ``None`` for none
    """

    name: str
    title: str
    env: str
    score: str
    n_timesteps: int
    settings: Mapping[str, Mapping[str, Any]]
    hyperparams: Mapping[str, Any]
    env_kwargs: Mapping[str, Any]
    best: float | None = None
    chance: float | None = None
    reference: str = "ippo"
    needs: str | None = None

    @property
    def conf_file(self) -> str | None:
        """Shipped file of hyper-parameters that were tuned for this task; ``None`` for that of the algorithm."""
        return self.name if (HYPERPARAMS_FOLDER / f"{self.name}.yml").is_file() else None

    @property
    def methods(self) -> tuple[Setting, ...]:
        """The compared methods."""
        return read_settings([], self.settings)

    @property
    def is_available(self) -> bool:
        """Whether the package is installed that the environment needs."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None

    def options_of_seed(self, seed: int) -> dict[str, Any]:
        """
        Options of the environment in one run.

        :param seed: seed of the run
        """
        filled: dict[str, Any] = _with_seed(dict(self.env_kwargs), seed)
        return filled


def _with_seed(value: Any, seed: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_seed(one, seed) for key, one in value.items()}
    return seed if value == RUN_SEED else value


def read_suite(name: str) -> list[SuiteTask]:
    """
    Read the tasks of a suite.

    :param name: one of :func:`suite_names`, or ``all`` for the tasks of all of them
    :raises ValueError: if there is no such suite, or its file is wrong
    """
    if name != ALL_SUITES and name not in suite_names():
        raise ValueError(unknown("suite", name, [*suite_names(), ALL_SUITES]))
    tasks = [task for one in (suite_names() if name == ALL_SUITES else [name]) for task in _read_file(one)]
    names = [task.name for task in tasks]
    twice = [task for task in names if names.count(task) > 1]
    if twice:
        raise ValueError(f"suite {name}: task {twice[0]!r} is there twice")
    return tasks


def _read_file(suite: str) -> list[SuiteTask]:
    path = SUITES_FOLDER / f"{suite}.yml"
    content = read_yaml(path)
    tasks = content.pop("tasks", None)
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError(f"{path.name}: tasks must be a mapping from names to tasks, got {tasks!r}")
    try:
        return [_read_task(str(name), content, own) for name, own in tasks.items()]
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _read_task(name: str, shared: Mapping[str, Any], own: Any) -> SuiteTask:
    """A task from what its file says of all tasks, and of this one."""
    if not isinstance(own, Mapping):
        raise ValueError(f"task {name}: expected a mapping, got {own!r}")
    known = [entry.name for entry in fields(SuiteTask) if entry.name != "name"]
    for key in [*shared, *own]:
        if key not in known:
            raise ValueError(f"task {name}: {unknown('key', str(key), known)}")
    merged = {**shared, **own, **{key: {**(shared.get(key) or {}), **(own.get(key) or {})} for key in _MAPPINGS}}
    missing = [key for key in ("title", "env", "score", "n_timesteps", "settings") if not merged.get(key)]
    if missing:
        raise ValueError(f"task {name}: {missing[0]} is missing")
    if merged["score"] not in SCORES:
        raise ValueError(f"task {name}: {unknown('score', str(merged['score']), SCORES)}")
    task = SuiteTask(name=name, **merged)
    if task.reference not in [method.name for method in task.methods]:
        raise ValueError(f"task {name}: {unknown('reference', task.reference, [method.name for method in task.methods])}")
    return task


def choose_tasks(tasks: Sequence[SuiteTask], names: Iterable[str] | None) -> list[SuiteTask]:
    """
    :param tasks: tasks of a suite
    :param names: names of the wanted ones; ``None`` for all
    :return: the wanted ones in the order of the suite
    :raises ValueError: on a name that no task has
    """
    if names is None:
        return list(tasks)
    wanted, known = set(names), [task.name for task in tasks]
    for name in names:
        if name not in known:
            raise ValueError(f"--tasks: {unknown('task', name, known)}")
    return [task for task in tasks if task.name in wanted]


def choose_methods(tasks: Sequence[SuiteTask], names: Sequence[str] | None) -> list[SuiteTask]:
    """
    :param tasks: tasks of a suite
    :param names: names of the wanted methods; ``None`` for all
    :return: the tasks with these methods and their reference only; tasks without any of them are left out
    :raises ValueError: on a name that no method has
    """
    if names is None:
        return list(tasks)
    known = dict.fromkeys(name for task in tasks for name in task.settings)
    for name in names:
        if name not in known:
            raise ValueError(f"--methods: {unknown('method', name, known)}")
    chosen = [
        replace(task, settings={name: one for name, one in task.settings.items() if name in (*names, task.reference)})
        for task in tasks
        if task.settings.keys() & set(names)
    ]
    return chosen
