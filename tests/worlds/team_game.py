"""Base class of small deterministic games that a team plays together: everybody sees the same, which is the state, too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from sb3_matrl.envs.snapshot import Snapshot


class TeamGame(ParallelEnv):
    """
    A game without chance. ``place`` is where the game stands, as integers; :meth:`play` changes it.

    :param action_spaces: one space per agent
    :param size: length of the observation
    :param everybody: whether every agent gets the team's reward, or ``agent_0`` alone, so that the sum is right
    """

    metadata = {"name": "team_game", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, action_spaces: Sequence[spaces.Space[Any]], size: int, everybody: bool = False) -> None:
        self.possible_agents = [f"agent_{index}" for index in range(len(action_spaces))]
        self.agents: list[str] = []
        self.everybody = everybody
        self.place: list[int] = []
        self.state_space = spaces.Box(0.0, 1.0, (size,), np.float32)
        self._action_spaces = dict(zip(self.possible_agents, action_spaces, strict=True))

    @abstractmethod
    def start(self) -> list[int]:
        """First place."""

    @abstractmethod
    def play(self, actions: list[Any]) -> tuple[float, bool]:
        """
        Play one step.

        :param actions: one action per agent
        :return: the team's reward, and whether the game is over
        """

    @abstractmethod
    def state(self) -> np.ndarray:
        """What everybody observes: float32 (size,)."""

    def observation_space(self, agent: str) -> spaces.Box:
        return self.state_space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.place, self.agents = self.start(), list(self.possible_agents)
        return self._everybody(self.state()), self._everybody({})

    def step(self, actions: dict[str, Any]) -> Any:
        reward, over = self.play([actions[agent] for agent in self.possible_agents])
        rewards = {**self._everybody(reward if self.everybody else 0.0), self.possible_agents[0]: reward}
        self.agents = [] if over else self.agents
        return self._everybody(self.state()), rewards, self._everybody(over), self._everybody(False), self._everybody({})

    def _everybody(self, value: Any) -> dict[str, Any]:
        return {agent: np.copy(value) if isinstance(value, np.ndarray) else value for agent in self.possible_agents}

    def snapshot(self) -> Snapshot:
        return {"place": list(self.place), "agents": list(self.agents)}

    def restore(self, snapshot: Snapshot) -> None:
        self.place, self.agents = list(snapshot["place"]), list(snapshot["agents"])


def one_hot(size: int, *places: int) -> np.ndarray:
    """Zeros with ones in some places, float32 (size,)."""
    vector = np.zeros(size, np.float32)
    vector[list(places)] = 1.0
    return vector
