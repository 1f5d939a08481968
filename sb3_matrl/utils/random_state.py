"""The global random generators of Python, NumPy and PyTorch: their states as plain data, and how to leave them untouched."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th


def random_generators() -> dict[str, Any]:
    """
    What the global generators will draw next.

    :return: nested dicts and lists of numbers, texts and arrays; CUDA generators are included once CUDA is in use
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
    Undo what was drawn since; generators of GPUs that are not there are left out.

    :param states: as :func:`random_generators` returned them
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(keys).astype(np.uint32), *rest))
    th.set_rng_state(th.from_numpy(states["torch"].copy()))
    if states["cuda"] and th.cuda.is_available():
        for device, state in enumerate(states["cuda"][: th.cuda.device_count()]):
            th.cuda.set_rng_state(th.from_numpy(state.copy()), device)


@contextmanager
def isolated_random_streams(seed: int) -> Iterator[None]:
    """
    Seed Python's, NumPy's and PyTorch's global generators for a while and put their states back afterwards.

    Policies sample actions from PyTorch's global generator, the very one that training draws from. An evaluation
    inside this block neither depends on where training stands nor changes how it goes on. CUDA generators are
    included when CUDA is in use.

    :param seed: for all generators inside the block
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
