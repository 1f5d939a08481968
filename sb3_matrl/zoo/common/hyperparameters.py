"""Hyper-parameters: the schema of ``hyperparams/<algo>.yml``, reading it, and changing it from the command line."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from sb3_matrl.envs.wrappers import read_wrappers
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.names import (
    LEARNERS,
    POLICIES,
    policy_options,
    resolve_learner,
    resolve_policy_kwargs,
    resolve_schedule,
)
from sb3_matrl.zoo.common.yaml_files import read_yaml

HYPERPARAMS_FOLDER = Path(__file__).parents[1] / "hyperparams"

# Name of the algorithm -> the two switches of MATRL that make it.
ALGORITHMS: dict[str, dict[str, bool]] = {
    "matrl": {"metagame": True, "best_response": True},
    "matrl-no-br": {"metagame": True, "best_response": False},
    "il-la": {"metagame": False, "best_response": True},
    "ippo": {"metagame": False, "best_response": False},
}

# The policy that is chosen by what the agents observe: see sb3_matrl.zoo.common.policies.
AUTO = "auto"
# What ``normalize`` may say: the arguments of SB3's VecNormalize that MATRL has.
NORMALIZE = ("norm_obs", "norm_reward", "clip_obs", "clip_reward")

# A number, or a schedule of it such as "lin_0.002".
Rate = float | str


@dataclass(frozen=True)
class Hyperparameters:
    """
    One entry of a hyper-parameter file: what is trained for how long, with the arguments of MATRL in YAML's types.

    Fields have the names, meanings and defaults of MATRL's arguments. Those of the agents' learners may also be mappings
    agent -> value. ``normalize`` is read as well, as in rl-baselines3-zoo: see :func:`expand_normalize`.

    :param n_timesteps: steps to train for, counted over all copies of the environment
    :param env_kwargs: options of the environment
    :param env_wrapper: what is put around it, the innermost first: ``[supersuit.frame_stack_v1: {stack_size: 4}]``
    :param learning_rate: number, or ``lin_0.002`` for a linear decay to 0; so are the clip ranges of the learners
    :param policy_kwargs: as in SB3, with names for classes: ``{net_arch: [64, 64], activation_fn: leaky_relu}``
    :param policy: the name of SB3's policy class, or ``auto`` for one that suits the observations
    :param learner_class: ``PPO``, ``A2C``, ``TRPO``, ``RecurrentPPO`` or ``MaskablePPO``
    :param share: group -> agents that share one learner
    :param frozen: agent -> path of a saved MATRL model whose agent of that name plays it without learning, or
        ``[path, agent]`` where it has another name there
    """

    n_timesteps: int = 1_000_000
    n_envs: int = 1
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    env_wrapper: list[Any] | dict[str, Any] | str | None = None
    policy: str = "MlpPolicy"
    learning_rate: Rate = 3e-4
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: Rate = 0.2
    clip_range_vf: Rate | None = None
    normalize_advantage: bool = True
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    use_sde: bool = False
    sde_sample_freq: int = -1
    target_kl: float | None = None
    stats_window_size: int = 100
    policy_kwargs: dict[str, Any] | None = None
    learner_class: str = "PPO"
    learner_kwargs: dict[str, Any] | None = None
    share: dict[str, Any] | None = None
    frozen: dict[str, Any] | None = None
    norm_obs: bool = False
    norm_reward: bool = False
    clip_obs: float = 10.0
    clip_reward: float = 10.0
    solver: str = "auto"
    selection: str = "random"
    aggregation: str = "parameters"
    distill_steps: int = 10
    best_response_start: str = "aggregated"
    payoff_clip_range: float | None = 0.2
    br_learning_rate: Rate | None = None
    br_n_epochs: int = 5
    br_clip_range: float | None = 0.2
    br_kl_coef: float = 0.0
    on_nan: str = "stop"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Hyperparameters:
        """
        Check names and types and build the entry.

        :param values: keys and values as YAML reads them
        :param where: said in errors, e.g. ``"matrl.yml, checkers_v0"``
        :raises ValueError: on an unknown key or a value of the wrong type or range
        """
        annotations = get_type_hints(cls)
        converted = {}
        for name, value in expand_normalize(values, where).items():
            if name not in annotations:
                raise ValueError(f"{where}: " + unknown("hyper-parameter", str(name), annotations))
            try:
                converted[name] = _convert_field(name, deepcopy(value), annotations[name])
            except ValueError as error:
                raise ValueError(f"{where}, {name}: {error}") from None
        return cls(**converted)

    def as_mapping(self) -> dict[str, Any]:
        """All values in YAML's types; :meth:`from_mapping` gives an equal object back."""
        return asdict(self)

    def model_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``MATRL``, ``policy`` and ``env_kwargs`` included, with classes and schedules in place."""
        resolve = {name: _each(resolver) for name, resolver in _RESOLVERS.items()}
        return {
            name: resolve[name](value) if name in resolve and value is not None else value
            for name, value in self.as_mapping().items()
            if name not in ("n_timesteps", "env_wrapper")
        }


_POSITIVE = frozenset({"n_timesteps", "n_envs", "n_steps", "batch_size", "n_epochs", "stats_window_size"})
_JOINT = frozenset(
    {
        "n_timesteps",
        "n_envs",
        "env_kwargs",
        "env_wrapper",
        "n_steps",
        "stats_window_size",
        "solver",
        "selection",
        "aggregation",
    }
    | {"distill_steps", "best_response_start", "payoff_clip_range", "on_nan", "share", "frozen"}
)
_RATES = ("learning_rate", "clip_range", "clip_range_vf", "br_learning_rate")
_RESOLVERS: dict[str, Any] = {name: resolve_schedule for name in _RATES} | {"learner_class": resolve_learner}
_RESOLVERS["policy_kwargs"] = resolve_policy_kwargs
_RESOLVERS["frozen"] = lambda source: tuple(source) if isinstance(source, list) else source
_CHOICES = {"policy": (AUTO, *POLICIES), "learner_class": LEARNERS}
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text", dict: "a mapping", list: "a list"}
_TYPE_NAMES[type(None)] = "null"


def expand_normalize(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """
    Put ``norm_obs``, ``norm_reward``, ``clip_obs`` and ``clip_reward`` in place of rl-zoo's ``normalize``.

    :param values: hyper-parameters; ``normalize`` is true or false, or a mapping of the arguments of SB3's ``VecNormalize``
    :param where: said in errors
    :return: a changed copy
    :raises ValueError: when it is something else, or one of the four is given beside it
    """
    changed = dict(values)
    if "normalize" not in changed:
        return changed
    given = changed.pop("normalize")
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


def _each(resolver: Any) -> Any:
    """``resolver`` for one value, or for each value of a mapping agent -> value."""

    def resolve(value: Any) -> Any:
        if _is_per_agent(value, dict_valued=resolver is resolve_policy_kwargs):
            return {agent: resolver(one) for agent, one in value.items()}
        return resolver(value)

    return resolve


def _is_per_agent(value: Any, dict_valued: bool) -> bool:
    """Mappings are per agent; where the value itself is a mapping, those of mappings that are no options of a policy."""
    if not isinstance(value, Mapping) or not value:
        return False
    return not dict_valued or all(isinstance(one, Mapping) and name not in policy_options() for name, one in value.items())


def _convert_field(name: str, value: Any, annotation: Any) -> Any:
    """``value`` in the type of the field ``name``; the same for every agent of a mapping agent -> value."""
    if name not in _JOINT and _is_per_agent(value, dict_valued=name in ("policy_kwargs", "learner_kwargs")):
        return {str(agent): _convert_one(name, one, annotation) for agent, one in value.items()}
    return _convert_one(name, value, annotation)


def _convert_one(name: str, value: Any, annotation: Any) -> Any:
    value = _convert(value, annotation)
    if name in _POSITIVE and value < 1:
        raise ValueError(f"must be at least 1, got {value}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(unknown(name, value, _CHOICES[name]))
    if value is not None and name in (*_RATES, "policy_kwargs"):
        _RESOLVERS[name](value)
    if value is not None and name in _CHECKS:
        _CHECKS[name](value)
    return value


def _check_share(groups: Mapping[str, Any]) -> None:
    for name, agents in groups.items():
        if not isinstance(agents, list) or not agents or not all(isinstance(agent, str) for agent in agents):
            raise ValueError(
                f"expected a list of agents for the group {name!r}, as in {{team: [agent_0, agent_1]}}, got {agents!r}"
            )


def _check_frozen(sources: Mapping[str, Any]) -> None:
    for agent, source in sources.items():
        words = source if isinstance(source, list) else [source]
        if len(words) > 2 or not words or not all(isinstance(word, str) and word for word in words):
            raise ValueError(f"expected the path of a model, or [path, agent there], for {agent!r}, got {source!r}")


_CHECKS: dict[str, Any] = {"env_wrapper": read_wrappers, "share": _check_share, "frozen": _check_frozen}


def _convert(value: Any, annotation: Any) -> Any:
    """
    ``value`` as one of the types of ``annotation``.

    YAML 1.1 reads ``1e-3`` as text; such text counts as a number where one is expected, and so does ``1e6`` as an integer.
    """
    kinds = [get_origin(kind) or kind for kind in _members(annotation)]
    for kind in kinds:
        if type(value) is kind and not (kind is float and math.isnan(value)) and kind is not str:
            return value
    number = _number(value)
    if number is not None and float in kinds:
        return float(number)
    if number is not None and int in kinds and float(number).is_integer():
        return int(number)
    if isinstance(value, str) and str in kinds:
        return value
    raise ValueError(f"expected {' or '.join(_TYPE_NAMES[kind] for kind in kinds)}, got {value!r}")


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _number(value: Any) -> float | int | None:
    if isinstance(value, bool):
        return None
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def find_conf_file(algorithm: str, conf_file: str | None) -> Path:
    """
    Where the hyper-parameters stand.

    :param algorithm: its file is used when ``conf_file`` is ``None``
    :param conf_file: a path, or the name of a shipped file such as ``paper``
    :raises FileNotFoundError: when there is no such file
    """
    if conf_file is None:
        return HYPERPARAMS_FOLDER / f"{algorithm}.yml"
    if Path(conf_file).is_file():
        return Path(conf_file)
    shipped = {path.stem: path for path in sorted(HYPERPARAMS_FOLDER.glob("*.yml"))}
    if conf_file in shipped:
        return shipped[conf_file]
    raise FileNotFoundError(f"there is no file {conf_file}; " + unknown("conf file", conf_file, shipped))


def load_hyperparameters(
    path: Path, env_id: str, overrides: Mapping[str, Any] | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> Hyperparameters:
    """
    Read an environment's entry (else the entry ``default``) and apply what was given on the command line.

    :param path: file keyed by env id
    :param env_id: the environment
    :param overrides: hyper-parameters to change; ``policy_kwargs.net_arch`` changes one key of a mapping
    :param env_kwargs: options of the environment to add or change
    :raises ValueError: names file, entry and key that are wrong
    :raises FileNotFoundError: when the file does not exist
    """
    content = read_yaml(path)
    key = env_id if env_id in content else "default"
    if key not in content:
        known = ", ".join(map(str, content))
        raise ValueError(f"{path} has no entry for {env_id!r} and no entry 'default'; it has: {known}")
    if not isinstance(content[key], dict):
        raise ValueError(f"{path}, {key}: expected a mapping of hyper-parameters, got {content[key]!r}")
    given = Hyperparameters.from_mapping(content[key], f"{path.name}, {key}")
    changed = apply_overrides(given.as_mapping(), expand_normalize(overrides or {}, "command line"))
    changed["env_kwargs"] = {**(changed["env_kwargs"] or {}), **(env_kwargs or {})}
    return Hyperparameters.from_mapping(changed, "command line")


def apply_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param values: nested mapping
    :param overrides: key -> new value; a key with dots goes down into nested mappings
    :return: a changed copy
    :raises ValueError: when a dotted key leads into something that is no mapping
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


def schema_fields() -> list[str]:
    """Names of all hyper-parameters, ``normalize`` included."""
    return [*(entry.name for entry in fields(Hyperparameters)), "normalize"]
