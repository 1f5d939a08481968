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

    possible_agents = ["left", "middle"]  # noqa: RUF012


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


class Comes(ParallelEnv[str, np.ndarray, int]):
    """
    ``early`` is there from the start, ``late`` comes after ``delay`` steps, ``turns`` acts in every second step only.

    An agent that acts earns 1 if its action is the number of its observations so far.
    """

    metadata = {"name": "comes", "render_modes": []}  # noqa: RUF012
    possible_agents = ["early", "late", "turns"]  # noqa: RUF012
    delay = 3

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.rng = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Discrete[Any]:
        return spaces.Discrete(50)

    @property
    def acting_agents(self) -> list[str]:
        return [agent for agent in self.agents if agent != "turns" or self.time % 2 == 1]

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.time, self.length = 0, int(self.rng.integers(2, 12))
        self.agents = ["early", "turns"]
        return {agent: np.ones(1, np.float32) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, int]) -> Any:
        if set(actions) != set(self.acting_agents):
            raise ValueError(f"actions of {list(actions)}, but it is the turn of {self.acting_agents}")
        ages = {agent: self.time + 1 - (self.delay if agent == "late" else 0) for agent in self.agents}
        rewards = {agent: float(agent in actions and int(actions[agent]) == ages[agent]) for agent in self.agents}
        self.time += 1
        here = list(self.agents)
        over = self.time == self.length
        if self.time == self.delay and not over:
            self.agents.append("late")
        observations = {agent: np.ones(1, np.float32) for agent in self.agents}
        if over:
            self.agents = []
        return observations, rewards, dict.fromkeys(here, over), dict.fromkeys(here, False), {agent: {} for agent in here}


class CountsSteps:
    """Its memory is the number of observations since the episode began; so is its action."""

    def predict(
        self, observation: Mapping[str, Any], state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[dict[str, Any], Any]:
        counts = {}
        for agent in observation:
            before = np.zeros(len(episode_start), int) if state is None or agent not in state else state[agent]
            counts[agent] = np.where(episode_start, 0, before) + 1
        single = np.ndim(next(iter(observation.values()))) == 1
        return {agent: count[0] if single else count for agent, count in counts.items()}, counts
