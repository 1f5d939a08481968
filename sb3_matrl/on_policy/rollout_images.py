"""Images of a rollout in planes, whose rows are read as tensors on the device of the networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th

from sb3_matrl.utils.devices import to_device
from sb3_matrl.utils.image_planes import ImageRows


class RolloutImages:
    """
    Images (B, \\*shape) whose rows are tensors; on another device than the CPU, it has a copy of their planes, each once.

    :param images: images, row by row
    :param device: device of the tensors
    :param copied: whether to copy the planes to the device; ``None`` for: if it is not the CPU
    """

    def __init__(self, images: ImageRows, device: th.device, copied: bool | None = None) -> None:
        self._images = images
        self._planes: th.Tensor | None = None
        if device.type != "cpu" if copied is None else copied:
            used, numbers = np.unique(images.places, return_inverse=True)
            self._planes = to_device(images.store.read(used), device)
            self._numbers = to_device(numbers.reshape(images.places.shape), device)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice | np.ndarray | th.Tensor) -> th.Tensor:
        if self._planes is not None:
            images = self._planes[self._numbers[rows]]
            return images.movedim(-3, -1) if self._images.channels_last else images
        return th.from_numpy(self._images[rows.numpy() if isinstance(rows, th.Tensor) else rows])


def whole(observations: Any) -> Any:
    """
    :param observations: observations of a batch: tensors, images in planes, or a dict of these
    :return: the same as tensors
    """
    if isinstance(observations, dict):
        return {key: whole(value) for key, value in observations.items()}
    return observations[:] if isinstance(observations, RolloutImages) else observations
