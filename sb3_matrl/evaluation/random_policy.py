"""The yardstick: agents that draw every action from their action space."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces


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
    ) -> tuple[dict[str, Any], Any]:
        """
        Draw an action for every agent in ``observation``.

        :param observation: agent -> its observation, or a batch of them
        :param state: handed back as it is
        :param episode_start: ignored
        :param deterministic: ignored, chance has no greedy version
        :return: agent -> action, or array of actions with a leading batch axis; and ``state``
        """
        return {agent: self._draw(agent, value) for agent, value in observation.items()}, state

    def _draw(self, agent: str, observation: Any) -> Any:
        space = self._action_spaces[agent]
        batch = _batch_size(observation, self._observation_spaces[agent])
        return space.sample() if batch is None else np.array([space.sample() for _ in range(batch)])


def _batch_size(observation: Any, space: spaces.Space[Any]) -> int | None:
    """Number of observations in a batch, ``None`` for a single observation without a batch axis."""
    if isinstance(space, spaces.Dict):
        key, part = next(iter(space.items()))
        return _batch_size(observation[key], part)
    shape = np.shape(observation)
    return shape[0] if len(shape) > len(space.shape or ()) else None
