"""Checks that every batched world must pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_matrl.envs.core import BatchedCore, CoreParallelEnv


def play(env: CoreParallelEnv, joint_actions: list[list[int]]) -> tuple[float, int]:
    """Play joint actions until they or the agents run out; return the team's return and the number of steps."""
    env.reset()
    total, steps = 0.0, 0
    for row in joint_actions:
        if not env.agents:
            break
        actions = {agent: row[int(agent.removeprefix("agent_"))] for agent in env.agents}
        total += sum(env.step(actions)[1].values())
        steps += 1
    return total, steps


def assert_follows_reference(core: BatchedCore, make_reference: Any, n_steps: int, seed: int, n_actions: int = 5) -> int:
    """
    Play random actions on all copies (resetting those that end) beside one reference per copy; compare everything.

    Return how many episodes were completed.
    """
    rng = np.random.default_rng(seed)
    core.reset()
    references = [make_reference() for _ in range(core.num_envs)]
    n_episodes = 0
    for _ in range(n_steps):
        actions = rng.integers(n_actions, size=core.alive.shape)
        outcome = core.step(actions)
        expected = [reference.step(row.tolist()) for reference, row in zip(references, actions, strict=True)]
        np.testing.assert_allclose(outcome.rewards, [e[0] for e in expected], atol=1e-12)
        np.testing.assert_array_equal(outcome.terminated, [e[1] for e in expected])
        np.testing.assert_array_equal(outcome.truncated, [e[2] for e in expected])
        assert_same_situation(core, references)
        over = ~core.alive.any(axis=1)
        core.reset(over)
        references = [make_reference() if o else r for o, r in zip(over, references, strict=True)]
        assert_same_situation(core, references)
        n_episodes += int(over.sum())
    return n_episodes


def assert_same_situation(core: BatchedCore, references: list[Any]) -> None:
    np.testing.assert_array_equal(core.alive, [reference.alive for reference in references])
    np.testing.assert_array_equal(core.state(), np.array([reference.state() for reference in references], np.float32))
    expected = np.array([reference.observations() for reference in references], np.float32)
    observations = core.observations()
    for agent, name in enumerate(core.possible_agents):
        np.testing.assert_array_equal(observations[name], expected[:, agent])
        assert observations[name].dtype == np.float32
        assert all(core.observation_spaces[name].contains(row) for row in observations[name][:2])


def assert_copies_match_single_envs(env: CoreParallelEnv, n_copies: int, n_steps: int, seed: int) -> None:
    """Step a core of many copies and as many single environments with the same actions; all must agree exactly."""
    rng = np.random.default_rng(seed)
    core = env.make_core(n_copies)
    core.seed(range(seed, seed + n_copies))
    core.reset()
    singles = [CoreParallelEnv(core.replicate(1)) for _ in range(n_copies)]
    for copy, single in enumerate(singles):
        single.reset(seed=seed + copy)
    counts = [int(core.action_spaces[agent].n) for agent in core.possible_agents]
    for _ in range(n_steps):
        actions = rng.integers(counts, size=core.alive.shape)
        outcome, observations, state = core.step(actions), core.observations(), core.state()
        for copy, single in enumerate(singles):
            acted = list(single.agents)
            row = dict(zip(core.possible_agents, actions[copy], strict=True))
            seen, rewards, terminated, truncated, _ = single.step({agent: row[agent] for agent in acted})
            np.testing.assert_array_equal(single.state(), state[copy])
            for agent in acted:
                column = core.possible_agents.index(agent)
                np.testing.assert_array_equal(seen[agent], observations[agent][copy])
                assert rewards[agent] == outcome.rewards[copy, column]
                assert terminated[agent] == outcome.terminated[copy, column]
                assert truncated[agent] == outcome.truncated[copy, column]
            assert set(single.agents) == {a for a, alive in zip(core.possible_agents, core.alive[copy], strict=True) if alive}
            if not single.agents:
                single.reset()
        core.reset(~core.alive.any(axis=1))
