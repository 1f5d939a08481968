"""Hyper-parameters of one training: read from a file keyed by env id, and changed from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sb3_matrl.common.registry import algorithm_names, algorithm_spec, installed_algorithms
from sb3_matrl.envs.wrappers import Wrappers
from sb3_matrl.utils.suggest import did_you_mean, unknown
from sb3_matrl.zoo.common.listed_callbacks import Entry, read_callbacks
from sb3_matrl.zoo.common.python_text import read_python_text
from sb3_matrl.zoo.common.schema import ZOO_ARGUMENTS, Schema
from sb3_matrl.zoo.common.yaml_files import read_yaml

HYPERPARAMS_FOLDER = Path(__file__).parents[1] / "hyperparams"
# Keys of ``normalize``: the arguments of SB3's VecNormalize that algorithms have.
NORMALIZE = ("norm_obs", "norm_reward", "clip_obs", "clip_reward")
# Key for ``exploration_fraction`` as a number of environment steps, which does not depend on ``n_timesteps``.
EXPLORATION_STEPS, _EXPLORATION = "exploration_steps", "exploration_fraction"


@dataclass(frozen=True)
class Hyperparameters:
    """
    Hyper-parameters of one algorithm: those of the zoo (``n_timesteps``, ``env_wrapper``, ``callback``) and constructor
    arguments.

    ``hyperparameters["learning_rate"]`` is the value in YAML's types. Names, defaults and types are those of the constructor:
    see :class:`~sb3_matrl.zoo.common.schema.Schema`.

    :param algorithm: name of the algorithm
    :param values: all values, checked, in YAML's types
    """

    algorithm: str
    values: Mapping[str, Any]

    @classmethod
    def from_mapping(cls, algorithm: str, values: Mapping[str, Any], where: str) -> Hyperparameters:
        """
        Check names and types; missing values get their defaults.

        :param algorithm: name of the algorithm
        :param values: keys and values as YAML reads them; ``normalize`` is read as in rl-baselines3-zoo
        :param where: place of the values, for errors, e.g. ``"matrl.yml, checkers_v0"``
        :raises ValueError: on an unknown key or a value of the wrong type or range
        """
        schema = Schema.of(algorithm)
        converted = schema.defaults()
        for name, value in expand_normalize(values, where).items():
            try:
                converted[name] = schema.read(str(name), deepcopy(value))
            except ValueError as error:
                place = f"{where}, {name}" if name in schema.arguments else where
                raise ValueError(f"{place}: {error}") from None
        return cls(algorithm, converted)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a hyper-parameter; ``default`` if the algorithm does not have it."""
        return self.values.get(name, default)

    def changed(self, **values: Any) -> Hyperparameters:
        """A copy with other values, which are not checked."""
        return replace(self, values={**self.values, **values})

    @property
    def n_timesteps(self) -> int:
        """Steps to train for, over all copies of the environment."""
        return int(self.values["n_timesteps"])

    @property
    def n_envs(self) -> int:
        """Number of copies of the environment."""
        return int(self.get("n_envs", 1))

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Options of the environment."""
        return dict(self.get("env_kwargs") or {})

    @property
    def env_wrapper(self) -> Wrappers:
        """Wrappers of the environment, the innermost first: ``[supersuit.frame_stack_v1: {stack_size: 4}]``."""
        wrappers: Wrappers = self.values["env_wrapper"]
        return wrappers

    @property
    def callbacks(self) -> list[Entry]:
        """Callbacks of the training, with their arguments: ``[{StopTrainingOnMaxEpisodes: {max_episodes: 100}}]``."""
        return read_callbacks(self.values["callback"])

    def as_mapping(self) -> dict[str, Any]:
        """All values in YAML's types; :meth:`from_mapping` gives an equal object back."""
        return deepcopy(dict(self.values))

    def model_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the algorithm's constructor, with classes and schedules in place of their names."""
        schema = Schema.of(self.algorithm)
        return {name: schema.resolve(name, value) for name, value in self.as_mapping().items() if name not in ZOO_ARGUMENTS}


