"""
A device without numbers in place of a GPU: what would wait for a GPU is an error there, and copies to it are counted.

PyTorch's ``meta`` device computes shapes only. Reading a number (``item()``, ``bool(tensor)``, ``tolist()``) or copying it to
the CPU, for which the program would wait until a GPU has done all its work, raises an error; operations with tensors of two
devices do, too, as with a GPU.
"""

from typing import Any

import numpy as np
import torch as th
from torch.overrides import TorchFunctionMode

META = th.device("meta")
_MAKERS = (th.tensor, th.as_tensor, th.Tensor.new_tensor)
_MOVERS = (th.Tensor.to, th.Tensor.copy_, th.Tensor.type)


class CopiesToDevice(TorchFunctionMode):
    """Counts copies from the CPU to the meta device; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _MAKERS:
            given = args[1] if func is th.Tensor.new_tensor else args[0]
            self.count += _is_there(result) and not _is_there(given)
        elif func in _MOVERS:
            source = args[1] if func is th.Tensor.copy_ else args[0]
            self.count += _is_there(result) and not _is_there(source)
        elif func in (th.Tensor.__getitem__, th.Tensor.__setitem__) and _is_there(args[0]):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.count += sum(isinstance(one, (np.ndarray, list, th.Tensor)) and not _is_there(one) for one in index)
        return result


def _is_there(value: Any) -> bool:
    return isinstance(value, th.Tensor) and value.device == META


def on_meta(policy: Any) -> Any:
    """The policy on the meta device, with a new optimiser."""
    (group,) = policy.optimizer.param_groups
    moved = policy.to(META)
    moved.optimizer = policy.optimizer_class(moved.parameters(), lr=group["lr"], **policy.optimizer_kwargs)
    return moved
