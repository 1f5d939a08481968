"""Small worlds and scripted agents for the tests of evaluation and zoo."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class RandomLength(ParallelEnv[str, np.ndarray, int]):
    """
    Episodes last 1 or ``long`` steps, by the flip of a seeded coin. ``left`` earns 1 per step, ``right`` its action.

    The observation is the number of steps that remain.
    """

    metadata = {"name": "random_length", "render_modes": ["human"]}  # noqa: RUF012
    possible_agents = ["left", "right"]  # noqa: RUF012

    def __init__(self, long: int = 20, render_mode: str | None = None) -> None:
        self.long = long
        self.render_mode = render_mode
        self.drawn = 0
        self.rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(0.0, float(self.long), (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Discrete[Any]:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.remaining = int(self.rng.choice([1, self.long]))
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, int]) -> Any:
        self.remaining -= 1
        agents = list(self.agents)
        over = self.remaining == 0
        if over:
            self.agents = []
        rewards = {"left": 1.0, "right": float(actions["right"])}
        observations = self._observations()
        return (
            observations,
            rewards,
            dict.fromkeys(agents, over),
            dict.fromkeys(agents, False),
            {agent: {} for agent in agents},
        )

    def render(self) -> None:
        self.drawn += 1

    def _observations(self) -> dict[str, np.ndarray]:
        return {agent: np.array([self.remaining], np.float32) for agent in self.possible_agents}


class OtherAgents(RandomLength):
    """The same world with agents of other names."""

    possible_agents = ["right", "left"]  # noqa: RUF012


class BrokenOnPurpose(RandomLength):
    """Fails in its third step with an error that no user caused."""

    def step(self, actions: Mapping[str, int]) -> Any:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            raise ZeroDivisionError("a bug in the world")
        return super().step(actions)


class InterruptsItself(RandomLength):
    """Presses Ctrl-C once, in the 30th step of all its copies together."""

    steps = 0

    def step(self, actions: Mapping[str, int]) -> Any:
        InterruptsItself.steps += 1
        if InterruptsItself.steps == 30:
            signal.raise_signal(signal.SIGINT)
        return super().step(actions)


class Scripted:
    """Greedy: the action is the observation modulo 3; sampled: drawn by PyTorch's global generator."""

    def __init__(self) -> None:
        self.episode_starts: list[np.ndarray] = []

    def predict(
        self, observation: Mapping[str, Any], state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[dict[str, Any], Any]:
        import torch as th

        self.episode_starts.append(episode_start.copy())
        actions = {}
        for agent, value in observation.items():
            value = np.asarray(value)
            chosen = value[..., 0].astype(np.int64) % 3
            if not deterministic:
                chosen = th.randint(0, 3, chosen.shape).numpy()
            actions[agent] = chosen
        return actions, state
