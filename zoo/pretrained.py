"""Going on from a trained model: ``train.py --trained-agent``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sb3_matrl import MATRL
from zoo.config import Hyperparameters

# What the networks in the file were built from.
ARCHITECTURE = ("policy", "policy_kwargs", "learner_class", "learner_kwargs", "use_sde")


def load_pretrained(
    path: Path, env_id: str, hyperparameters: Hyperparameters, changed: Mapping[str, Any], **arguments: Any
) -> tuple[MATRL, Hyperparameters]:
    """
    Load a model to train it further: parameters, optimisers and counters from the file, all else as given.

    :param path: of the model
    :param env_id: the environment, with the agents and spaces of the model's
    :param hyperparameters: take the place of those in the file, except ``ARCHITECTURE``
    :param changed: the hyper-parameters among them that the user asked for
    :param arguments: others of ``MATRL.load``
    :return: the model, and the hyper-parameters that it has now
    :raises ValueError: when the user wants another architecture, the file is not a model, or the environment does not fit it
    :raises FileNotFoundError: when there is no such file
    """
    refused = sorted({key for key in changed if key.partition(".")[0] in ARCHITECTURE})
    if refused:
        raise ValueError(f"{', '.join(refused)} cannot be changed: --trained-agent {path} has its networks already")
    overrides = {key: value for key, value in hyperparameters.model_arguments().items() if key not in ARCHITECTURE}
    try:
        model = MATRL.load(path, env=env_id, **overrides, **arguments)
    except ValueError as error:
        raise ValueError(f"--trained-agent {path}: {error}") from error
    kept = {key: _in_yaml(model.arguments[key]) for key in ARCHITECTURE}
    return model, replace(hyperparameters, **kept)


def _in_yaml(value: Any) -> Any:
    """An argument of MATRL as hyper-parameter files write it: classes by their names."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return {key: _in_yaml(one) for key, one in value.items()}
    return [_in_yaml(one) for one in value] if isinstance(value, (list, tuple)) else value