def expand_normalize(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """
    Replace rl-zoo's ``normalize`` by ``norm_obs``, ``norm_reward``, ``clip_obs`` and ``clip_reward``.

    :param values: hyper-parameters; ``normalize`` is true or false, or a mapping of the arguments of SB3's ``VecNormalize``,
        also as a text: ``"{'norm_obs': True}"``
    :param where: place of the values, for errors
    :return: a changed copy
    :raises ValueError: if ``normalize`` has another type, or one of the four is given beside it
    """
    changed = dict(values)
    if "normalize" not in changed:
        return changed
    given = changed.pop("normalize")
    try:
        given = read_python_text(given) if isinstance(given, str) else given
    except ValueError as error:
        raise ValueError(f"{where}, normalize: {error}, such as {{norm_obs: true, norm_reward: false}}") from None
    if not isinstance(given, (bool, Mapping)):
        example = "{norm_obs: true, norm_reward: false}"
        raise ValueError(f"{where}, normalize: expected true, false or a mapping such as {example}, got {given!r}")
    options = given if isinstance(given, Mapping) else {"norm_obs": given, "norm_reward": given}
    for name in options:
        if name not in NORMALIZE:
            raise ValueError(f"{where}, normalize: {unknown('key', str(name), NORMALIZE)}")
    beside = [name for name in NORMALIZE if name in changed]
    if beside:
        raise ValueError(f"{where}: normalize and {beside[0]} are given, which contradict each other: leave one of them out")
    return {**changed, "norm_obs": True, "norm_reward": True, **options}


def expand_exploration(values: Mapping[str, Any], n_timesteps: int, where: str) -> dict[str, Any]:
    """
    Replace ``exploration_steps`` by ``exploration_fraction``, the share of the training that these steps are.

    :param values: hyper-parameters
    :param n_timesteps: steps of the training
    :param where: place of the values, for errors
    :return: a changed copy
    :raises ValueError: if the value is no whole number of at least 1, or ``exploration_fraction`` is given beside it
    """
    changed = dict(values)
    if EXPLORATION_STEPS not in changed:
        return changed
    if _EXPLORATION in changed:
        raise ValueError(
            f"{where}: {EXPLORATION_STEPS} and {_EXPLORATION} are given, which contradict each other: leave one of them out"
        )
    given = changed.pop(EXPLORATION_STEPS)
    try:
        steps = float(given)
    except (TypeError, ValueError):
        steps = 0.0
    if not (steps.is_integer() and steps >= 1) or isinstance(given, bool):
        raise ValueError(f"{where}, {EXPLORATION_STEPS}: expected a whole number of at least 1, got {given!r}")
    return {**changed, _EXPLORATION: min(steps / n_timesteps, 1.0)}


def find_conf_file(algorithm: str, conf_file: str | None) -> Path:
    """
    Path of the file with hyper-parameters.

    :param algorithm: name of the algorithm, whose file is used if ``conf_file`` is ``None``
    :param conf_file: a path, or the name of a shipped file such as ``paper``; ``value_based_paper`` is the ``paper`` of the
        algorithms whose file is ``value_based``
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is Python
    """
    own = algorithm_spec(algorithm).conf_file
    name = own if conf_file is None else conf_file
    if name.endswith((".py", ".pyc")):
        raise ValueError(
            f"{name} is Python, and reading it would run its code: write the hyper-parameters as YAML, keyed by env id, like "
            f"{HYPERPARAMS_FOLDER / 'matrl.yml'}"
        )
    shipped = {path.stem: path for path in sorted(HYPERPARAMS_FOLDER.glob("*.yml"))}
    # A file of the current folder named like a shipped one is meant only where the user names it.
    if Path(name).is_file() and not (conf_file is None and name in shipped):
        return Path(name)
    for found in (f"{own}_{name}", name):
        if found in shipped:
            return shipped[found]
    raise FileNotFoundError(f"there is no file {name}; " + unknown("conf file", name, shipped))


def load_hyperparameters(
    path: Path,
    algorithm: str,
    env_id: str,
    overrides: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Hyperparameters:
    """
    Read an environment's entry (else the entry ``default``) and apply the changes of the command line.

    :param path: file keyed by env id
    :param algorithm: name of the algorithm
    :param env_id: id of the environment
    :param overrides: hyper-parameters to change; ``policy_kwargs.net_arch`` changes one key of a mapping
    :param env_kwargs: options of the environment to add or change
    :raises ValueError: on a wrong file, entry, key or value, which the message names
    :raises FileNotFoundError: if there is no such file
    """
    content = read_yaml(path)
    key = env_id if env_id in content else "default"
    if key not in content:
        known = ", ".join(map(str, content))
        guess = did_you_mean(env_id, map(str, content))
        has = f"{guess} It has" if guess else "; it has"
        raise ValueError(f"{path} has no entry for {env_id!r} and no entry 'default'{has}: {known}")
    where = f"{path.name}, {key}"
    changes = expand_normalize(overrides or {}, "command line")
    entry = entry_of(algorithm, content[key], where)
    n_timesteps = _planned_steps(algorithm, entry, changes)
    changes = expand_exploration(changes, n_timesteps, "command line")
    given = Hyperparameters.from_mapping(algorithm, expand_exploration(entry, n_timesteps, where), where)
    changed = apply_overrides(given.as_mapping(), changes)
    if env_kwargs:
        changed["env_kwargs"] = {**(changed.get("env_kwargs") or {}), **env_kwargs}
    return Hyperparameters.from_mapping(algorithm, changed, "command line")


def _planned_steps(algorithm: str, entry: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
    """Steps of a training whose hyper-parameters are not checked yet; wrong ones, which are rejected later, count as one."""
    name = "n_timesteps"
    given = {name: ZOO_ARGUMENTS[name].default, **entry, **changes}[name]
    try:
        return int(Schema.of(algorithm).read(name, given))
    except ValueError:
        return 1


def entry_of(algorithm: str, entry: Any, where: str) -> dict[str, Any]:
    """
    Hyper-parameters of one algorithm in an entry for all of them.

    :param algorithm: name of the algorithm
    :param entry: hyper-parameters; below a key that is an algorithm's name are those that differ for this algorithm
    :param where: place of the entry, for errors
    :return: the entry with the values of the algorithm, and without those of the others
    :raises ValueError: if the entry, or what stands below an algorithm's name, is no mapping
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: expected a mapping of hyper-parameters, got {entry!r}")
    differences = {name: entry[name] for name in algorithm_names() if name in entry}
    for name, values in differences.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"{where}, {name}: expected a mapping of hyper-parameters, got {values!r}")
    shared = {name: value for name, value in entry.items() if name not in differences}
    return {**shared, **differences.get(algorithm, {})}


def apply_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """
    Change a nested mapping.

    :param values: the mapping
    :param overrides: key -> new value; a key with dots leads into nested mappings
    :return: a changed copy
    :raises ValueError: if a dotted key leads into a value that is no mapping
    """
    changed = deepcopy(dict(values))
    for path, value in overrides.items():
        *parents, last = path.split(".")
        place = changed
        for depth, parent in enumerate(parents):
            if depth == 0 and parent not in place:
                raise ValueError("command line: " + unknown("hyper-parameter", parent, place))
            if place.get(parent) is None:
                place[parent] = {}
            if not isinstance(place[parent], dict):
                raise ValueError(f"command line, {path}: {parent} is {place[parent]!r}, not a mapping")
            place = place[parent]
        place[last] = deepcopy(value)
    return changed


def schema_fields(algorithm: str | None = None) -> list[str]:
    """
    Names of hyper-parameters, ``normalize`` and ``exploration_steps`` included.

    :param algorithm: name of the algorithm; ``None`` for all that can be imported
    """
    names = [spec.name for spec in installed_algorithms()] if algorithm is None else [algorithm]
    return [*dict.fromkeys(name for one in names for name in Schema.of(one).arguments), "normalize", EXPLORATION_STEPS]
