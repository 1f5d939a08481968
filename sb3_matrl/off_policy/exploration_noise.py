"""Noise on the actions of all agents: SB3's noise objects, one for every agent and copy of the environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

from sb3_matrl.common.arguments import per_agent


class TeamNoise:
    """
    Exploration noise of the agents with continuous actions.

    SB3's noise draws from NumPy's global generator. A process with a memory, such as Ornstein-Uhlenbeck's, is reset at the
    end of an episode of its copy.

    :param action_noise: standard deviation of a normal distribution, an SB3 noise object, ``None`` for no noise, or a dict of
        those, keyed by agent
    :param action_spaces: agent -> action space; agents without a Box have no noise
    :param n_envs: number of copies of the environment
    :raises ValueError: if a dict lacks an agent or has noise for discrete actions, or noise has not the size of an action
    """

    def __init__(self, action_noise: Any, action_spaces: Mapping[str, spaces.Space[Any]], n_envs: int) -> None:
        given = per_agent("action_noise", action_noise, list(action_spaces))
        for agent, space in action_spaces.items():
            if isinstance(action_noise, Mapping) and given[agent] is not None and not isinstance(space, spaces.Box):
                raise ValueError(
                    f"action_noise of {agent!r} is {given[agent]!r}, but its actions are {space}: noise is for a Box, "
                    "so give None"
                )
        self._noises = {
            agent: VectorizedActionNoise(_noise(agent, given[agent], space), n_envs)
            for agent, space in action_spaces.items()
            if isinstance(space, spaces.Box) and given[agent] is not None
        }

    def add(self, agent: str, actions: np.ndarray) -> np.ndarray:
        """
        Draw noise for all copies, add it, and clip the sum to [-1, 1].

        :param agent: name of the agent
        :param actions: scaled to [-1, 1], (n_envs, *shape)
        :return: the same shape; the actions as they are for an agent without noise
        """
        if agent not in self._noises:
            return actions
        noise = self._noises[agent]().reshape(actions.shape)
        return np.asarray(np.clip(actions + noise, -1, 1))

    def single(self, agent: str) -> ActionNoise | None:
        """
        :param agent: name of the agent
        :return: noise of the agent in a single environment, a copy; ``None`` without noise
        """
        return deepcopy(self._noises[agent].base_noise) if agent in self._noises else None

    def reset(self, copies: Iterable[int]) -> None:
        """
        Reset the processes of copies whose episode is over.

        :param copies: indices of the copies
        """
        for noise in self._noises.values():
            noise.reset(indices=copies)

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """Agent -> for every copy the numbers that its process remembers, by name; :meth:`restore` reads them."""
        states = {agent: [_memory(one) for one in noise.noises] for agent, noise in self._noises.items()}
        return {agent: memories for agent, memories in states.items() if any(memories)}

    def restore(self, state: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """
        Restore a state.

        :param state: return value of :meth:`state` of noise with the same settings
        :raises ValueError: if it does not fit
        """
        own = self.state()
        if set(state) != set(own):
            raise ValueError(f"action noise with a memory is that of {sorted(own)}, in the saved state of {sorted(state)}")
        for agent, memories in state.items():
            if len(memories) != len(own[agent]):
                raise ValueError(f"action noise of {agent!r} has {len(own[agent])} copies, {len(memories)} in the saved state")
            for noise, memory in zip(self._noises[agent].noises, memories, strict=True):
                _remember(agent, noise, memory)


def _noise(agent: str, given: Any, space: spaces.Box) -> ActionNoise:
    """
    :raises ValueError: if the noise does not have the size of the agent's actions
    """
    size = int(np.prod(space.shape))
    if not isinstance(given, ActionNoise):
        if isinstance(given, bool) or not isinstance(given, Real):
            raise ValueError(f"action_noise of {agent!r} must be a number, SB3's noise object or None, got {given!r}")
        return NormalActionNoise(np.zeros(size), np.full(size, float(given)))
    noise = given.base_noise if isinstance(given, VectorizedActionNoise) else given
    means = getattr(noise, "_mu", None)
    if means is not None and np.size(means) != size:
        raise ValueError(f"action_noise of {agent!r} has {np.size(means)} values, its actions {size}: {noise!r}")
    return noise


def _memory(noise: ActionNoise) -> dict[str, Any]:
    """What a process remembers: of SB3's the previous noise, of other classes all arrays and numbers."""
    if type(noise) is NormalActionNoise:
        return {}
    if isinstance(noise, OrnsteinUhlenbeckActionNoise):
        return {"noise_prev": np.array(noise.noise_prev)}
    kinds = (np.ndarray, int, float)
    return {name: np.array(value) for name, value in vars(noise).items() if isinstance(value, kinds)}


def _remember(agent: str, noise: ActionNoise, memory: Mapping[str, Any]) -> None:
    for name, value in _memory(noise).items():
        saved = np.asarray(memory.get(name))
        if saved.shape != value.shape or saved.dtype.kind != value.dtype.kind:
            raise ValueError(f"action noise of {agent!r}: its {name} does not fit the saved state")
        plain = not isinstance(getattr(noise, name), np.ndarray)
        setattr(noise, name, saved.item() if plain else saved.astype(value.dtype))
