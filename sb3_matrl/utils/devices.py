"""Copies from the CPU to the device of the networks."""

from __future__ import annotations

import numpy as np
import torch as th


def to_device(array: np.ndarray, device: th.device) -> th.Tensor:
    """
    An array as a tensor on a device; on the CPU it shares memory with the array.

    A CUDA device copies it from pinned memory while the program goes on.

    :param array: array
    :param device: device of the tensor
    """
    tensor = th.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
