"""Save, restore and isolate the global random generators of Python, NumPy and PyTorch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

# Numbers in the tables of NumPy's bit generators that have one.
_TABLES = {"MT19937": 624, "Philox": 4}


def random_generators() -> dict[str, Any]:
    """
    States of the global generators.

    :return: nested dicts and lists of numbers, strings and arrays; CUDA generators are included once CUDA is in use
    """
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    in_use: bool = th.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.array(keys, dtype=np.int64), *rest],
        "torch": th.get_rng_state().numpy().copy(),
        "cuda": [state.numpy().copy() for state in th.cuda.get_rng_state_all()] if in_use else [],
    }


def restore_random_generators(states: dict[str, Any]) -> None:
    """
    Restore the states of the global generators; states of missing GPUs are skipped.

    :param states: return value of :func:`random_generators`
    :raises ValueError: if they are anything else
    """
    try:
        _restore(states)
    except Exception as error:  # damaged states cause many errors
        raise ValueError(f"states of random generators are damaged: {error!r}") from error


def set_bit_generator(generator: np.random.BitGenerator, state: dict[str, Any]) -> None:
    """
    Set the state of one of NumPy's bit generators.

    NumPy does not check the position in a generator's table of numbers, and one outside it ends the process.

    :param generator: bit generator
    :param state: state of a generator of the same kind
    :raises TypeError: if the state is anything else
    :raises ValueError: likewise
    :raises KeyError: likewise
    """
    kind = type(generator).__name__
    if kind == "MT19937":
        _check_position(kind, state["state"]["pos"])
    elif kind == "Philox":
        _check_position(kind, state["buffer_pos"])
    generator.state = state


def _check_position(kind: str, position: Any) -> None:
    if kind in _TABLES and not (isinstance(position, (int, np.integer)) and 0 <= position <= _TABLES[kind]):
        raise ValueError(f"the position of a {kind} must be an integer from 0 to {_TABLES[kind]}, not {position!r}")


def _restore(states: dict[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, *rest = states["numpy"]
    _check_position(name, position)
    np.random.set_state((name, np.asarray(keys).astype(np.uint32), position, *rest))
    th.set_rng_state(th.from_numpy(states["torch"].copy()))
    if states["cuda"] and th.cuda.is_available():
        for device, state in enumerate(states["cuda"][: th.cuda.device_count()]):
            th.cuda.set_rng_state(th.from_numpy(state.copy()), device)


@contextmanager
def isolated_random_streams(seed: int) -> Iterator[None]:
    """
    Context manager that seeds Python's, NumPy's and PyTorch's global generators and restores their states at the end.

    Policies sample actions from PyTorch's global generator, which training uses too. An evaluation inside this block
    neither depends on the progress of training nor changes how it continues. CUDA generators are included if CUDA is
    in use.

    :param seed: seed of all generators inside the block
    """
    before = random_generators()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        th.default_generator.manual_seed(seed)
        if before["cuda"]:
            th.cuda.manual_seed_all(seed)
        yield
    finally:
        restore_random_generators(before)
