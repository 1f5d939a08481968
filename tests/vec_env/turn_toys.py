"""Small games in which not everybody acts at once, with action masks, deaths and late entries."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv

from tests.vec_env.toys import ToyEnv, draw


def random_mask(space, rng):
    """A mask with a legal choice for every part of an action; a tuple of lists for MultiDiscrete."""
    sizes = {spaces.Discrete: lambda: [space.n], spaces.MultiBinary: lambda: [2] * space.n}
    parts = []
    for size in sizes.get(type(space), lambda: space.nvec)():
        part = rng.integers(0, 2, size, dtype=np.int8)
        part[rng.integers(size)] = 1
        parts.append(part)
    return tuple(part.tolist() for part in parts) if isinstance(space, spaces.MultiDiscrete) else np.concatenate(parts)


class TurnGame(AECEnv):
    """
    Players act in turn. Some action kills its player or the next one, who end at once; a player comes late; a time limit
    cuts off the rest. Everybody is rewarded after every turn. Infos tell the acting player's mask, but not always.

    :param dead_first: whether the dead are selected next, as PettingZoo advises, or when their turn comes
    :param posthumous: whether the dead are rewarded while they wait for their last step
    """

    metadata: ClassVar = {"name": "turn_game_v0", "is_parallelizable": False}
    possible_agents: ClassVar = ["c", "a", "b", "late"]
    _action_spaces: ClassVar = {
        "c": spaces.Discrete(6),
        "a": spaces.MultiDiscrete([3, 4]),
        "b": spaces.MultiBinary(2),
        "late": spaces.Discrete(5, start=1),
    }

    state_space = spaces.Box(0, 9973, (3,), np.int64)

    def __init__(self, dead_first=True, posthumous=False):
        self.dead_first, self.posthumous = dead_first, posthumous
        self.render_mode = None
        self.rng = np.random.default_rng(7)

    def observation_space(self, agent):
        return spaces.Box(0, 1, (2,), np.float64)

    def action_space(self, agent):
        return self._action_spaces[agent]

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.time, self.episode = 0, int(self.rng.integers(2**31))
        self.agents = ["c", "a", "b"]
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.rewards, self._cumulative_rewards = dict.fromkeys(self.agents, 0.0), dict.fromkeys(self.agents, 0.0)
        self.agent_selection, self._skip_agent_selection = "c", None
        self._inform()

    def observe(self, agent):
        return self._draws(agent, 1).random(2)

    def state(self):
        return np.array([self.time, len(self.agents), self.episode % 9973])

    def _draws(self, agent, purpose):
        """A generator that depends on the moment alone, not on how often one asks."""
        return np.random.default_rng([self.episode, self.time, self.possible_agents.index(agent), purpose])

    def _dead(self, agent):
        return self.terminations[agent] or self.truncations[agent]

    def _inform(self):
        self.infos = {agent: {} for agent in self.agents}
        if self.agents and self.time % 4 != 3 and not self._dead(self.agent_selection):
            mask = random_mask(self.action_space(self.agent_selection), self._draws(self.agent_selection, 2))
            self.infos[self.agent_selection] = {"action_mask": mask, "time": self.time}

    def step(self, action):
        agent = self.agent_selection
        if self._dead(agent):
            return self._last_step_of(agent, action)
        self.time += 1
        self._cumulative_rewards[agent] = 0.0
        following = self._after(agent)
        self.rewards = {a: 0.0 if self._dead(a) and not self.posthumous else self._draws(a, 3).normal() for a in self.agents}
        self._kill(agent, following, action)
        if self.time == 5:
            self._enter("late")
        if self.time == 12:
            self.truncations = {a: not self.terminations[a] for a in self.agents}
        self._accumulate_rewards()
        self.agent_selection = following
        if self.dead_first:
            alive = [a for a in (following, self._after(following), self._after(self._after(following))) if not self._dead(a)]
            self.agent_selection = alive[0] if alive else following
            self._deads_step_first()
        self._inform()

    def _after(self, agent):
        return self.agents[(self.agents.index(agent) + 1) % len(self.agents)]

    def _kill(self, agent, following, action):
        value = int(np.sum(action))
        victim = {0: agent, 1: following}.get(value if len(self.agents) > 1 else 9)
        if victim is not None:
            self.terminations[victim] = not self._dead(victim) or self.terminations[victim]

    def _enter(self, agent):
        self.agents.append(agent)
        self.terminations[agent] = self.truncations[agent] = False
        self.rewards[agent] = self._cumulative_rewards[agent] = 0.0

    def _last_step_of(self, agent, action):
        following = self._after(agent)
        self._was_dead_step(action)
        if not self.dead_first and self.agents:
            self.agent_selection, self._skip_agent_selection = following, None
        self._inform()

    def close(self):
        pass


class SavingTurnGame(TurnGame):
    """The same, able to save its state."""

    _plain: ClassVar = ["time", "episode", "agent_selection", "_skip_agent_selection"]
    _nested: ClassVar = ["agents", "terminations", "truncations", "rewards", "_cumulative_rewards"]

    def snapshot(self):
        state = {name: getattr(self, name) for name in self._plain} | {name: type(v)(v) for name, v in self._lists()}
        return {**state, "rng": self.rng.bit_generator.state}

    def _lists(self):
        return [(name, getattr(self, name)) for name in self._nested]

    def restore(self, snapshot):
        for name in self._plain + self._nested:
            value = snapshot[name]
            setattr(self, name, type(value)(value) if name in self._nested else value)
        self.rng.bit_generator.state = snapshot["rng"]
        self._inform()


class Waiting(ToyEnv):
    """
    Agents of very different spaces that enter late and end early; in every step some of them wait. Observations hold the
    masks of some, infos those of others.
    """

    def __init__(self):
        masked = spaces.Dict({"x": spaces.Box(-1, 1, (2,), np.float32), "action_mask": spaces.MultiBinary(6)})
        plain = spaces.Box(-1, 1, (3,), np.float32)
        observations = {"seen": masked, "told": plain, "free": plain, "late": masked}
        actions = {
            "seen": spaces.MultiBinary(3),
            "told": spaces.MultiDiscrete([2, 3]),
            "free": spaces.Box(-1, 1, (1,), np.float32),
            "late": spaces.Discrete(6),
        }
        ends = {"seen": (9, "terminated"), "told": (4, "truncated"), "free": (12, "terminated"), "late": (8, "both")}
        super().__init__(observations, actions, ends, {"late": 2})

    @property
    def acting_agents(self):
        """Not always in order, and now and then one who is out."""
        return {agent for i, agent in enumerate(self.possible_agents) if (i + self.time + self.delay) % 3}

    def reset(self, seed=None, options=None):
        observations, infos = super().reset(seed, options)
        return self._with_masks(observations, infos)

    def step(self, actions):
        assert set(actions) == self.acting_agents & set(self.agents), (actions, self.acting_agents)
        waiting = [agent for agent in self.agents if agent not in actions]
        observations, rewards, ends, cuts, infos = super().step(
            {**actions, **{agent: draw(self.action_space(agent), self.rng) for agent in waiting}}
        )
        observations, infos = self._with_masks(observations, infos)
        return observations, rewards, ends, cuts, infos

    def _with_masks(self, observations, infos):
        for agent, observation in observations.items():
            acts = agent in self.acting_agents
            mask = random_mask(self.action_space(agent), self.rng) if agent != "free" else ()
            if agent == "told" and self.time % 3:
                infos = {**infos, agent: {**infos.get(agent, {}), "action_mask": mask if acts else "whatever"}}
            elif agent in ("seen", "late"):
                observation["action_mask"] = mask if acts else np.zeros(6, np.int8)
        return observations, infos
