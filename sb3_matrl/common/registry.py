"""
The registry of algorithms: names, classes and fixed arguments.

The command lines, :func:`~sb3_matrl.common.loading.load_model` and the documentation look algorithms up here. Classes are
imported only when they are needed, so that names and summaries are known at once. Installed packages add their own algorithms
by entry points of the group ``sb3_matrl.algorithms``, each of which names an :class:`AlgorithmSpec`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from sb3_matrl.files.places import name_of
from sb3_matrl.utils.suggest import unknown

ENTRY_POINT_GROUP = "sb3_matrl.algorithms"


@dataclass(frozen=True)
class AlgorithmSpec:
    """
    An algorithm as the command lines know it.

    :param name: name on the command line, in run folders and in results
    :param target: ``"module:Class"`` of a :class:`~sb3_matrl.common.algorithm.MultiAgentAlgorithm`
    :param fixed: constructor arguments that make the class this algorithm; hyper-parameter files cannot change them
    :param summary: one line for help texts and tables
    :param conf_file: name of the shipped hyper-parameter file; the path of one for algorithms of other packages
    """

    name: str
    target: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    conf_file: str = "matrl"

    @property
    def class_name(self) -> str:
        """Name of the class, which files of saved models hold."""
        return self.target.rpartition(":")[2]

    def load_class(self) -> type[Any]:
        """
        Import the class.

        :raises ImportError: if a package is missing that it needs
        """
        module, _, name = self.target.partition(":")
        loaded: type[Any] = getattr(importlib.import_module(module), name)
        return loaded


_MATRL = "sb3_matrl.matrl.matrl:MATRL"
_OFF_POLICY = "sb3_matrl.off_policy"
_BUILT_IN = (
    AlgorithmSpec(
        "matrl", _MATRL, {"metagame": True, "best_response": True}, "MATRL: predicted step, meta-game, best response"
    ),
    AlgorithmSpec("matrl-no-br", _MATRL, {"metagame": True, "best_response": False}, "MATRL without best response"),
    AlgorithmSpec(
        "il-la", _MATRL, {"metagame": False, "best_response": True}, "look-ahead: best response to the predicted policies"
    ),
    AlgorithmSpec(
        "ippo",
        _MATRL,
        {"metagame": False, "best_response": False, "critic": "own"},
        "independent learners, PPO by default",
    ),
    AlgorithmSpec(
        "mappo",
        _MATRL,
        {"metagame": False, "best_response": False, "critic": "central"},
        "PPO with critics that see the state",
    ),
    AlgorithmSpec(
        "matrl-optimistic",
        _MATRL,
        {"metagame": True, "best_response": True, "strategies": ("current", "predicted", "optimistic"), "selection": "auto"},
        "MATRL with a third strategy, an optimistic trial step",
    ),
    AlgorithmSpec(
        "optimistic-br",
        _MATRL,
        {"metagame": False, "best_response": True, "strategies": ("current", "optimistic")},
        "optimistic step and best response, without the meta-game",
    ),
    AlgorithmSpec(
        "optimistic",
        _MATRL,
        {"metagame": False, "best_response": False, "strategies": ("current", "optimistic")},
        "optimistic step alone",
    ),
    AlgorithmSpec("iql", f"{_OFF_POLICY}.iql:IQL", {}, "independent Q-learning: a DQN per agent", "value_based"),
    AlgorithmSpec("vdn", f"{_OFF_POLICY}.vdn:VDN", {}, "value decomposition: the sum of the agents' values", "value_based"),
    AlgorithmSpec("qmix", f"{_OFF_POLICY}.qmix:QMIX", {}, "monotone mixing of the agents' values by the state", "value_based"),
    AlgorithmSpec("qtran", f"{_OFF_POLICY}.qtran:QTRAN", {}, "joint value, factorised by constraints", "value_based"),
    AlgorithmSpec("qdpp", f"{_OFF_POLICY}.qdpp:QDPP", {}, "determinantal Q-learning: diverse joint actions", "value_based"),
    AlgorithmSpec("iddpg", f"{_OFF_POLICY}.iddpg:IDDPG", {}, "independent DDPG", "actor_critic"),
    AlgorithmSpec("maddpg", f"{_OFF_POLICY}.maddpg:MADDPG", {}, "DDPG with central critics", "actor_critic"),
    AlgorithmSpec("comix", f"{_OFF_POLICY}.comix:COMIX", {}, "mixing of values of continuous actions", "actor_critic"),
)


@cache
def _registered() -> dict[str, AlgorithmSpec | None]:
    """Name -> built-in algorithm; ``None`` for entry points, which are loaded when they are asked for."""
    names: dict[str, AlgorithmSpec | None] = {spec.name: spec for spec in _BUILT_IN}
    return names | {entry.name: None for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name not in names}


def algorithm_names() -> list[str]:
    """:return: names of all algorithms, the built-in ones first"""
    return list(_registered())


def algorithm_spec(name: str) -> AlgorithmSpec:
    """
    Look an algorithm up.

    :param name: one of :func:`algorithm_names`
    :raises ValueError: if there is none of that name, or a plug-in's entry point is not an :class:`AlgorithmSpec`
    """
    names = _registered()
    if name not in names:
        raise ValueError(unknown("algorithm", name, names))
    return names[name] or _load_entry_point(name)


def installed_algorithms() -> list[AlgorithmSpec]:
    """Registered algorithms without those whose packages are missing."""
    found = []
    for name in algorithm_names():
        try:
            spec = algorithm_spec(name)
            spec.load_class()
        except (ImportError, ValueError):
            continue
        found.append(spec)
    return found


def _load_entry_point(name: str) -> AlgorithmSpec:
    (entry, *_) = entry_points(group=ENTRY_POINT_GROUP, name=name)
    spec = entry.load()
    if not isinstance(spec, AlgorithmSpec) or spec.name != name:
        raise ValueError(f"the entry point {name!r} ({entry.value}) must be an AlgorithmSpec of that name, got {spec!r}")
    return spec


def register(spec: AlgorithmSpec) -> None:
    """
    Add an algorithm for this process, e.g. in a script or a test; installed packages use an entry point instead.

    :param spec: description of the algorithm
    :raises ValueError: if the name is taken
    """
    if spec.name in _registered():
        raise ValueError(f"an algorithm named {spec.name!r} is registered already")
    _registered()[spec.name] = spec


def class_of_name(class_name: str) -> type[Any]:
    """
    The class of a saved model. A file names the class, and only registered classes are imported.

    :param class_name: name of the class in the file
    :raises ValueError: if no registered algorithm has a class of that name
    """
    specs = {spec.class_name: spec for spec in map(algorithm_spec, algorithm_names())}
    if class_name not in specs:
        raise ValueError(unknown("algorithm class", class_name, specs))
    return specs[class_name].load_class()


def class_of_file(path: Any) -> type[Any]:
    """
    The class of the model in a file.

    :param path: path of the file, with or without ``.zip``, or open binary file
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is damaged, of a newer format, or of an algorithm that is not registered
    """
    from sb3_matrl.files.model_files import read_model  # heavy: the names of algorithms need no torch

    name = read_model(path).algorithm
    try:
        return class_of_name(name)
    except ValueError as error:
        raise ValueError(f"{name_of(path)}: {error}") from None
