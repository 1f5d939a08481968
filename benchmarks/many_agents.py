"""
A world of any number of agents whose rules cost next to nothing, so that measured times are those of the learners.

Every agent has a code from 0 to 63 and observes 16 numbers that belong to the code. It hits its target if its action is the
code modulo 5. Its reward is the mean of its own hit (0 or 1) and the share of all agents that hit. With code c and action a,
agent i (from 0) gets the code (5 c + a + 7 i + 3) modulo 64. First codes are drawn at random. The last of ``max_cycles`` steps
*terminates* the episode, so that no value is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv, CoreStep, discrete_actions
from sb3_matrl.envs.option_checks import check_integer

N_ACTIONS = 5
N_CODES = 64
N_NUMBERS = 16
#: What an agent with each code observes.
NUMBERS = np.random.default_rng(0).uniform(-1.0, 1.0, (N_CODES, N_NUMBERS)).astype(np.float32)


class ManyAgentsCore(BatchedCore):
    """
    ``num_envs`` copies of the world; the module's docstring has the rules.

    :param num_envs: number of copies
    :param n_agents: number of agents
    :param max_cycles: steps of an episode
    """

    changing = ("alive", "_codes", "_steps", "_generators")
    metadata = {  # noqa: RUF012 - PettingZoo's convention
        "name": "many_agents",
        "render_modes": [],
        "is_parallelizable": True,
        "render_fps": 1,
    }

    def __init__(self, num_envs: int, n_agents: int, max_cycles: int) -> None:
        check_integer("num_envs", num_envs, low=1)
        check_integer("n_agents", n_agents, low=1)
        check_integer("max_cycles", max_cycles, low=1)
        self.num_envs, self.n_agents, self.max_cycles = num_envs, n_agents, max_cycles
        self.possible_agents = [f"agent_{agent}" for agent in range(n_agents)]
        self.observation_spaces = {agent: spaces.Box(-1.0, 1.0, (N_NUMBERS,), np.float32) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(N_ACTIONS) for agent in self.possible_agents}
        self.state_space = spaces.Box(0.0, 1.0, (n_agents,), np.float32)
        self.alive = np.zeros((num_envs, n_agents), dtype=bool)
        self._counts = np.full(n_agents, N_ACTIONS)
        self._offsets = 7 * np.arange(n_agents) + 3
        self._codes = np.zeros((num_envs, n_agents), dtype=np.int64)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]

    def replicate(self, num_envs: int) -> ManyAgentsCore:
        """
        Create a new core of the same world.

        :param num_envs: number of copies of the new core
        """
        return type(self)(num_envs, self.n_agents, self.max_cycles)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Seed the first codes of copy ``k`` with ``seeds[k]``."""
        self._generators = [np.random.default_rng(seed) for seed in seeds]

    def reset(self, copies: np.ndarray | None = None) -> None:
        """
        Start a new episode.

        :param copies: bool (num_envs,), copies to reset; ``None`` for all
        """
        chosen = np.ones(self.num_envs, dtype=bool) if copies is None else np.asarray(copies, dtype=bool)
        self._steps = np.where(chosen, 0, self._steps)
        self.alive = self.alive | chosen[:, None]
        self._codes = self._codes.copy()
        for copy in np.flatnonzero(chosen):
            self._codes[copy] = self._generators[copy].integers(N_CODES, size=self.n_agents)

    def step(self, actions: np.ndarray) -> CoreStep:
        """
        Play one joint step in every copy whose episode is not over.

        :param actions: (num_envs, n_agents), integers from 0 to 4; rows of copies whose episode is over are ignored
        :raises ValueError: if the action of a live agent is invalid; names the agent and the value
        """
        alive = self.alive
        actions = discrete_actions(actions, self._counts, alive, self.possible_agents)
        hits = (actions == self._codes % N_ACTIONS) & alive
        rewards = np.where(alive, 0.5 * (hits + hits.mean(axis=1, keepdims=True)), 0.0)
        self._codes = np.where(alive, (5 * self._codes + actions + self._offsets) % N_CODES, self._codes)
        self._steps = self._steps + alive[:, 0]
        over = (self._steps >= self.max_cycles)[:, None]
        self.alive = alive & ~over
        return CoreStep(rewards, alive & over, np.zeros_like(alive))

    def observations(self) -> dict[str, np.ndarray]:
        """Numbers of every agent's code: float32 (num_envs, 16)."""
        numbers = NUMBERS[self._codes.T]
        return dict(zip(self.possible_agents, numbers, strict=True))

    def state(self) -> np.ndarray:
        """Global state, codes / 63: float32 (num_envs, n_agents)."""
        return (self._codes / (N_CODES - 1)).astype(np.float32)


def parallel_env(n_agents: int = 2, max_cycles: int = 25, render_mode: str | None = None) -> CoreParallelEnv:
    """
    Make the world as a PettingZoo parallel environment.

    :param n_agents: number of agents
    :param max_cycles: steps of an episode
    :param render_mode: ``None``; there is nothing to see
    :raises ValueError: if an option is invalid
    """
    options: dict[str, Any] = {"n_agents": n_agents, "max_cycles": max_cycles}
    return CoreParallelEnv(ManyAgentsCore(1, **options), render_mode)
