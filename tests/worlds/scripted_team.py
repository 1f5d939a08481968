"""A team of three whose lives, rewards and masks follow a script, and that goes on to report its dead."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from sb3_matrl.envs.snapshot import Snapshot

N_TIMES = 6
# agent -> number of actions
N_ACTIONS = {"short": 2, "middle": 3, "long": 4}
# Agent -> step in which it ends, and how, in each script. A seed chooses the script; episodes without one take the next.
ENDS: dict[str, list[tuple[int, str]]] = {
    "short": [(1, "terminated"), (2, "truncated"), (3, "terminated")],
    "middle": [(4, "truncated"), (3, "terminated"), (3, "both")],
    "long": [(4, "terminated"), (5, "truncated"), (2, "truncated")],
}
N_SCRIPTS = 3


def legal(agent: str, time: int) -> np.ndarray:
    """Mask of the agents that have masks: all actions but one, which depends on the time; bool (number of actions,)."""
    mask = np.ones(N_ACTIONS[agent], dtype=bool)
    mask[time % N_ACTIONS[agent]] = False
    return mask


def reward(agent: str, time: int, action: int) -> float:
    """Reward of an action that is chosen at a time."""
    column = list(N_ACTIONS).index(agent)
    return float((column + 1) * (time + 1) + action / 10)


class ScriptedTeam(ParallelEnv):
    """
    Three agents with unequal spaces. ``middle`` has its mask in its info, ``long`` in its observation, ``short`` has none;
    an illegal action is an error. They end as :data:`ENDS` says: one after the other, or one terminated and another truncated
    in the same step. The dead are reported with rewards and observations of NaN, which nobody may use.

    Observations: ``short``: its time, one-hot; ``middle``: time / N_TIMES; ``long``: the same as a (1, 2) array, beside the
    mask. State: the time one-hot, and who is alive.
    """

    metadata = {"name": "scripted_team", "render_modes": []}  # noqa: RUF012
    render_mode = None
    state_space = spaces.Box(0.0, 1.0, (N_TIMES + 3,), np.float32)

    def __init__(self) -> None:
        self.possible_agents = list(N_ACTIONS)
        self.agents: list[str] = []
        self.time, self.script = 0, N_SCRIPTS - 1
        self._observation_spaces: dict[str, spaces.Space[Any]] = {
            "short": spaces.Box(0.0, 1.0, (N_TIMES,), np.float32),
            "middle": spaces.Box(0.0, 1.0, (1,), np.float64),
            "long": spaces.Dict(
                {"observation": spaces.Box(0.0, 1.0, (1, 2), np.float32), "action_mask": spaces.MultiBinary(N_ACTIONS["long"])}
            ),
        }
        self._action_spaces = {agent: spaces.Discrete(count) for agent, count in N_ACTIONS.items()}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.script = (self.script + 1 if seed is None else seed) % N_SCRIPTS
        self.time, self.agents = 0, list(self.possible_agents)
        return self._observations(self.agents), self._infos()

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents), (actions, self.agents)
        self._require_legal(actions)
        rewards = {agent: float("nan") for agent in self.possible_agents}
        rewards.update({agent: reward(agent, self.time, int(action)) for agent, action in actions.items()})
        acted = self.agents
        self.time += 1
        ends = {agent: self._end(agent) for agent in self.possible_agents}
        terminations = {agent: end in ("terminated", "both", "dead") for agent, end in ends.items()}
        truncations = {agent: end in ("truncated", "both") for agent, end in ends.items()}
        self.agents = [agent for agent in acted if not ends[agent]]
        return self._observations(acted), rewards, terminations, truncations, self._infos()

    def _require_legal(self, actions: dict[str, Any]) -> None:
        illegal = [
            agent for agent in ("middle", "long") if agent in actions and not legal(agent, self.time)[int(actions[agent])]
        ]
        assert not illegal, f"{illegal[0]} chose the illegal action {actions[illegal[0]]} at time {self.time}"

    def _end(self, agent: str) -> str:
        step, kind = ENDS[agent][self.script]
        return "" if self.time < step else kind if self.time == step else "dead"

    def _observations(self, valid: list[str]) -> dict[str, Any]:
        """Observations of all agents; NaN for those that are not valid."""
        time = np.zeros(N_TIMES, np.float32)
        time[self.time] = 1.0
        clock = self.time / N_TIMES
        views = {"short": time, "middle": np.array([clock]), "long": np.full((1, 2), clock, np.float32)}
        views = {agent: view if agent in valid else np.full_like(view, np.nan) for agent, view in views.items()}
        mask = legal("long", self.time).astype(np.int8)
        return {**views, "long": {"observation": views["long"], "action_mask": mask}}

    def _infos(self) -> dict[str, dict[str, Any]]:
        return {"short": {}, "middle": {"action_mask": legal("middle", self.time)}, "long": {}}

    def state(self) -> np.ndarray:
        state = np.zeros(N_TIMES + 3, np.float32)
        state[self.time] = 1.0
        state[N_TIMES:] = [agent in self.agents for agent in self.possible_agents]
        return state

    def snapshot(self) -> Snapshot:
        return {"time": self.time, "script": self.script, "agents": list(self.agents)}

    def restore(self, snapshot: Snapshot) -> None:
        self.time, self.script, self.agents = snapshot["time"], snapshot["script"], list(snapshot["agents"])
