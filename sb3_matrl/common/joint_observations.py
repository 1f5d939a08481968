"""Observations of all agents as one vector, for critics and mixers that see what the whole team sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_matrl.vec_env.masks import observed_mask_name
from sb3_matrl.vec_env.spaces import Leaf, leaves_of


class JointObservations:
    """
    Concatenates the observations of all agents, as SB3's ``preprocess_obs`` and ``CombinedExtractor`` prepare them: Box and
    MultiBinary flattened, Discrete and MultiDiscrete one-hot. Action masks are left out.

    :param observation_spaces: agent -> space, in the order of the vector
    :param action_spaces: agent -> space
    :raises ValueError: if an observation is an image
    """

    def __init__(
        self, observation_spaces: Mapping[str, spaces.Space[Any]], action_spaces: Mapping[str, spaces.Space[Any]]
    ) -> None:
        self._leaves = {agent: _leaves(agent, observation_spaces[agent], action_spaces[agent]) for agent in observation_spaces}
        #: agent -> number of elements that stand for its observation
        self.sizes = {agent: sum(map(_size, leaves)) for agent, leaves in self._leaves.items()}

    @property
    def size(self) -> int:
        """Number of elements of the vector."""
        return sum(self.sizes.values())

    def encode(self, observations: Mapping[str, Any], present: Mapping[str, np.ndarray]) -> np.ndarray:
        """
        One vector per row.

        :param observations: agent -> (B, *shape), or a dict of such arrays
        :param present: agent -> bool (B,); the elements of agents that are not present are zeros
        :return: float32 (B, size)
        """
        parts = []
        for agent, leaves in self._leaves.items():
            own, here = observations[agent], present[agent]
            encoded = [_encoded(leaf, own if leaf.key is None else own[leaf.key]) for leaf in leaves]
            parts += encoded if here.all() else [np.where(here[:, None], part, np.float32(0.0)) for part in encoded]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def _leaves(agent: str, space: spaces.Space[Any], action_space: spaces.Space[Any]) -> list[Leaf]:
    mask = observed_mask_name(space, action_space)
    leaves = [leaf for leaf in leaves_of(space) if mask is None or leaf.key != mask]
    image = next((leaf for leaf in leaves if is_image_space(leaf.space)), None)
    if image is not None:
        raise ValueError(
            f"state='observations' cannot take images, such as the observation {image} of agent {agent!r}: use state='env' if "
            "the env has a state, or let the env observe numbers"
        )
    return leaves


def _size(leaf: Leaf) -> int:
    if isinstance(leaf.space, spaces.Discrete):
        return int(leaf.space.n)
    if isinstance(leaf.space, spaces.MultiDiscrete):
        return int(leaf.space.nvec.sum())
    return math.prod(leaf.shape)


def _encoded(leaf: Leaf, values: np.ndarray) -> np.ndarray:
    """Values (B, *shape) of one leaf as (B, size)."""
    if isinstance(leaf.space, spaces.Discrete):
        return _one_hot(values.reshape(-1) - leaf.space.start, int(leaf.space.n))
    flat = values.reshape(len(values), -1)
    if not isinstance(leaf.space, spaces.MultiDiscrete):
        return flat
    options, shifted = leaf.space.nvec.reshape(-1), flat - leaf.space.start.reshape(-1)
    return np.concatenate([_one_hot(shifted[:, i], int(n)) for i, n in enumerate(options)], axis=1)


def _one_hot(values: np.ndarray, n: int) -> np.ndarray:
    return np.asarray(values[:, None] == np.arange(n), dtype=np.float32)
