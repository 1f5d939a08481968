"""Draws that leave no trace in the global random streams."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch as th


@contextmanager
def isolated_random_streams(seed: int) -> Iterator[None]:
    """
    Seed Python's, NumPy's and PyTorch's global generators for a while and put their states back afterwards.

    Policies sample actions from PyTorch's global generator, the very one that training draws from. An evaluation
    inside this block neither depends on where training stands nor changes how it goes on. CUDA generators are
    included when CUDA is in use.

    :param seed: for all generators inside the block
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), th.get_rng_state()
    in_use: bool = th.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = th.cuda.get_rng_state_all() if in_use else []
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        th.default_generator.manual_seed(seed)
        if cuda_states:
            th.cuda.manual_seed_all(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        th.set_rng_state(torch_state)
        if cuda_states:
            th.cuda.set_rng_state_all(cuda_states)
