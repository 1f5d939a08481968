"""Small ParallelEnvs with scripted lives and random observations, well behaved and otherwise."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper


def draw(space, rng):
    """A random element of a space, from a generator of one's own."""
    if isinstance(space, spaces.Dict):
        return {key: draw(entry, rng) for key, entry in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return np.int64(space.start + rng.integers(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return (space.start + rng.integers(space.nvec)).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(0, 2, space.shape).astype(space.dtype)
    if space.dtype.kind != "f":
        return rng.integers(space.low, space.high, endpoint=True).astype(space.dtype)
    if not space.is_bounded():
        return rng.normal(size=space.shape).astype(space.dtype)
    return (space.low + rng.random(space.shape) * (space.high - space.low)).astype(space.dtype)


class ToyEnv(ParallelEnv):
    """
    Random observations and rewards (that depend on the actions); lives as scripted.

    :param observation_spaces: agent -> space
    :param action_spaces: agent -> space
    :param ends: agent -> (step, "terminated", "truncated" or "both")
    :param enters: agent -> step after which it is there; 0 for all others
    :param jitter: up to so many steps are added to all ends, at random in every episode
    :param closed_in: folder where close() leaves a file named by the process id
    """

    metadata: ClassVar = {"name": "toy_v0", "render_modes": ["rgb_array"]}

    def __init__(self, observation_spaces, action_spaces, ends, enters=None, jitter=2, closed_in=None, render_mode=None):
        self.possible_agents = list(observation_spaces)
        self._observation_spaces = observation_spaces
        self._action_spaces = action_spaces
        self.ends = ends
        self.enters = enters or {}
        self.jitter = jitter
        self.closed_in = closed_in
        self.render_mode = render_mode
        self.rng = np.random.default_rng(12345)
        self.last_options = None
        self.agents = []

    def observation_space(self, agent):
        return self._observation_spaces[agent]

    def action_space(self, agent):
        return self._action_spaces[agent]

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.last_options = options
        self.time = 0
        self.delay = int(self.rng.integers(self.jitter + 1))
        self.agents = [agent for agent in self.possible_agents if self.enters.get(agent, 0) == 0]
        return self._observe(self.agents), {agent: {"begun": seed} for agent in self.agents[:1]}

    def step(self, actions):
        assert set(actions) == set(self.agents), (actions, self.agents)
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), (agent, action)
        self.time += 1
        acted = self.agents
        terminations = {agent: self._ends(agent, ("terminated", "both")) for agent in acted}
        truncations = {agent: self._ends(agent, ("truncated", "both")) for agent in acted}
        entering = [agent for agent, step in self.enters.items() if step == self.time]
        self.agents = [agent for agent in acted if not (terminations[agent] or truncations[agent])] + entering
        rewards = {agent: self.rng.normal() + float(np.sum(actions[agent])) / 7 for agent in acted}
        infos = {agent: {"time": self.time} for agent in acted if self.time % 2}
        return self._observe(acted + entering), rewards, terminations, truncations, infos

    def _ends(self, agent, kinds):
        step, kind = self.ends[agent]
        return self.time == step + self.delay and kind in kinds

    def _observe(self, agents):
        return {agent: draw(self.observation_space(agent), self.rng) for agent in agents}

    def state(self):
        """Different at any two moments, of a shape of its own; there is no state_space."""
        return (
            np.array([[self.time, self.delay], [len(self.agents), self.rng.bit_generator.state["state"]["state"] % 9973]]) / 3
        )

    def render(self):
        return np.full((2, 3, 3), self.time, np.uint8)

    def scaled(self, factor, offset=0):
        return factor * self.time + offset

    def pid(self):
        return os.getpid()

    def close(self):
        if self.closed_in is not None:
            with open(Path(self.closed_in) / str(os.getpid()), "a") as file:
                file.write("closed\n")


def plain(**options):
    """Two alike agents, in an order that sorting would change; both terminate together."""
    names = ["zebra", "ant"]
    observations = {name: spaces.Box(-1, 1, (3,), np.float32) for name in names}
    actions = {name: spaces.Discrete(4) for name in names}
    return ToyEnv(observations, actions, dict.fromkeys(names, (3, "terminated")), **options)


def truncated(**options):
    """The time limit ends every episode."""
    env = plain(**options)
    env.ends = dict.fromkeys(env.possible_agents, (2, "truncated"))
    return env


def mixed_end(**options):
    """One agent terminates, the other is cut off, at once."""
    env = plain(**options)
    env.ends = {"zebra": (2, "terminated"), "ant": (2, "truncated")}
    return env


def early_death(**options):
    """Agents end one after the other, in different ways."""
    names = ["b", "a", "c"]
    observations = {name: spaces.Box(-np.inf, np.inf, (2,), np.float64) for name in names}
    actions = {name: spaces.Box(-1, 1, (2,), np.float32) for name in names}
    ends = {"b": (1, "truncated"), "a": (4, "both"), "c": (2, "terminated")}
    return ToyEnv(observations, actions, ends, **options)


def late_entry(**options):
    """An agent appears later."""
    names = ["early", "late"]
    observations = {name: spaces.Discrete(5, start=2) for name in names}
    actions = {name: spaces.Discrete(3) for name in names}
    return ToyEnv(observations, actions, {"early": (3, "terminated"), "late": (5, "truncated")}, {"late": 2}, **options)


def unequal(**options):
    """Every kind of space, no two alike."""
    observations = {
        "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
        "small": spaces.Box(-2, 2, (3,), np.float64),
        "index": spaces.Discrete(7, start=3),
        "big": spaces.Box(-(2**62), 2**62, (2,), np.int64),
        "multi": spaces.MultiDiscrete([2, 5, 3], start=[0, 1, 2]),
        "bits": spaces.MultiBinary((2, 2)),
        "dict": spaces.Dict({"x": spaces.Box(-1, 1, (2, 2), np.float32), "n": spaces.Discrete(3)}),
        "empty": spaces.Box(-1, 1, (0,), np.float32),
    }
    actions = {
        "image": spaces.Discrete(3),
        "small": spaces.Discrete(5, start=-2),
        "index": spaces.Box(-1, 1, (2,), np.float32),
        "big": spaces.MultiDiscrete([2, 3]),
        "multi": spaces.MultiBinary(4),
        "bits": spaces.Box(-1, 1, (2, 2), np.float64),
        "dict": spaces.Discrete(2),
        "empty": spaces.Box(0, 9, (1,), np.int32),
    }
    ends = {name: (2 + column % 3, ("terminated", "truncated")[column % 2]) for column, name in enumerate(observations)}
    return ToyEnv(observations, actions, ends, **options)


WELL_BEHAVED = {
    "plain": plain,
    "truncated": truncated,
    "mixed_end": mixed_end,
    "early_death": early_death,
    "late_entry": late_entry,
    "unequal": unequal,
}


class Faulty(ToyEnv):
    """
    ``plain`` with one fault from the second step on, or in reset().

    :param fault: name of the method that commits it
    """

    def __init__(self, fault, **options):
        model = plain(**options)
        super().__init__(
            model._observation_spaces, model._action_spaces, dict.fromkeys(model.possible_agents, (9, "truncated"))
        )
        self.fault = getattr(self, fault)
        self.at_reset = fault.startswith("reset_")
        self.resets = 0

    def reset(self, seed=None, options=None):
        result = super().reset(seed, options)
        self.resets += 1
        return self.fault(result) if self.at_reset else result

    def step(self, actions):
        result = super().step({agent: action for agent, action in actions.items() if agent in self.agents})
        return self.fault(result) if self.time >= 2 and not self.at_reset else result

    def observation_shape(self, result):
        result[0]["ant"] = np.zeros(4, np.float32)
        return result

    def observation_dtype(self, result):
        result[0]["ant"] = np.array(["x", "y", "z"])
        return result

    def observation_bounds(self, result):
        result[0]["ant"][1] = 7.5
        return result

    def observation_nan(self, result):
        result[0]["ant"][2] = np.nan
        return result

    def observation_inf(self, result):
        result[0]["ant"][0] = np.inf
        return result

    def observation_ragged(self, result):
        result[0]["ant"] = [[1.0], [2.0, 3.0], [4.0]]
        return result

    def observation_missing(self, result):
        del result[0]["ant"]
        return result

    def reward_missing(self, result):
        del result[1]["ant"]
        return result

    def reward_nan(self, result):
        result[1]["ant"] = float("nan")
        return result

    def reward_large(self, result):
        result[1]["ant"] = 1e300
        return result

    def reward_huge(self, result):
        result[1]["ant"] = 10**400
        return result

    def reward_array(self, result):
        result[1]["ant"] = np.zeros(1)
        return result

    def reward_text(self, result):
        result[1]["ant"] = "much"
        return result

    def termination_missing(self, result):
        del result[2]["ant"]
        return result

    def termination_of_two(self, result):
        result[2]["ant"] = np.zeros(2, bool)
        return result

    def truncation_missing(self, result):
        del result[3]["ant"]
        return result

    def four_results(self, result):
        return result[:4]

    def infos_list(self, result):
        return *result[:4], ["fine"]

    def info_text(self, result):
        return *result[:4], {"ant": "fine"}

    def agent_unknown(self, result):
        self.agents = [*self.agents, "stranger"]
        return result

    def agent_vanishes(self, result):
        self.agents = ["zebra"]
        return result

    def agent_returns(self, result):
        result[2]["ant"] = self.time == 2
        self.agents = ["zebra"] if self.time == 2 else ["zebra", "ant"]
        return result

    def breaks(self, result):
        raise KeyError("lost")

    def breaks_oddly(self, result):
        raise Unpicklable(1, 2)

    def dies(self, result):
        os._exit(3)

    def reset_nan(self, result):
        result[0]["ant"][0] = np.nan
        return result

    def reset_nobody(self, result):
        self.agents = []
        return result

    def reset_alone(self, result):
        return result[0]

    def reset_changes_agents(self, result):
        if self.resets == 2:
            self.possible_agents = ["ant", "yak"]
        return result


class Unpicklable(Exception):
    """An error that does not survive pickling."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Lingering(ToyEnv):
    """Goes on listing and reporting agents after their end, as many hand-written envs do."""

    def step(self, actions):
        for agent in set(self.agents) - set(actions):
            actions = {**actions, agent: draw(self.action_space(agent), self.rng)}
        everyone = list(self.agents)
        result = super().step(actions)
        alive = [agent for agent in everyone if self.time < self.ends[agent][0] + self.delay]
        self.agents = everyone if alive else []
        return result


class Bare(ParallelEnv):
    """The least that PettingZoo asks for: no render_mode, no metadata; no infos, no final observation."""

    possible_agents: ClassVar = ["only"]

    def observation_space(self, agent):
        return spaces.Box(0, 1, (1,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = ["only"]
        return {"only": np.zeros(1, np.float32)}, {}

    def step(self, actions):
        self.agents = []
        return {}, {"only": 1}, {"only": True}, {"only": False}, {}


class Doubled(BaseParallelWrapper):
    """A PettingZoo wrapper."""

    label = "doubled"


class Saving(ToyEnv):
    """A ToyEnv that can save its state."""

    def snapshot(self):
        state = {"time": self.time, "delay": self.delay, "agents": list(self.agents)}
        return {**state, "rng": self.rng.bit_generator.state}

    def restore(self, snapshot):
        self.time, self.delay, self.agents = snapshot["time"], snapshot["delay"], list(snapshot["agents"])
        self.rng.bit_generator.state = snapshot["rng"]


def saving(name):
    """One of WELL_BEHAVED, able to save its state."""
    model = WELL_BEHAVED[name]()
    return Saving(model._observation_spaces, model._action_spaces, model.ends, model.enters)


class Counting(BaseParallelWrapper):
    """Adds the number of steps ever taken to the rewards: a wrapper with a state of its own."""

    steps = 0

    def step(self, actions):
        self.steps += 1
        observations, rewards, *rest = super().step(actions)
        return observations, {agent: reward + self.steps for agent, reward in rewards.items()}, *rest


class SavingCounting(Counting):
    """The same, able to save its state and that of what it wraps."""

    def snapshot(self):
        return {"steps": self.steps, "env": self.env.snapshot()}

    def restore(self, snapshot):
        self.steps = snapshot["steps"]
        self.env.restore(snapshot["env"])


class Failing(ToyEnv):
    """
    ``plain`` whose episodes last long; fails in the copy that was seeded with a certain number.

    :param seed: of the copy that fails
    :param how: ``"raise"`` in step 3, ``"exit"`` the process in step 3, ``"reset"``: raise in every reset but the first two
    """

    def __init__(self, seed, how):
        model = plain()
        ends = dict.fromkeys(model.possible_agents, (5, "truncated"))
        super().__init__(model._observation_spaces, model._action_spaces, ends, jitter=0)
        self.failing_seed, self.how, self.resets, self.seeded = seed, how, 0, None

    def reset(self, seed=None, options=None):
        self.seeded = self.seeded if seed is None else seed
        self.resets += 1
        if self.how == "reset" and self.resets > 2 and self.seeded == self.failing_seed:
            raise OSError("no more levels")
        return super().reset(seed, options)

    def step(self, actions):
        if self.time == 2 and self.seeded == self.failing_seed:
            if self.how == "exit":
                os._exit(3)
            if self.how == "raise":
                raise KeyError("lost")
        return super().step(actions)


class Spawning(ToyEnv):
    """``plain`` that starts processes of its own."""

    def __init__(self):
        model = plain()
        super().__init__(model._observation_spaces, model._action_spaces, model.ends)

    def exit_code_of_a_terminated_child(self):
        context = multiprocessing.get_context("fork")
        running = context.Event()
        child = context.Process(target=lambda: (running.set(), time.sleep(60)))
        child.start()
        running.wait()  # Python forgets signals that arrive while it forks
        child.terminate()
        child.join()
        return child.exitcode
