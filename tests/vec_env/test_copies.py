"""Copies that differ: agents go by name, whatever their order; other agents or spaces are errors that name the copy."""

from __future__ import annotations

import itertools
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from sb3_matrl.vec_env import EnvDataError, make_joint_vec_env
from tests.vec_env.kinds import EVERY_KIND, IN_PROCESS

ORDERS = list(itertools.permutations("abc"))


def number(agent: str) -> int:
    return ord(agent) - ord("a")


class Numbered(ParallelEnv):
    """Every agent observes its number, and is paid ten times that and its action; entries of observations vary in order."""

    metadata = {"name": "numbered_v0"}  # noqa: RUF012
    render_mode = None

    def __init__(self, agents: Any = "abc", spoil: str = "") -> None:
        self.possible_agents = list(agents)
        self.spoil = spoil

    def observation_space(self, agent: str) -> spaces.Dict:
        entries = [("id", spaces.Discrete(9)), ("x", spaces.Box(-9, 9, (1 + number(agent),), np.float32))]
        if self.spoil == "observation":
            entries[1] = ("x", spaces.Box(-9, 8, (1 + number(agent),), np.float32))
        return spaces.Dict(entries if self.possible_agents[0] == "a" else entries[::-1])

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(4) if self.spoil == "action" else spaces.Discrete(3 + (agent == "c"))

    def look(self) -> Any:
        return {agent: {"x": np.full(1 + number(agent), -number(agent)), "id": number(agent)} for agent in self.agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t = list(self.possible_agents), 0
        return self.look(), {}

    def step(self, actions: dict[str, int]) -> Any:
        self.t += 1
        self.got = {agent: int(action) for agent, action in actions.items()}
        rewards = {agent: 10.0 * number(agent) + action for agent, action in self.got.items()}
        ends = {agent: self.t > number(agent) for agent in self.agents}
        seen = self.look()
        self.agents = [agent for agent in self.agents if not ends[agent]]
        return seen, rewards, ends, dict.fromkeys(ends, False), {}


class Copies:
    """Factory that makes every copy with the next arguments, the same ones in a worker process."""

    def __init__(self, *arguments: Any, first: int = 0) -> None:
        self.arguments, self.made = arguments, first

    def __call__(self) -> Numbered:
        made = self.made
        self.made += 1
        return Numbered(*self.arguments[made % len(self.arguments)])


@EVERY_KIND
def test_agents_go_by_name_in_copies_of_any_order(kind: str) -> None:
    with closing(make_joint_vec_env(Copies(*([order] for order in ORDERS)), 6, kind, num_cpus=1)) as env:
        seen = env.reset()
        for step in range(7):
            for agent in "abc":
                present = env.alive[:, env.agents.index(agent)]
                np.testing.assert_array_equal(seen[agent]["id"], np.where(present, number(agent), 0))
                expected = np.where(present, -number(agent), 0)[:, None].repeat(1 + number(agent), axis=1)
                np.testing.assert_array_equal(seen[agent]["x"], expected)
            actions = {agent: (np.arange(6) + number(agent) + step) % 3 for agent in "abc"}
            alive = env.alive.copy()
            seen, rewards, _, _ = env.step(actions)
            for column, agent in enumerate(env.agents):
                paid = np.where(alive[:, column], 10 * number(agent) + actions[agent], 0)
                np.testing.assert_array_equal(rewards[:, column], paid)
            for copy, got in enumerate(env.get_attr("got")):
                assert got == {agent: actions[agent][copy] for agent in got}


@EVERY_KIND
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["abd"], r"its agents are \['a', 'b', 'd'\], those of copy 0 \['a', 'b', 'c'\]"),
        (["ab"], r"its agents are \['a', 'b'\]"),
        (["abcd"], r"its agents are \['a', 'b', 'c', 'd'\]"),
        (["cab", "action"], r"action space of agent 'a' is Discrete\(4\), in copy 0 Discrete\(3\)"),
        (["abc", "observation"], r"observation space of agent 'a' is Dict.*, in copy 0 Dict"),
    ],
)
def test_other_agents_or_spaces_are_refused_with_the_copy(kind: str, arguments: list[str], message: str) -> None:
    # With worker processes the factory is called once more, in this process.
    arguments_of_copies = [["abc"]] * (2 if kind in IN_PROCESS else 3)
    with pytest.raises(ValueError, match=rf"env copy 2, {message}.*all copies need the same agents"):
        make_joint_vec_env(Copies(*arguments_of_copies, arguments), 3, kind, num_cpus=1)


@EVERY_KIND
@pytest.mark.parametrize("change", ["order", "action", "observation", "agents"])
def test_later_episodes_may_change_the_order_alone(kind: str, change: str) -> None:
    class Changing(Numbered):
        resets = 0

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            self.resets += 1
            if self.resets == 3:
                self.possible_agents = {"order": list("cab"), "agents": list("abd")}.get(change, list("abc"))
                self.spoil = change
            return super().reset(seed, options)

    with closing(make_joint_vec_env(Changing, 2, kind, num_cpus=1)) as env:
        actions = {agent: np.ones(2, int) for agent in "abc"}
        env.reset()
        for _ in range(5):
            env.step(actions)
        if change == "order":
            assert env.step(actions)[0]["c"]["id"].tolist() == [2, 2]
        else:
            with pytest.raises(EnvDataError, match=r"env copy 0, .*changed from .* to .*step 3 of episode 2"):
                env.step(actions)
