"""The yardstick: agents that draw every action from their action space."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.vec_env.masks import options_of


class RandomPolicy:
    """
    Agents that act at random, with the ``predict`` of a trained model.

    :param observation_spaces: agent -> observation space, to tell one observation from a batch
    :param action_spaces: agent -> action space to sample from
    :param seed: of the draws; agents draw from independent streams
    """

    def __init__(
        self,
        observation_spaces: Mapping[str, spaces.Space[Any]],
        action_spaces: Mapping[str, spaces.Space[Any]],
        seed: int | None = None,
    ) -> None:
        self._observation_spaces = dict(observation_spaces)
        # Copies: seeding must not touch the spaces of the environment.
        self._action_spaces = {agent: deepcopy(space) for agent, space in action_spaces.items()}
        streams = np.random.SeedSequence(seed).spawn(len(self._action_spaces))
        for space, stream in zip(self._action_spaces.values(), streams, strict=True):
            space.seed(int(stream.generate_state(1)[0]))

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, Any], Any]:
        """
        Draw an action for every agent in ``observation``.

        :param observation: agent -> its observation, or a batch of them
        :param state: handed back as it is
        :param episode_start: ignored
        :param deterministic: ignored, chance has no greedy version
        :param action_masks: agent -> bool (batch, mask size) as :class:`~sb3_matrl.vec_env.JointVecEnv` has them, or (mask
            size,) for a single observation; legal actions are equally likely, the others are not drawn
        :return: agent -> action, or array of actions with a leading batch axis; and ``state``
        """
        masks = action_masks or {}
        return {agent: self._draw(agent, value, masks.get(agent)) for agent, value in observation.items()}, state

    def _draw(self, agent: str, observation: Any, masks: np.ndarray | None) -> Any:
        space = self._action_spaces[agent]
        batch = _batch_size(observation, self._observation_spaces[agent])
        if batch is None:
            return _sample(space, masks)
        return np.array([_sample(space, None if masks is None else masks[row]) for row in range(batch)])


def _sample(space: spaces.Space[Any], mask: np.ndarray | None) -> Any:
    """One legal action; the mask has a value per option, part by part."""
    if mask is None:
        return space.sample()
    if isinstance(space, spaces.MultiBinary):
        # Gymnasium's own form: a bit, or 2 where both are legal.
        may = mask.reshape(*space.shape, 2)
        return space.sample(mask=np.where(may.all(axis=-1), 2, may[..., 1]).astype(np.int8))
    parts = np.split(mask.astype(np.int8), np.cumsum(options_of(space))[:-1])
    return space.sample(mask=parts[0] if isinstance(space, spaces.Discrete) else tuple(parts))


def _batch_size(observation: Any, space: spaces.Space[Any]) -> int | None:
    """Number of observations in a batch, ``None`` for a single observation without a batch axis."""
    if isinstance(space, spaces.Dict):
        key, part = next(iter(space.items()))
        return _batch_size(observation[key], part)
    shape = np.shape(observation)
    return shape[0] if len(shape) > len(space.shape or ()) else None
