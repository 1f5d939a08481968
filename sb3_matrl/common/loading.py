"""Saved models of any algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.registry import class_of_file
from sb3_matrl.files.places import UserFile


def load_model(
    path: UserFile,
    env: Any = None,
    device: th.device | str = "auto",
    custom_objects: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> MultiAgentAlgorithm:
    """
    Load a model of whatever algorithm saved it; the class's name in the file is looked up in the registry.

    :param path: path of the file, with or without ``.zip``, or open binary file
    :param env: environment to continue training in; ``None`` for a model that only acts
    :param device: device of the networks
    :param custom_objects: argument name -> value for what a file cannot hold
    :param kwargs: constructor arguments to change
    :return: the model, as :meth:`~sb3_matrl.common.model.MultiAgentModel.load` of its class returns it
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file is damaged, of a newer format, or of an algorithm that is not registered
    """
    cls: type[MultiAgentAlgorithm] = class_of_file(path)
    return cls.load(path, env, device, custom_objects, **kwargs)
