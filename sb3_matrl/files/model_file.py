"""Model files: their content as data, reading and writing."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gymnasium import spaces

from sb3_matrl.files.archive import read_archive, write_archive
from sb3_matrl.files.argument_codec import Unsaved, argument_from_json, argument_to_json
from sb3_matrl.files.space_codec import space_from_json, space_to_json
from sb3_matrl.utils.suggest import did_you_mean

# Class of the models in files of formats 1 and 2, which do not name it.
_FIRST_ALGORITHM = "MATRL"
_COUNTERS = ("n_envs", "num_timesteps", "total_timesteps", "n_updates", "skipped_updates", "learner_n_updates")


@dataclass(frozen=True)
class SavedModel:
    """
    Content of a model file.

    :param algorithm: name of the model's class
    :param observation_spaces: agent -> space, in the agents' order
    :param action_spaces: agent -> space
    :param arguments: constructor arguments in JSON types, see :mod:`sb3_matrl.files.argument_codec`
    :param counters: ``n_envs``, ``num_timesteps``, ``total_timesteps``, ``n_updates``, ``skipped_updates``, and
        ``learner_n_updates`` (a list)
    :param generators: name -> state of one of the model's own bit generators
    :param parameters: learner -> state dicts, as ``get_parameters`` returns them
    :param training: state of the training, as ``TrainingState.as_tree`` returns it; ``None`` outside a training
    :param normalizers: learner -> state of its normaliser, with tensors for arrays
    :param frozen: frozen agent -> JSON document and tensors, as ``FrozenAgent.to_file`` returns them
    """

    algorithm: str
    observation_spaces: dict[str, spaces.Space[Any]]
    action_spaces: dict[str, spaces.Space[Any]]
    arguments: dict[str, Any]
    counters: dict[str, Any]
    generators: dict[str, dict[str, Any]]
    parameters: dict[str, dict[str, Any]]
    training: dict[str, Any] | None = None
    normalizers: dict[str, Any] = field(default_factory=dict)
    frozen: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)


def zip_path(path: str | Path) -> Path:
    """The path with ``.zip`` where it has no suffix, as in SB3."""
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")


def write_model(path: str | Path, saved: SavedModel, documents: Mapping[str, Any] | None = None) -> None:
    """
    Write a model file atomically, see :func:`~sb3_matrl.files.archive.write_archive`.

    :param path: path of the file
    :param saved: content of the file
    :param documents: name -> value in JSON types, stored beside the model
    """
    document = {
        "algorithm": saved.algorithm,
        "agents": list(saved.observation_spaces),
        "observation_spaces": [space_to_json(space) for space in saved.observation_spaces.values()],
        "action_spaces": [space_to_json(space) for space in saved.action_spaces.values()],
        "arguments": {name: argument_to_json(value) for name, value in saved.arguments.items()},
        "counters": saved.counters,
        "generators": saved.generators,
        "learners": list(saved.parameters),
        "frozen": {agent: description for agent, (description, _) in saved.frozen.items()},
    }
    # Numbered, because an agent's name need not be a file's.
    tensors = {f"agents/{i}": parameters for i, parameters in enumerate(saved.parameters.values())}
    tensors |= {f"frozen/{i}": state for i, (_, state) in enumerate(saved.frozen.values())}
    if saved.normalizers:
        tensors["normalizers"] = saved.normalizers
    if saved.training is not None:
        tensors["training"] = saved.training
    write_archive(zip_path(path), {**(documents or {}), "model": document}, tensors)


def read_model(path: str | Path) -> SavedModel:
    """
    Read a model file; nothing in it is executed. ``arguments`` are still in JSON types.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is not a model file, is damaged, or is of a newer format
    """
    documents, tensors = read_archive(zip_path(path))
    try:
        document = documents["model"]
        agents = list(document["agents"])
        counters = {"skipped_updates": 0, **document["counters"]}  # files of earlier versions have none
        return SavedModel(
            algorithm=str(document.get("algorithm", _FIRST_ALGORITHM)),
            observation_spaces=dict(zip(agents, map(space_from_json, document["observation_spaces"]), strict=True)),
            action_spaces=dict(zip(agents, map(space_from_json, document["action_spaces"]), strict=True)),
            arguments=dict(document["arguments"]),
            counters={name: counters[name] for name in _COUNTERS},
            generators=_generators(document),
            parameters={name: tensors[f"agents/{i}"] for i, name in enumerate(document.get("learners", agents))},
            training=tensors.get("training"),
            normalizers=dict(tensors.get("normalizers", {})),
            frozen={
                agent: (dict(description), tensors[f"frozen/{i}"])
                for i, (agent, description) in enumerate(document.get("frozen", {}).items())
            },
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or not a saved model: {error!r}") from error


def _generators(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if "coordinator_rng" in document:  # formats 1 and 2
        return {"coordinator": dict(document["coordinator_rng"])}
    return {str(name): dict(state) for name, state in document["generators"].items()}


@contextmanager
def blame_file(path: str | Path, *errors: type[Exception]) -> Iterator[None]:
    """
    Turn errors in building a model from a file into one that names the file.

    :param path: path of the file
    :param errors: errors that the file's content may cause
    :raises ValueError: in place of these errors
    """
    try:
        yield
    except errors as error:
        raise ValueError(f"{path}: its content does not make a model: {' '.join(str(error).split())}") from error


def restore_arguments(
    stored: Mapping[str, Any],
    defaults: Mapping[str, Any],
    schedules: Collection[str],
    custom_objects: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> dict[str, Any]:
    """
    The constructor's arguments from a file.

    :param stored: arguments in JSON types
    :param defaults: argument -> default, for all arguments of the constructor
    :param schedules: arguments that may be functions; a model whose schedule was not saved can still act
    :param custom_objects: values for arguments that a file cannot hold
    :param changed: values that the caller wants instead of the stored ones
    :raises ValueError: if a name is no argument, or a required argument was not stored; a schedule that was not stored is a
        warning
    """
    given = {**custom_objects, **changed}
    for name in given:
        if name not in defaults:
            raise ValueError(f"{name!r} is no argument of this algorithm{did_you_mean(name, defaults)}")
    arguments = {name: _restore(name, value) for name, value in stored.items() if name in defaults and name not in given}
    for name, value in arguments.items():
        lost = _find_unsaved(value)
        if lost is None:
            continue
        hint = f"pass custom_objects={{{name!r}: ...}}"
        if name not in schedules:
            raise ValueError(f"{name} holds {lost.text}, which a file cannot hold: {hint}")
        warnings.warn(f"{name} was the function {lost.text}, which is not saved: to continue training, {hint}", stacklevel=3)
        arguments[name] = defaults[name]
    return arguments | given


def _restore(name: str, value: Any) -> Any:
    try:
        return argument_from_json(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; pass custom_objects={{{name!r}: ...}} if you trust the file") from error


def _find_unsaved(value: Any) -> Unsaved | None:
    if isinstance(value, Unsaved):
        return value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return next((lost for lost in map(_find_unsaved, items) if lost is not None), None)
