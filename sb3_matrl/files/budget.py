"""Limits on the memory and time that a model file may take, by what it stores; checked before anything is built from it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook

from sb3_matrl.files.argument_codec import KIND

# Bytes of the bounds of spaces and of arrays that a description may stand for, beside those that the file's size justifies.
FREE_BYTES = 2**28
_BYTES_PER_BYTE = 4
# Numbers in networks beside those that are stored; a tensor counts as _SMALLEST numbers at least, because it takes time, too.
FREE_NUMBERS = 2**22
_NUMBERS_PER_NUMBER = 4
_SMALLEST = 4096
# Copies of the environment, rows of a rollout (steps times copies), and bytes of its action masks.
MAX_COPIES = 2**17
MAX_ROWS = 2**24
MAX_MASK_BYTES = 2**31


def check_description(document: Any, file_bytes: int) -> None:
    """
    Check the memory that spaces and arrays in ``model.json`` stand for.

    :param document: content of the member
    :param file_bytes: size of the file
    :raises ValueError: if it is more than a file of that size justifies
    """
    limit = FREE_BYTES + _BYTES_PER_BYTE * file_bytes
    left, open_values = limit, [document]
    while open_values:
        value = open_values.pop()
        if isinstance(value, dict):
            left -= _described_bytes(value)
        if left < 0:
            raise ValueError(f"its spaces and arrays would take more than {limit:,} bytes")
        open_values.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())


def _described_bytes(value: Mapping[str, Any]) -> int:
    """Bytes of a space or an array, 0 for anything else."""
    if value.get(KIND) == "array":
        return len(value["items"]) * _item_bytes(value["dtype"])
    if value.get("type") == "Box":
        # Lower and upper bounds, and whether there is one.
        return _product(value["shape"]) * 2 * (_item_bytes(value["dtype"]) + 1)
    if value.get("type") == "MultiBinary":
        return _product(value["n"] if isinstance(value["n"], list) else [value["n"]])
    return 0


def _product(shape: Any) -> int:
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"{shape!r:.100} is no shape")
    return math.prod(shape)


def _item_bytes(dtype: Any) -> int:
    if not isinstance(dtype, str):
        raise ValueError(f"{dtype!r:.100} is no type of numbers")
    return np.dtype(dtype).itemsize


def stored_numbers(tree: Any) -> int:
    """
    Numbers in all tensors of nested dicts and lists, where small tensors count as more.

    :param tree: state dicts
    """
    if isinstance(tree, th.Tensor):
        return max(tree.numel(), _SMALLEST)
    items = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, (list, tuple)) else ()
    return sum(map(stored_numbers, items))


@contextmanager
def networks_within(stored: float) -> Iterator[None]:
    """
    Limit on the networks that this thread builds inside; a module that is too large raises before its numbers are drawn.

    :param stored: numbers that the file stores for them, see :func:`stored_numbers`; infinite for no limit
    :raises ValueError: if the networks have many more numbers
    """
    left, thread = FREE_NUMBERS + _NUMBERS_PER_NUMBER * stored, threading.get_ident()

    def charge(module: th.nn.Module, name: str, value: th.Tensor | None) -> None:
        nonlocal left
        if value is None or threading.get_ident() != thread:
            return
        left -= max(value.numel(), _SMALLEST)
        if left < 0:
            raise ValueError("the networks that it describes are much larger than the parameters that it stores")

    hooks: tuple[Any, ...] = (
        register_module_parameter_registration_hook(charge),
        register_module_buffer_registration_hook(charge),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_rollout(arguments: Mapping[str, Any], n_envs: Any, choices: int, given: Mapping[str, Any]) -> None:
    """
    Check the number of copies of the environment and the size of rollouts.

    :param arguments: constructor arguments of the file
    :param n_envs: number of copies
    :param choices: number of actions that masks cover, of all agents
    :param given: arguments of the caller, which are not limited
    :raises ValueError: if a number is larger than in any training
    """
    hint = "pass n_envs and n_steps to load() if that is meant"
    if "n_envs" not in given and not (type(n_envs) is int and 1 <= n_envs <= MAX_COPIES):
        raise ValueError(f"n_envs is {n_envs!r:.100}, expected a number from 1 to {MAX_COPIES:,}; {hint}")
    sizes = [size for size in _values_of("n_steps", arguments) if isinstance(size, (int, float))]
    rows = max([abs(size) for size in sizes], default=1) * n_envs
    masked = any(
        isinstance(value, type) and issubclass(value, MaskablePPO) for value in _values_of("learner_class", arguments)
    )
    mask_bytes = 4 * rows * choices if masked else 0
    if "n_steps" not in given and (rows > MAX_ROWS or mask_bytes > MAX_MASK_BYTES):
        raise ValueError(f"its rollouts have {rows:,} rows and {mask_bytes:,} bytes of action masks; {hint}")


def choices_of(action_spaces: Mapping[str, spaces.Space[Any]]) -> int:
    """
    Number of actions that masks cover.

    :param action_spaces: agent -> space
    :return: sum over all agents; 0 for continuous actions
    """
    return sum(map(_choices, action_spaces.values()))


def _choices(space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum(dtype=object))
    if isinstance(space, spaces.MultiBinary):
        return 2 * math.prod(space.shape)
    return int(space.n) if isinstance(space, spaces.Discrete) else 0


def _values_of(name: str, tree: Any) -> Iterator[Any]:
    """Values under a key at any depth of nested mappings, those of mappings under it included."""
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if key == name:
            yield from (value.values() if isinstance(value, Mapping) else [value])
        else:
            yield from _values_of(name, value)
