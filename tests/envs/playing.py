"""Plays parallel environments with random actions and keeps all that can be seen."""

import sys
from typing import Any

import numpy as np

from sb3_matrl.envs import make


def play(env: Any, n_steps: int, seed: int) -> list[Any]:
    """
    Play on where ``env`` stands, with a reset (unseeded) whenever an episode ends.

    :return: per step observations, rewards, terminations and truncations (dicts) and the state
    """
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(n_steps):
        if not env.agents:
            env.reset()
        observations, rewards, terminated, truncated, _ = env.step({agent: action(env, agent, rng) for agent in env.agents})
        seen.append((observations, rewards, terminated, truncated, env.state()))
    return seen


def action(env: Any, agent: str, rng: np.random.Generator) -> Any:
    """A random element of a Box or Discrete action space."""
    space = env.action_space(agent)
    if hasattr(space, "n"):
        return int(rng.integers(space.n))
    return rng.uniform(space.low, space.high).astype(space.dtype)


def episode_ends(seen: list[Any]) -> int:
    """Number of episodes that ended in what :func:`play` returned."""
    return sum(all(terminated.values()) or all(truncated.values()) for _, _, terminated, truncated, _ in seen)


def assert_same(one: list[Any], other: list[Any]) -> None:
    """Bit for bit."""
    assert len(one) == len(other)
    for (observations, *flags, state), (other_observations, *other_flags, other_state) in zip(one, other, strict=True):
        assert flags == other_flags
        assert np.array_equal(state, other_state)
        for agent, observation in observations.items():
            assert observation.dtype == other_observations[agent].dtype
            assert np.array_equal(observation, other_observations[agent])


def play_on(env_id: str, options: dict[str, Any], snapshot: dict[str, Any], n_steps: int, seed: int) -> list[Any]:
    """What :func:`play` returns for a new environment that goes on from a snapshot."""
    env = make(env_id, **options)
    env.restore(snapshot)
    return play(env, n_steps, seed)


def loaded(packages: set[str]) -> list[str]:
    """Those that this process has imported."""
    return sorted(packages & set(sys.modules))
