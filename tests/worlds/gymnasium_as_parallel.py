"""A Gymnasium environment as a PettingZoo ParallelEnv with one agent, to compare with single-agent SB3."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from pettingzoo import ParallelEnv

AGENT = "agent_0"


class GymnasiumAsParallel(ParallelEnv):
    """
    One agent, ``agent_0``; everything else is the Gymnasium environment's: seeds, spaces, rewards and ends of both kinds.

    :param env_id: id, such as ``"Pendulum-v1"``
    :param max_episode_steps: time limit, which truncates; ``None`` for the registered one, -1 for no limit
    :param options: arguments of the environment
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, env_id: str, max_episode_steps: int | None = None, **options: Any) -> None:
        self.env = gym.make(env_id, max_episode_steps=max_episode_steps, **options)
        self.possible_agents = [AGENT]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> gym.Space[Any]:
        return self.env.observation_space

    def action_space(self, agent: str) -> gym.Space[Any]:
        return self.env.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents = [AGENT]
        observation, info = self.env.reset(seed=seed, options=options)
        return {AGENT: observation}, {AGENT: info}

    def step(self, actions: dict[str, Any]) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(actions[AGENT])
        if terminated or truncated:
            self.agents = []
        return tuple({AGENT: value} for value in (observation, float(reward), terminated, truncated, info))

    def close(self) -> None:
        self.env.close()
