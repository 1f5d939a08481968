"""Model files: their content as data, reading and writing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_matrl.files.archive import read_archive, write_archive
from sb3_matrl.files.argument_codec import Unsaved, argument_from_json, argument_to_json
from sb3_matrl.files.budget import check_description
from sb3_matrl.files.space_codec import space_from_json, space_to_json
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import did_you_mean

# Class of the models in files of formats 1 and 2, which do not name it.
_FIRST_ALGORITHM = "MATRL"
_LEARNER_UPDATES = "learner_n_updates"
_COUNTERS = ("n_envs", "num_timesteps", "total_timesteps", "n_updates", "skipped_updates", _LEARNER_UPDATES)
# Errors of code that uses damaged content; RuntimeErrors are not among them, which environments raise.
DAMAGE = (TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, ValueError)
# Types of the parts of model.json; earlier formats lack those that are optional.
_NEEDED = {"agents": list, "observation_spaces": list, "action_spaces": list, "arguments": dict, "counters": dict}
_OPTIONAL = {
    **{"algorithm": str, "learners": list, "frozen": dict, "generators": dict, "coordinator_rng": dict},
    "state_space": dict,
}


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
    :param state_space: space of the env's global states, if the model reads them
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
    state_space: spaces.Box | None = None


def zip_path(path: str | Path) -> Path:
    """
    The path with ``.zip`` where it has no suffix, as in SB3.

    :raises TypeError: for anything but a path, such as an open file, which SB3 takes
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"files are read and written by their path, not as {type(path).__name__}: give a str or a Path")
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
    if saved.state_space is not None:
        document["state_space"] = space_to_json(saved.state_space)
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

    :param path: path of the file, with or without ``.zip``
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is not a model file, is damaged, or is of a newer format
    """
    path = zip_path(path)
    documents, tensors = read_archive(path)
    try:
        document = check_document(documents.get("model"))
        check_description(document, path.stat().st_size)
        saved = _saved_model(document, tensors)
        _check_tensors(saved)
        return saved
    except Exception as error:  # damaged content causes many errors
        raise ValueError(f"{path} is damaged, or not a saved model: model.json: {_one_line(error)}") from error


def _saved_model(document: Mapping[str, Any], tensors: Mapping[str, Any]) -> SavedModel:
    agents = list(document["agents"])
    counters = {"skipped_updates": 0, **document["counters"]}  # files of earlier versions have none
    return SavedModel(
        algorithm=document.get("algorithm", _FIRST_ALGORITHM),
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
        state_space=_state_space(document.get("state_space")),
    )


def _state_space(description: Mapping[str, Any] | None) -> spaces.Box | None:
    space = None if description is None else space_from_json(description)
    if space is not None and not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise ValueError(f"the state space must be a Box of one dimension, got {space}")
    return space


def check_document(document: Any) -> dict[str, Any]:
    """
    Check the form of ``model.json``.

    :param document: content of the member
    :return: the same
    :raises ValueError: if a part is missing, or has a type that :func:`write_model` never writes
    """
    _check_types(document, _NEEDED, needed=True)
    _check_types(document, _OPTIONAL, needed=False)
    for name in ("agents", "learners"):
        names = document.get(name, [])
        if not all(isinstance(one, str) for one in names) or len(set(names)) < len(names):
            raise ValueError(f"{name} must be different texts, got {names!r:.200}")
    if document["arguments"].get("frozen") is not None:
        raise ValueError("arguments.frozen names other files, which a model file never does")
    counters = document["counters"]
    numbers = [counters.get(name, 0) for name in _COUNTERS if name != _LEARNER_UPDATES]
    updates = counters.get(_LEARNER_UPDATES)
    if not isinstance(updates, list) or not all(type(one) is int and 0 <= one < 2**63 for one in [*numbers, *updates]):
        raise ValueError(f"counters must be whole numbers of at least 0, got {counters!r:.200}")
    return dict(document)


def _check_types(document: Any, types: Mapping[str, type], needed: bool) -> None:
    if not isinstance(document, dict):
        raise ValueError("it is missing, or no mapping")
    for name, kind in types.items():
        if needed and name not in document:
            raise ValueError(f"{name} is missing")
        if name in document and not isinstance(document[name], kind):
            raise ValueError(f"{name} must be a {kind.__name__}, got {document[name]!r:.200}")


def _check_tensors(saved: SavedModel) -> None:
    """
    :raises ValueError: if a member with tensors has another form than :func:`write_model` writes
    """
    trees = [saved.parameters, *saved.parameters.values(), saved.training or {}, saved.normalizers]
    trees += [*saved.normalizers.values(), *(tensors for _, tensors in saved.frozen.values())]
    if not all(isinstance(tree, dict) for tree in trees):
        raise ValueError("a member with tensors is no mapping")
    for learner, parts in saved.parameters.items():
        if not parts or not all(isinstance(state, (dict, th.Tensor)) for state in parts.values()):
            raise ValueError(f"the parameters of {learner} must be state dicts or tensors")


def _generators(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if "coordinator_rng" in document:  # formats 1 and 2
        return {"coordinator": dict(document["coordinator_rng"])}
    return {name: dict(state) for name, state in document["generators"].items()}


def _one_line(error: BaseException) -> str:
    """Text of an error; that of a ``KeyError`` is only a name."""
    text = one_line(error) if isinstance(error, ValueError) else repr(error)
    return text or type(error).__name__


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
        reason = one_line(error) if isinstance(error, (ValueError, RuntimeError)) else repr(error)
        raise ValueError(f"{path}: its content does not make a model: {reason}") from error


def check_names(given: Collection[str], known: Collection[str]) -> None:
    """
    :param given: names of arguments that the caller gives
    :param known: arguments of the constructor
    :raises ValueError: if a name is no argument
    """
    for name in given:
        if name not in known:
            raise ValueError(f"{name!r} is no argument of this algorithm{did_you_mean(name, known)}")


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
    check_names(given, defaults)
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
        return argument_from_json(value, name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; pass custom_objects={{{name!r}: ...}} if you trust the file") from error


def _find_unsaved(value: Any) -> Unsaved | None:
    if isinstance(value, Unsaved):
        return value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return next((lost for lost in map(_find_unsaved, items) if lost is not None), None)
