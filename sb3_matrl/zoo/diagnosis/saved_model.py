"""Checks of a saved model: format, hashes, arguments, parameters, steps."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch as th

from sb3_matrl.common.registry import class_of_name
from sb3_matrl.files.archive import check_archive, read_archive
from sb3_matrl.files.argument_codec import Unsaved, argument_from_json, argument_to_json
from sb3_matrl.files.checkpoints import BUFFER_DOCUMENT, buffer_of
from sb3_matrl.files.model_files import SavedModel, read_model
from sb3_matrl.files.places import zip_path
from sb3_matrl.zoo.diagnosis.findings import Finding


def check_model(path: Path) -> Iterator[Finding]:
    """
    :param path: path of the saved model, with or without ``.zip``
    :return: findings; a single one if the file cannot be read
    """
    try:
        documents, tensors = read_archive(zip_path(path))
        saved = read_model(path)
    except (OSError, ValueError) as error:
        yield Finding("file", False, str(error))
        return
    manifest = documents["manifest"]
    versions = ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())
    yield Finding("file", True, f"{zip_path(path)}, {zip_path(path).stat().st_size:,} bytes")
    yield Finding("format", True, f"{manifest['format']}, version {manifest['format_version']}, a model of {saved.algorithm}")
    yield Finding("written with", True, versions or "unknown versions")
    yield Finding("hashes", True, f"right for all {len(manifest['sha256'])} members: {', '.join(manifest['sha256'])}")
    yield _describe_environment(documents.get("run"), saved)
    yield _describe_arguments(saved)
    yield from _describe_model(saved)
    yield from _describe_buffer(zip_path(path), saved)
    others = sorted(set(documents) - {"manifest", "model", "run", BUFFER_DOCUMENT}) + sorted(
        set(tensors) - {"training"} - _agent_members(saved)
    )
    if others:
        yield Finding("beside the model", True, ", ".join(others))


def _agent_members(saved: SavedModel) -> set[str]:
    return {f"agents/{i}" for i in range(len(saved.parameters))}


def _describe_environment(run: Any, saved: SavedModel) -> Finding:
    """Describe the environment of the training; its id is only in files that the zoo saved."""
    name = run.get("env") if isinstance(run, dict) else None
    options = _readable(saved.arguments.get("env_kwargs")) or "no options"
    copies = f"{saved.counters['n_envs']} copies, {options}"
    return Finding("environment", None if name is None else True, f"{name or 'its id is not in the file'}, {copies}")


def _describe_arguments(saved: SavedModel) -> Finding:
    """List the arguments that differ from the defaults of the algorithm's class."""
    try:
        algorithm = class_of_name(saved.algorithm)
    except (ImportError, ValueError) as error:
        return Finding("hyper-parameters", False, str(error))
    defaults = {name: one.default for name, one in inspect.signature(algorithm.__init__).parameters.items()}
    elsewhere = ("n_envs", "env_kwargs", "verbose")
    changed = [
        f"{name}={_readable(value)}"
        for name, value in saved.arguments.items()
        if name not in elsewhere and (name not in defaults or value != argument_to_json(defaults[name]))
    ]
    return Finding("hyper-parameters", True, ", ".join(changed) or f"the defaults of {saved.algorithm}")


def _readable(value: Any) -> str:
    """An argument in the file's JSON types as Python writes it; empty for ``None`` and for no options."""
    try:
        value = argument_from_json(value)
    except ValueError:
        return str(value)
    if isinstance(value, (type, Unsaved)):
        return value.__name__ if isinstance(value, type) else value.text
    return "" if value is None or (isinstance(value, dict) and not value) else " ".join(str(value).split())


def _describe_model(saved: SavedModel) -> Iterator[Finding]:
    for agent, space in saved.observation_spaces.items():
        yield Finding(f"agent {agent}", True, f"observes {space}, acts in {saved.action_spaces[agent]}")
    for learner, parts in saved.parameters.items():
        policy = parts.get("policy")
        tensors = _named_tensors(policy if isinstance(policy, Mapping) else parts)
        yield Finding(f"learner {learner}", True, f"{sum(tensor.numel() for tensor in tensors.values()):,} parameters")
        bad = [name for name, tensor in tensors.items() if not bool(th.isfinite(tensor).all())]
        if bad:
            yield Finding(f"learner {learner}", False, f"parameters that are NaN or infinite: {', '.join(bad)}")
    counters = saved.counters
    skipped = f" ({counters['skipped_updates']} more were skipped)" if counters["skipped_updates"] else ""
    done = f"{counters['num_timesteps']:,} of {counters['total_timesteps']:,}, {counters['n_updates']:,} updates{skipped}"
    yield Finding("steps", True, done)
    yield _describe_resuming(saved)


def _named_tensors(parts: Mapping[str, Any], prefix: str = "") -> dict[str, th.Tensor]:
    """All tensors in nested dicts, by their names with dots."""
    found: dict[str, th.Tensor] = {}
    for name, value in parts.items():
        if isinstance(value, th.Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            found |= _named_tensors(value, f"{prefix}{name}.")
    return found


def _describe_buffer(path: Path, saved: SavedModel) -> Iterator[Finding]:
    """Check the replay buffer of an off-policy algorithm, a file of its own."""
    if "buffer_size" not in saved.arguments:
        return
    subject, without = "replay buffer", "without it a training continues with an empty one"
    try:
        buffer = buffer_of(path)
        if buffer is not None:
            check_archive(buffer)
    except FileNotFoundError as error:
        yield Finding(subject, None, f"{error}: {without}")
    except ValueError as error:
        yield Finding(subject, False, str(error))
    else:
        text = f"none is beside the model; {without}" if buffer is None else f"{buffer}, {buffer.stat().st_size:,} bytes"
        yield Finding(subject, None if buffer is None else True, text)


def _describe_resuming(saved: SavedModel) -> Finding:
    if saved.training is None:
        return Finding("resuming", None, "the model was not saved in a training: it has parameters and optimisers only")
    if saved.training.get("env") is None:
        return Finding("resuming", None, "continues with new episodes: the environment could not save its state")
    return Finding("resuming", True, "continues exactly, as if the training had never stopped")
