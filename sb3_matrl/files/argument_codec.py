"""
Constructor arguments as JSON and back, without pickle.

Numbers, strings, lists and dicts are stored as they are, SB3's schedules and action noise by their numbers, and classes by
name, if they come from the libraries that define networks and algorithms. Anything else (a lambda, for example) cannot be
stored: a placeholder keeps its text, and the argument must be passed again on loading.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

_SAFE_MODULES = ("torch.nn.", "torch.optim.", "stable_baselines3.", "sb3_contrib.", "sb3_matrl.on_policy.central_policies.")
_SAFE_BASES = (th.nn.Module, th.optim.Optimizer, BaseAlgorithm, BaseBuffer)
# Argument -> what its class must be. An algorithm, for example, is no activation function: its constructor takes an env.
_BASES: dict[str, tuple[type, ...]] = {
    "policy": (BasePolicy,),
    "learner_class": (OnPolicyAlgorithm,),
    "rollout_buffer_class": (BaseBuffer,),
    "optimizer_class": (th.optim.Optimizer,),
    "features_extractor_class": (BaseFeaturesExtractor,),
}
# Kind of an action noise -> its class, and the attributes that hold its constructor's numbers.
_NOISES: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "normal_noise": (NormalActionNoise, ("_mu", "_sigma")),
    "ornstein_uhlenbeck_noise": (OrnsteinUhlenbeckActionNoise, ("_mu", "_sigma", "_theta", "_dt", "initial_noise")),
}
_OTHER_BASES = (th.nn.Module, th.optim.Optimizer)
KIND = "__kind__"
# Limit on the bytes of an array: a short description must not fill the memory.
_MAX_BYTES = 2**28


class Unsaved:
    """
    Placeholder for an argument that could not be stored.

    :param text: ``repr`` of the argument at the time of saving
    """

    def __init__(self, text: str) -> None:
        self.text = text


def argument_to_json(value: Any) -> Any:
    """Convert a value to JSON types; the module's docstring says what can be stored."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return {KIND: "float", "value": str(value)} if isinstance(value, float) and not np.isfinite(value) else value
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return argument_to_json(value.item())
    if isinstance(value, (list, tuple)):
        items = [argument_to_json(item) for item in value]
        return {KIND: "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, np.ndarray) and _has_json_items(value.dtype):
        items = argument_to_json(value.reshape(-1).tolist())
        return {KIND: "array", "dtype": str(value.dtype), "shape": list(value.shape), "items": items}
    if isinstance(value, Mapping):
        return {KIND: "dict", "items": [[argument_to_json(key), argument_to_json(item)] for key, item in value.items()]}
    if isinstance(value, type) and _is_safe(value):
        return {KIND: "class", "module": value.__module__, "name": value.__qualname__}
    return _schedule_to_json(value)


def _schedule_to_json(value: Any) -> Any:
    """Convert SB3's schedules, but not subclasses, whose numbers may mean something else; store the text of anything else."""
    if type(value) is LinearSchedule:
        return {KIND: "linear", "arguments": argument_to_json([value.start, value.end, value.end_fraction])}
    if type(value) is ConstantSchedule:
        return argument_to_json(value.val)
    if type(value) is FloatSchedule:
        return argument_to_json(value.value_schedule)
    return _noise_to_json(value)


def _noise_to_json(value: Any) -> Any:
    """Convert SB3's action noise, a vectorised one as that of a single copy; store the text of anything else."""
    noise: Any = value.base_noise if type(value) is VectorizedActionNoise else value
    for kind, (cls, attributes) in _NOISES.items():
        if type(noise) is cls:
            numbers = [argument_to_json(getattr(noise, name)) for name in attributes]
            return {KIND: kind, "arguments": numbers, "dtype": np.dtype(noise._dtype).name}
    return {KIND: "unsaved", "text": repr(value)}


def _has_json_items(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this dtype hold numbers or strings that JSON supports."""
    return dtype.kind in "biuU" or (dtype.kind == "f" and dtype.itemsize <= 8)


def argument_from_json(data: Any, name: str = "") -> Any:
    """
    Convert stored data back to the value.

    :param data: return value of :func:`argument_to_json`
    :param name: name of the argument, which decides the classes that it may be
    :return: the value, with an :class:`Unsaved` in place of whatever could not be stored
    :raises ValueError: if a class is not a network, optimiser, algorithm or buffer of a known library, or not one for that
        argument, or the data was not written by :func:`argument_to_json`
    """
    if isinstance(data, list):
        return [argument_from_json(item, name) for item in data]
    if not isinstance(data, dict):
        return data
    try:
        return _decode(data, name)
    except ValueError:
        raise
    except Exception as error:  # damaged data cause many errors
        raise ValueError(f"not a description of an argument: {data!r:.200} ({error!r})") from error


def _decode(data: dict[str, Any], name: str) -> Any:
    kind = data.get(KIND)
    if kind == "float":
        return float(data["value"])
    if kind == "tuple":
        return tuple(argument_from_json(item, name) for item in data["items"])
    if kind == "array":
        return _array(argument_from_json(data["items"]), np.dtype(data["dtype"])).reshape(data["shape"])
    if kind == "dict":
        pairs = ((argument_from_json(key), item) for key, item in data["items"])
        return {key: argument_from_json(item, key if key in _BASES else name) for key, item in pairs}
    if kind == "class":
        return _load_class(data["module"], data["name"], name)
    if kind == "linear":
        return LinearSchedule(*map(float, argument_from_json(data["arguments"])))
    if kind in _NOISES:
        return _noise(_NOISES[kind][0], argument_from_json(data["arguments"]), np.dtype(data["dtype"]))
    if kind == "unsaved":
        return Unsaved(str(data["text"]))
    raise ValueError(f"unknown kind of argument {kind!r:.100}")


def _array(items: list[Any], dtype: np.dtype[Any]) -> np.ndarray:
    if not _has_json_items(dtype) or len(items) * dtype.itemsize > _MAX_BYTES:
        raise ValueError(f"an array of {len(items)} values of type {dtype} is invalid or too large")
    return np.array(items, dtype=dtype)


def _noise(cls: type, numbers: list[Any], dtype: np.dtype[Any]) -> Any:
    kinds = {dtype.kind, *(np.asarray(number).dtype.kind for number in numbers if number is not None)}
    if dtype.kind != "f" or not kinds <= set("fiu"):
        raise ValueError(f"the numbers of {cls.__name__} are {numbers!r:.200}, of type {dtype}")
    return cls(*numbers, dtype=dtype)


def _is_safe(value: type) -> bool:
    return (
        f"{value.__module__}.".startswith(_SAFE_MODULES) and issubclass(value, _SAFE_BASES) and "." not in value.__qualname__
    )


def _load_class(module: str, name: str, argument: str) -> type:
    if not f"{module}.".startswith(_SAFE_MODULES):
        raise ValueError(
            f"{module}.{name} is not imported: only classes of torch, SB3, sb3-contrib and this package are loaded by name"
        )
    try:
        value = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{module}.{name} cannot be imported: {error}") from error
    if not (isinstance(value, type) and _is_safe(value)):
        raise ValueError(f"{module}.{name} is not a network, optimiser, algorithm or buffer class")
    if not issubclass(value, _BASES.get(argument, _OTHER_BASES)):
        raise ValueError(f"{module}.{name} is not a class for {argument or 'this argument'}")
    return value
