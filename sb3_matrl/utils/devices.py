"""What the code needs to know about the device of the networks: copies to it, and its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def gradients_in_evaluation_mode(network: th.nn.Module) -> Iterator[None]:
    """
    Inside, the network has gradients in evaluation mode on every device.

    On a GPU, cuDNN's recurrent layers have them in training mode only; PyTorch's own, which are used here, in both.

    :param network: network in evaluation mode
    """
    if any(isinstance(module, th.nn.RNNBase) for module in network.modules()):
        with th.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield
