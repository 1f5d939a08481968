"""Draws that leave no trace in the global random streams."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch as th

from sb3_matrl.common.random_state import random_generators, restore_random_generators


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
