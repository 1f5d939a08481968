"""Sweep files: a strict reader of W&B's schema, so that both backends search the same space in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.sweeping.parameters import Parameter, read_parameter

SWEEPS_FOLDER = Path(__file__).parents[1] / "sweeps"
PROGRAM = "zoo/train.py"
ARGS = "${args}"
COMMAND_START = ("${env}", "${interpreter}", "${program}")
METHODS = ("bayes", "random", "grid")
GOALS: tuple[Literal["maximize", "minimize"], ...] = ("maximize", "minimize")
# Keys that MultiAgentEvalCallback logs.
METRICS = ("eval/mean_reward", "eval/mean_reward_greedy", "eval/mean_ep_length", "eval/mean_ep_length_greedy")

# Largest number of trials or evaluations, and largest ``s`` of ``early_terminate``, whose effect grows exponentially.
_MAX_COUNT = 10**9
_MAX_BRACKET = 30


@dataclass(frozen=True)
class Hyperband:
    """
    ``early_terminate``: W&B's Hyperband, which at certain evaluations stops trials that are not among the best 1/eta.

    :param min_iter: first of these evaluations; each of the next ones is eta times as late as the one before
    :param max_iter: last evaluation, instead of ``min_iter``
    :param s: number of divisions by eta from ``max_iter`` to the first of these evaluations
    :param eta: see above
    """

    min_iter: int | None = None
    max_iter: int | None = None
    s: int | None = None
    eta: int = 3

    @property
    def first_evaluation(self) -> int:
        """Number of the first evaluation at which trials are stopped, from 1."""
        if self.min_iter is not None:
            return self.min_iter
        assert self.max_iter is not None and self.s is not None
        return int(max(self.max_iter // self.eta**self.s, 1))


@dataclass(frozen=True)
class SweepConfig:
    """
    Content of a sweep file; W&B's documentation explains the keys.

    :param parameters: parameters of the search
    :param metric: name of the optimised metric, one of ``METRICS``
    :param goal: ``maximize`` or ``minimize``
    :param method: ``bayes``, ``random`` or ``grid``
    :param command: words after the program, with ``${args}``; the others are the same for all trials
    :param early_terminate: rule for stopping trials early; ``None`` for none
    :param run_cap: largest number of trials; ``None`` for no limit
    :param name: name of the sweep
    :param description: description of the sweep
    :param project: project of W&B
    :param entity: user or team of W&B
    :param source: mapping in the file
    :param trust: whether trials may run code that the file names: environments ``module:callable``, files of plain SB3
    """

    parameters: tuple[Parameter, ...]
    metric: str
    goal: Literal["maximize", "minimize"]
    method: str
    command: tuple[str, ...]
    early_terminate: Hyperband | None
    run_cap: int | None
    name: str | None
    description: str | None
    project: str | None
    entity: str | None
    source: dict[str, Any]
    trust: bool = False

    @property
    def searched(self) -> list[Parameter]:
        """The parameters with more than one value."""
        return [parameter for parameter in self.parameters if not parameter.is_constant]

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """
        The command line of ``train.py`` for one trial, word for word as ``wandb agent`` makes it.

        :param values: name of the parameter -> value
        """
        place = self.command.index(ARGS)
        return [*self.command[:place], *(f"--{name}={value}" for name, value in values.items()), *self.command[place + 1 :]]

    def with_flags(self, flags: Mapping[str, Any]) -> SweepConfig:
        """
        The same sweep with other flags for all trials, in both backends.

        :param flags: name with underscores -> value; takes the place of ``--name=value`` in the command
        """
        kept = [word for word in self.command if word.partition("=")[0] not in {f"--{name}" for name in flags}]
        command = (*kept, *(f"--{name}={value}" for name, value in flags.items()))
        return replace(self, command=command, source={**self.source, "command": [*COMMAND_START, *command]})


def find_sweep_file(sweep: str) -> Path:
    """
    :param sweep: path of a file, or name of a shipped file such as ``matrl_checkers``
    :raises FileNotFoundError: if there is no such file
    """
    if Path(sweep).is_file():
        return Path(sweep)
    shipped = {path.stem: path for path in sorted(SWEEPS_FOLDER.glob("*.yaml"))}
    if sweep in shipped:
        return shipped[sweep]
    raise FileNotFoundError(f"there is no file {sweep}; " + unknown("sweep", sweep, shipped))


def read_sweep(path: Path) -> SweepConfig:
    """
    Read and check a sweep file, except names and types of the flags, which ``train.py`` checks.

    :param path: path of the file
    :raises ValueError: on a mistake; names file and key
    :raises OSError: if the file cannot be read
    """
    source = read_yaml(path)
    try:
        return sweep_from_mapping(source)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def sweep_from_mapping(source: dict[str, Any]) -> SweepConfig:
    """
    Check the content of a sweep file.

    :param source: keys and values as YAML reads them
    :raises ValueError: on a mistake; names the key
    """
    known = ["program", *(entry.name for entry in fields(SweepConfig) if entry.name not in ("goal", "source", "trust"))]
    _check_keys("key", source, known, ("program", "method", "metric", "parameters"))
    if source["program"] != PROGRAM:
        raise ValueError(f"program must be {PROGRAM}, got {source['program']!r}")
    if source["method"] not in METHODS:
        raise ValueError(unknown("method", str(source["method"]), METHODS))
    metric, goal = _read_metric(source["metric"])
    return SweepConfig(
        parameters=_read_parameters(source["parameters"]),
        metric=metric,
        goal=goal,
        method=source["method"],
        command=_read_command(source.get("command", [*COMMAND_START, ARGS])),
        early_terminate=_read_early_terminate(source.get("early_terminate")),
        run_cap=_positive("run_cap", source.get("run_cap")),
        name=_text("name", source.get("name")),
        description=_text("description", source.get("description")),
        project=_text("project", source.get("project")),
        entity=_text("entity", source.get("entity")),
        source=source,
    )


def _check_keys(kind: str, mapping: Any, known: list[str], needed: tuple[str, ...]) -> None:
    if not isinstance(mapping, dict):
        raise ValueError(f"expected a mapping with {', '.join(needed)}, got {mapping!r}")
    for key in mapping:
        if key not in known:
            raise ValueError(unknown(kind, str(key), known))
    for key in needed:
        if key not in mapping:
            raise ValueError(f"{kind} {key!r} is missing; needed: {', '.join(needed)}")


def _read_metric(metric: Any) -> tuple[str, Literal["maximize", "minimize"]]:
    _check_keys("metric: key", metric, ["name", "goal"], ("name", "goal"))
    if metric["name"] not in METRICS:
        raise ValueError(unknown("metric", str(metric["name"]), METRICS))
    if metric["goal"] not in GOALS:
        raise ValueError(unknown("metric: goal", str(metric["goal"]), GOALS))
    return metric["name"], GOALS[GOALS.index(metric["goal"])]


def _read_parameters(parameters: Any) -> tuple[Parameter, ...]:
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"parameters must be a mapping name -> distribution, got {parameters!r}")
    checked = []
    for name, spec in parameters.items():
        try:
            checked.append(read_parameter(str(name), spec))
        except ValueError as error:
            raise ValueError(f"parameter {name}: {error}") from None
    if all(parameter.is_constant for parameter in checked):
        raise ValueError("all parameters are constant: there is nothing to search")
    return tuple(checked)


def _read_command(command: Any) -> tuple[str, ...]:
    if not isinstance(command, list) or tuple(command[:3]) != COMMAND_START:
        raise ValueError(f"command must be a list that starts with {', '.join(COMMAND_START)}, got {command!r}")
    words = tuple(map(str, command[3:]))
    if words.count(ARGS) != 1:
        raise ValueError(f"command must have {ARGS} once, got {command!r}")
    macros = [word for word in words if "${" in word and word != ARGS]
    if macros:
        raise ValueError(f"command: {macros[0]} is not supported, only {ARGS}")
    return words


def _read_early_terminate(settings: Any) -> Hyperband | None:
    if settings is None:
        return None
    known = [entry.name for entry in fields(Hyperband)]
    _check_keys("early_terminate: key", settings, ["type", *known], ("type",))
    if settings["type"] != "hyperband":
        raise ValueError(unknown("early_terminate: type", str(settings["type"]), ["hyperband"]))
    numbers = {key: _positive(f"early_terminate: {key}", settings[key]) for key in known if settings.get(key) is not None}
    if ("min_iter" in numbers) == ("max_iter" in numbers) or ("max_iter" in numbers) != ("s" in numbers):
        raise ValueError("early_terminate needs either min_iter, or max_iter and s")
    if (numbers.get("s") or 1) > _MAX_BRACKET:
        raise ValueError(f"early_terminate: s must be at most {_MAX_BRACKET}, got {numbers['s']}")
    if numbers.get("eta", 3) == 1:
        raise ValueError("early_terminate: eta must be at least 2")
    return Hyperband(**numbers)  # type: ignore[arg-type]


def _positive(key: str, value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{key} must be an integer of at least 1, got {value!r}")
    if value is not None and value > _MAX_COUNT:
        raise ValueError(f"{key} must be at most {_MAX_COUNT:,}, got {value}")
    return value


def _text(key: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be text, got {value!r}")
    return value
