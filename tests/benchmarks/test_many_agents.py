"""The world of many agents, against its rules written out for one copy."""

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

from benchmarks.many_agents import NUMBERS, ManyAgentsCore, parallel_env
from sb3_matrl.vec_env import make_joint_vec_env


def play_by_hand(codes, actions):
    """Rewards and next codes of one step, agent by agent."""
    hits = [int(action == code % 5) for code, action in zip(codes, actions, strict=True)]
    rewards = [(hit + sum(hits) / len(hits)) / 2 for hit in hits]
    following = [(5 * code + action + 7 * i + 3) % 64 for i, (code, action) in enumerate(zip(codes, actions, strict=True))]
    return rewards, following


@pytest.mark.parametrize("n_agents", [1, 3, 64])
def test_steps_follow_the_rules(n_agents):
    rng, core = np.random.default_rng(0), ManyAgentsCore(2, n_agents, max_cycles=4)
    core.seed([5, 6])
    core.reset()
    codes = [np.random.default_rng(seed).integers(64, size=n_agents).tolist() for seed in (5, 6)]
    for step in range(4):
        for i, agent in enumerate(core.possible_agents):
            np.testing.assert_array_equal(core.observations()[agent], NUMBERS[[codes[0][i], codes[1][i]]])
        actions = rng.integers(5, size=(2, n_agents))
        outcome = core.step(actions)
        for copy in range(2):
            rewards, codes[copy] = play_by_hand(codes[copy], actions[copy].tolist())
            np.testing.assert_allclose(outcome.rewards[copy], rewards)
        assert (outcome.terminated == (step == 3)).all() and not outcome.truncated.any()
    assert not core.alive.any()


def test_it_is_a_pettingzoo_environment():
    parallel_api_test(parallel_env(n_agents=3, max_cycles=5), num_cycles=30)


def test_core_and_copies_give_the_same_trajectories():
    options = {"n_envs": 3, "seed": 1, "env_kwargs": {"n_agents": 3, "max_cycles": 4}}
    envs = [make_joint_vec_env(parallel_env, vec_env=kind, **options) for kind in ("batched", "dummy")]
    rng = np.random.default_rng(0)
    seen = [env.reset() for env in envs]
    for _ in range(11):
        for agent in seen[0]:
            np.testing.assert_array_equal(seen[0][agent], seen[1][agent])
        actions = {agent: rng.integers(5, size=3) for agent in seen[0]}
        steps = [env.step(actions) for env in envs]
        seen = [step[0] for step in steps]
        np.testing.assert_array_equal(steps[0][1], steps[1][1])
        np.testing.assert_array_equal(steps[0][2], steps[1][2])
    for env in envs:
        env.close()


def test_snapshot_continues_the_episode():
    core, other = ManyAgentsCore(2, 3, max_cycles=4), ManyAgentsCore(2, 3, max_cycles=4)
    core.seed([1, 2])
    core.reset()
    core.step(np.zeros((2, 3), dtype=int))
    other.restore(core.snapshot())
    for _ in range(2):
        core.reset(np.array([True, False]))
        other.reset(np.array([True, False]))
        rewards = [one.step(np.ones((2, 3), dtype=int)).rewards for one in (core, other)]
        np.testing.assert_array_equal(*rewards)
        np.testing.assert_array_equal(core.state(), other.state())


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="n_agents must be an integer of at least 1"):
        parallel_env(n_agents=0)
    with pytest.raises(ValueError, match="max_cycles must be an integer of at least 1"):
        parallel_env(max_cycles=0)
