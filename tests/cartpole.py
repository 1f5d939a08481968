"""CartPole-v1 as a PettingZoo ParallelEnv with one agent, to compare with single-agent SB3."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from pettingzoo import ParallelEnv


class CartPoleParallelEnv(ParallelEnv):
    """One agent, ``agent_0``; everything else is Gymnasium's CartPole-v1."""

    metadata = {"name": "cartpole", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, max_episode_steps: int | None = None) -> None:
        self.env = gym.make("CartPole-v1", max_episode_steps=max_episode_steps)
        self.possible_agents = ["agent_0"]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> gym.Space[Any]:
        return self.env.observation_space

    def action_space(self, agent: str) -> gym.Space[Any]:
        return self.env.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents = list(self.possible_agents)
        observation, info = self.env.reset(seed=seed, options=options)
        return {"agent_0": observation}, {"agent_0": info}

    def step(self, actions: dict[str, Any]) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(actions["agent_0"])
        if terminated or truncated:
            self.agents = []
        return tuple({"agent_0": value} for value in (observation, float(reward), terminated, truncated, info))

    def close(self) -> None:
        self.env.close()
