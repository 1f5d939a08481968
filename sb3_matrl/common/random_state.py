"""The states of the global random generators of Python, NumPy and PyTorch, as plain data."""

from __future__ import annotations

import random
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
