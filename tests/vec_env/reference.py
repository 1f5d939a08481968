"""What a vectorised env must give, from plain Python loops over single envs driven by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tests.vec_env.toys import draw


def random_actions(action_spaces, num_envs, rng):
    """agent -> (num_envs, *action shape)"""
    return {agent: np.stack([draw(space, rng) for _ in range(num_envs)]) for agent, space in action_spaces.items()}


@dataclass
class Outcome:
    """Of one copy and one step; dicts hold only the agents concerned."""

    observations: dict = field(default_factory=dict)
    rewards: dict = field(default_factory=dict)
    terminated: dict = field(default_factory=dict)
    truncated: dict = field(default_factory=dict)
    final: dict = field(default_factory=dict)
    infos: dict = field(default_factory=dict)
    reset_infos: dict = field(default_factory=dict)
    done: bool = False
    final_state: np.ndarray | None = None
    episode: dict | None = None


class ReferenceCopy:
    """
    One env, reset by hand when nobody is left.

    :param with_states: whether the env's state is read
    """

    def __init__(self, env, with_states=False):
        self.env = env
        self.with_states = with_states

    def state(self):
        return np.asarray(self.env.state()).astype(np.float32).flatten()

    def acting(self):
        """Who chooses the next action: all, unless the env says otherwise."""
        return [agent for agent in self.env.agents if agent in getattr(self.env, "acting_agents", self.env.agents)]

    def reset(self, seed):
        observations, infos = self.env.reset(seed=seed)
        self.returns = dict.fromkeys(self.env.possible_agents, 0.0)
        self.length = 0
        live = list(self.env.agents)
        return {agent: observations[agent] for agent in live}, {agent: info for agent, info in infos.items() if info}

    def step(self, actions):
        acted = list(self.env.agents)
        joint_action = {agent: actions[agent] for agent in self.acting()}
        observations, rewards, terminated, truncated, infos = self.env.step(joint_action)
        out = Outcome(
            rewards={agent: float(rewards[agent]) for agent in acted},
            terminated={agent: bool(terminated[agent]) for agent in acted},
            truncated={agent: bool(truncated[agent]) for agent in acted},
            infos={agent: info for agent, info in infos.items() if info},
        )
        out.final = {agent: observations[agent] for agent in acted if terminated[agent] or truncated[agent]}
        self.length += 1
        for agent in acted:
            self.returns[agent] += float(rewards[agent])
        if self.env.agents:
            out.observations = {agent: observations[agent] for agent in self.env.agents}
            return out
        out.done = True
        out.final_state = self.state() if self.with_states else None
        out.episode = {"r": sum(self.returns.values()), "l": self.length, "agents": dict(self.returns)}
        out.observations, out.reset_infos = self.reset(None)
        return out


def assert_rows(agents, batched, rows, spaces):
    """``batched`` holds exactly ``rows`` (one dict per copy), with zeros for the agents that a row lacks."""
    assert list(batched) == agents
    for agent in agents:
        entries = [(batched[agent][key], key) for key in spaces[agent].spaces] if isinstance(batched[agent], dict) else None
        for array, key in entries or [(batched[agent], None)]:
            space = spaces[agent] if key is None else spaces[agent][key]
            assert array.dtype == space.dtype and array.shape == (len(rows), *space.shape)
            for copy, row in enumerate(rows):
                expected = 0 if agent not in row else row[agent] if key is None else row[agent][key]
                np.testing.assert_array_equal(array[copy], expected)


def grid(agents, outcomes, name):
    """(num_envs, n_agents) of a per-agent entry; False or 0 where an agent has none."""
    return np.array([[getattr(outcome, name).get(agent, 0) for agent in agents] for outcome in outcomes])


def assert_same_as_reference(venv, factory, seeds, n_steps, act=random_actions):
    """
    Play ``n_steps`` joint steps in ``venv`` and in the reference; everything must agree exactly.

    :param act: (action spaces, number of copies, random generator) -> joint action
    :return: how many episodes ended, and how often an agent was out while others went on
    """
    agents, spaces = venv.agents, venv.observation_spaces
    copies = [ReferenceCopy(factory(), venv.with_states) for _ in seeds]
    starts = [copy.reset(seed) for copy, seed in zip(copies, seeds, strict=True)]
    assert_rows(agents, venv.reset(), [start[0] for start in starts], spaces)
    assert [info.get("agents", {}) for info in venv.reset_infos] == [start[1] for start in starts]
    live = [start[0] for start in starts]
    assert_states(venv, copies)
    rng = np.random.default_rng(0)
    finished = out = 0
    for _ in range(n_steps):
        np.testing.assert_array_equal(venv.alive, [[agent in row for agent in agents] for row in live])
        np.testing.assert_array_equal(venv.acting, [[agent in copy.acting() for agent in agents] for copy in copies])
        actions = act(venv.action_spaces, len(seeds), rng)
        outcomes = [copy.step({a: actions[a][k] for a in agents}) for k, copy in enumerate(copies)]
        live = [outcome.observations for outcome in outcomes]
        assert_same_step(venv, venv.step(actions), outcomes)
        assert_states(venv, copies)
        assert_final_states(venv.last_step.final_states, outcomes)
        finished += sum(outcome.done for outcome in outcomes)
        out += int((~venv.alive).sum())
    return finished, out


def assert_states(venv, copies):
    """The states of all copies, if they were asked for, are those of the envs driven by hand."""
    if venv.with_states:
        assert venv.states.dtype == np.float32
        np.testing.assert_array_equal(venv.states, [copy.state() for copy in copies])


def assert_final_states(final_states, outcomes):
    if all(outcome.final_state is None for outcome in outcomes):
        assert final_states is None
        return
    assert final_states.dtype == np.float32
    nothing = np.zeros_like(final_states[0])
    expected = [nothing if outcome.final_state is None else outcome.final_state for outcome in outcomes]
    np.testing.assert_array_equal(final_states, expected)


def assert_same_step(venv, result, outcomes):
    agents, spaces, step = venv.agents, venv.observation_spaces, venv.last_step
    observations, rewards, dones, infos = result
    assert observations is step.observations and rewards is step.rewards and dones is step.dones and infos is step.infos
    assert_rows(agents, observations, [outcome.observations for outcome in outcomes], spaces)
    assert rewards.dtype == np.float32 and dones.dtype == bool and dones.shape == (len(outcomes),)
    assert step.terminated.dtype == step.truncated.dtype == step.alive.dtype == bool
    assert (step.states is venv.states) if venv.with_states else step.states is None
    assert step.acting is venv.acting and step.acting.dtype == bool and step.action_masks is venv.action_masks
    np.testing.assert_array_equal(rewards, grid(agents, outcomes, "rewards").astype(np.float32))
    np.testing.assert_array_equal(step.terminated, grid(agents, outcomes, "terminated"))
    np.testing.assert_array_equal(step.truncated, grid(agents, outcomes, "truncated"))
    np.testing.assert_array_equal(dones, [outcome.done for outcome in outcomes])
    if any(outcome.final for outcome in outcomes):
        assert_rows(agents, step.final_observations, [outcome.final for outcome in outcomes], spaces)
    else:
        assert step.final_observations is None
    for info, outcome, reset_info in zip(infos, outcomes, venv.reset_infos, strict=True):
        assert_same_info(venv, info, outcome)
        if outcome.done:
            assert reset_info.get("agents", {}) == outcome.reset_infos


def assert_same_info(venv, info, outcome):
    assert info.get("agents", {}) == outcome.infos
    assert outcome.done == ("episode" in info) == ("terminal_observation" in info) == ("TimeLimit.truncated" in info)
    if not outcome.done:
        return
    episode = info["episode"]
    assert episode["l"] == outcome.episode["l"] and episode["t"] >= 0
    np.testing.assert_allclose(episode["r"], outcome.episode["r"], rtol=1e-12, atol=1e-12)
    assert list(episode["agents"]) == venv.agents
    assert episode["agents"] == outcome.episode["agents"]
    batch_of_one = {agent: _with_batch_axis(value) for agent, value in info["terminal_observation"].items()}
    assert_rows(venv.agents, batch_of_one, [outcome.final], venv.observation_spaces)
    cut_off = any(outcome.truncated[a] and not outcome.terminated[a] for a in outcome.truncated)
    assert info["TimeLimit.truncated"] is cut_off


def _with_batch_axis(value):
    return (
        {key: np.asarray(entry)[None] for key, entry in value.items()} if isinstance(value, dict) else np.asarray(value)[None]
    )
