"""Uniform random baseline policy."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.common.legal_masks import usable_mask
from sb3_matrl.utils.agent_names import AgentDict, agent_name, keyed_by_text
from sb3_matrl.vec_env.masks import options_of


class RandomPolicy:
    """
    Policy that samples every action uniformly from the agent's action space; has the ``predict`` of a trained model.

    :param observation_spaces: agent -> observation space, to distinguish one observation from a batch
    :param action_spaces: agent -> action space to sample from
    :param seed: seed of the samples; agents have independent streams
    """

    def __init__(
        self,
        observation_spaces: Mapping[str, spaces.Space[Any]],
        action_spaces: Mapping[str, spaces.Space[Any]],
        seed: int | None = None,
    ) -> None:
        self._observation_spaces = AgentDict(keyed_by_text(observation_spaces))
        # Copies, because seeding must not change the environment's spaces.
        self._action_spaces = AgentDict({agent_name(agent): deepcopy(space) for agent, space in action_spaces.items()})
        streams = np.random.SeedSequence(seed).spawn(len(self._action_spaces))
        for space, stream in zip(self._action_spaces.values(), streams, strict=True):
            space.seed(int(stream.generate_state(1)[0]))

    @property
    def possible_agents(self) -> list[str]:
        """Agents that the policy can play."""
        return list(self._action_spaces)

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, Any], Any]:
        """
        Sample an action for every agent in ``observation``.

        :param observation: agent -> observation, or batch of observations
        :param state: returned unchanged
        :param episode_start: ignored
        :param deterministic: ignored
        :param action_masks: agent -> bool (batch, mask size), see :class:`~sb3_matrl.vec_env.JointVecEnv`, or (mask size,)
            for a single observation; samples are uniform over the legal actions, and over all if none is legal
        :return: agent -> action, or array of actions with a leading batch axis; and ``state``
        """
        masks = keyed_by_text(action_masks or {})
        return {agent: self._draw(agent, value, masks.get(agent_name(agent))) for agent, value in observation.items()}, state

    def _draw(self, agent: str, observation: Any, masks: np.ndarray | None) -> Any:
        space = self._action_spaces[agent]
        batch = _batch_size(observation, self._observation_spaces[agent])
        if batch is None:
            return _sample(space, masks)
        return np.array([_sample(space, None if masks is None else masks[row]) for row in range(batch)])


def _sample(space: spaces.Space[Any], mask: np.ndarray | None) -> Any:
    """Sample a legal action; the mask has one value per option, part by part."""
    if mask is None:
        return space.sample()
    mask = usable_mask(mask)
    if isinstance(space, spaces.MultiBinary):
        # Gymnasium's form of the mask: the legal bit, or 2 if both are legal.
        legal = mask.reshape(*space.shape, 2)
        return space.sample(mask=np.where(legal.all(axis=-1), 2, legal[..., 1]).astype(np.int8))
    parts = np.split(mask.astype(np.int8), np.cumsum(options_of(space))[:-1])
    return space.sample(mask=parts[0] if isinstance(space, spaces.Discrete) else tuple(parts))


def _batch_size(observation: Any, space: spaces.Space[Any]) -> int | None:
    """Number of observations in a batch; ``None`` for a single observation."""
    if isinstance(space, spaces.Dict):
        key, part = next(iter(space.items()))
        return _batch_size(observation[key], part)
    shape = np.shape(observation)
    return shape[0] if len(shape) > len(space.shape or ()) else None
