"""States of central critics in a rollout, and the advantages that they lead to, against slow loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import nn

from sb3_matrl.common.agents import Position, SpacesVecEnv, Team
from sb3_matrl.common.normalize import Normalizer, NormalizerConfig
from sb3_matrl.on_policy.buffers import install_masked_buffer
from sb3_matrl.on_policy.central_policies import with_central_critic
from sb3_matrl.on_policy.critic_states import CriticStates, StateSource
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.on_policy.rollout import RolloutCollector
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env
from tests.on_policy.test_rollout import GAMMA, LAMBDA, late_entry
from tests.stacked.backends import require_kernel
from tests.vec_env import toys

N_ENVS, N_STEPS = 3, 7


def alike(**options: Any) -> Any:
    """Three agents with like spaces: one is truncated early, one terminates in the same step or later, one stays."""
    names = ["zoe", "ann", "moe"]
    ends = {"zoe": (2, "truncated"), "ann": (3, "terminated"), "moe": (4, "truncated")}
    observations = {name: spaces.Box(-1, 1, (3,), np.float32) for name in names}
    return toys.ToyEnv(observations, dict.fromkeys(names, spaces.Discrete(3)), ends, **options)


def same_moment(**options: Any) -> Any:
    """The first agent is cut off in the step in which the second one terminates, and the third one goes on for a step."""
    env = alike(jitter=0, **options)
    env.ends = {"zoe": (2, "truncated"), "ann": (2, "terminated"), "moe": (3, "both")}
    return env


WORLDS: dict[str, Any] = {
    "plain": toys.plain,
    "truncated": toys.truncated,
    "mixed_end": toys.mixed_end,
    "early_death": toys.early_death,
    "late_entry": late_entry,
    "alike": alike,
    "same_moment": same_moment,
}


def make(world: str, source: str) -> tuple[JointVecEnv, StateSource]:
    env = make_joint_vec_env(WORLDS[world], N_ENVS, seed=1, states=source == "env")
    state_space = env.state_space if source == "env" else None
    return env, StateSource.of(state_space, env.observation_spaces, env.action_spaces)


def build(env: JointVecEnv, source: StateSource, members: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """One PPO with a central critic per learner; the same networks at every call, with biases that are not 0."""
    th.manual_seed(0)
    learners = {}
    for name, agents in members.items():
        space, action_space = env.observation_spaces[agents[0]], env.action_spaces[agents[0]]
        own = SpacesVecEnv(env.num_envs * len(agents), space, action_space)
        arguments = {"n_steps": N_STEPS, "batch_size": 7, "gamma": GAMMA, "gae_lambda": LAMBDA, "device": "cpu"}
        arguments["policy_kwargs"] = {"net_arch": [8], "state_size": source.size(len(agents))}
        policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
        learners[name] = build_learner(PPO, with_central_critic(PPO, policy), own, arguments, None)
        install_masked_buffer(learners[name])
        with th.no_grad():
            for parameter in learners[name].policy.parameters():
                parameter.add_(0.1 * th.randn_like(parameter))
            if source.joint is None:  # states of toys have large numbers, with which units would be saturated
                learners[name].policy.mlp_extractor.value_net[0].weight.mul_(1e-3)
    return learners


class Diary:
    """What the environment told before and after every step."""

    def __init__(self, env: JointVecEnv) -> None:
        self.env = env
        self.alive, self.states, self.steps = [env.alive.copy()], [self._states()], []  # type: ignore[var-annotated]
        self.observations: list[Any] = []

    def _states(self) -> np.ndarray | None:
        return self.env.states.copy() if self.env.with_states else None

    def __call__(self, seen: dict[str, Any]) -> bool:
        assert self.env.last_step is not None
        self.steps.append(self.env.last_step)
        self.alive.append(self.env.alive.copy())
        self.states.append(self._states())
        self.observations.append(self.env.last_step.observations)
        return True


def flat(space: spaces.Space[Any], value: Any) -> np.ndarray:
    """One observation as numbers."""
    return np.asarray(spaces.flatten(space, value), dtype=np.float32)


def joined(env: JointVecEnv, parts: dict[str, Any]) -> np.ndarray:
    """Observations of one copy, agent -> observation or ``None`` for zeros, as one vector."""
    vectors = []
    for agent in env.agents:
        space = env.observation_spaces[agent]
        size = spaces.flatdim(space)
        vectors.append(np.zeros(size, np.float32) if parts[agent] is None else flat(space, parts[agent]))
    return np.concatenate(vectors)


def row(observation: Any, copy: int) -> Any:
    return {key: value[copy] for key, value in observation.items()} if isinstance(observation, dict) else observation[copy]


def state_before(diary: Diary, t: int, copy: int) -> np.ndarray:
    """What critics should see in a copy when step ``t`` is chosen."""
    if diary.states[t] is not None:
        return np.asarray(diary.states[t][copy])  # type: ignore[index]
    env, alive = diary.env, diary.alive[t][copy]
    return joined(env, {a: row(diary.observations[t][a], copy) if alive[i] else None for i, a in enumerate(env.agents)})


def final_state(diary: Diary, t: int, copy: int) -> np.ndarray:
    """What critics should see in a copy after step ``t``, before a reset."""
    env, step = diary.env, diary.steps[t]
    if env.with_states:
        return np.asarray((step.final_states if step.dones[copy] else diary.states[t + 1])[copy])  # type: ignore[index]
    parts: dict[str, Any] = {}
    for i, agent in enumerate(env.agents):
        if step.truncated[copy, i] and not step.terminated[copy, i]:
            parts[agent] = row(step.final_observations[agent], copy)
        elif step.terminated[copy, i] or step.dones[copy] or not step.alive[copy, i]:
            parts[agent] = None
        else:
            parts[agent] = row(step.observations[agent], copy)
    return joined(env, parts)


def value(learner: Any, state: np.ndarray, member: int, n_members: int) -> float:
    which = np.eye(n_members, dtype=np.float32)[member] if n_members > 1 else np.zeros(0, np.float32)
    critic = nn.Sequential(*learner.policy.mlp_extractor.value_net, learner.policy.value_net)
    with th.no_grad():
        return float(critic(th.as_tensor(np.concatenate([state, which]))[None]))


def slow_advantages(
    diary: Diary, learner: Any, members: tuple[str, ...], member: int, copy: int
) -> dict[int, tuple[float, float]]:
    """Step -> (advantage, value) of one agent in one copy, as discounted sums of TD errors."""
    column, n_steps = diary.env.agents.index(members[member]), len(diary.steps)

    def of(state: np.ndarray) -> float:
        return value(learner, state, member, len(members))

    episodes: list[list[tuple[int, float, float]]] = [[]]
    for t, step in enumerate(diary.steps):
        if not diary.alive[t][copy, column]:
            continue
        now, following = of(state_before(diary, t, copy)), 0.0
        ended = step.terminated[copy, column] or step.truncated[copy, column]
        if not step.terminated[copy, column]:
            following = of(final_state(diary, t, copy) if ended else state_before(diary, t + 1, copy))
        episodes[-1].append((t, step.rewards[copy, column] + GAMMA * following - now, now))
        if ended or t == n_steps - 1:
            episodes.append([])
    return {
        t: (sum((GAMMA * LAMBDA) ** later * error for later, (_, error, _) in enumerate(episode[k:])), now)
        for episode in episodes
        for k, (t, _, now) in enumerate(episode)
    }


def check(world: str, source: str, backend: str, members: dict[str, tuple[str, ...]] | None = None) -> None:
    """Compare two rollouts, the second of which begins in the middle of episodes, with the slow loops."""
    env, states = make(world, source)
    members = members or {agent: (agent,) for agent in env.agents}
    learners = build(env, states, members)
    team, joint = Team(list(env.agents), learners, members), JointUpdates(learners, backend)
    position = Position(env.reset(), np.ones_like(env.alive))
    for _ in range(2):
        diary = Diary(env)
        diary.observations.append(position.observations)
        position, complete = RolloutCollector(env, team, joint, states).collect(position, N_STEPS, diary)
        assert complete and position.states is None
        for name, learner in learners.items():
            buffer, agents = learner.rollout_buffer, members[name]
            for member in range(len(agents)):
                for copy in range(N_ENVS):
                    column = member * N_ENVS + copy
                    expected = slow_advantages(diary, learner, agents, member, copy)
                    acted = sorted(expected)
                    assert np.flatnonzero(buffer.mask[:, column]).tolist() == acted
                    found = np.stack([buffer.advantages[acted, column], buffer.values[acted, column]], axis=1)
                    np.testing.assert_allclose(
                        found, np.array([expected[t] for t in acted]).reshape(-1, 2), rtol=1e-4, atol=1e-5
                    )
                    for t in acted:
                        size = len(state_before(diary, t, copy))
                        np.testing.assert_array_equal(buffer.states[t, column, :size], state_before(diary, t, copy))


@pytest.mark.parametrize("source", ["env", "observations"])
@pytest.mark.parametrize("world", WORLDS)
def test_advantages_equal_the_slow_estimate(world: str, source: str) -> None:
    check(world, source, "sb3")


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("source", ["env", "observations"])
@pytest.mark.parametrize("world", ["alike", "same_moment", "late_entry"])
def test_stacks_act_and_bootstrap_alike(world: str, source: str, backend: str) -> None:
    require_kernel(backend)
    check(world, source, backend)


@pytest.mark.parametrize("backend", ["sb3", "torch"])
def test_critics_of_a_group_see_which_agent_they_value(backend: str) -> None:
    check("alike", "observations", backend, {"group": ("zoe", "moe"), "ann": ("ann",)})
    check("same_moment", "env", backend, {"group": ("zoe", "moe"), "ann": ("ann",)})


def test_states_follow_the_models_order_of_agents() -> None:
    env, source = make("late_entry", "observations")
    observations = env.reset()
    reordered = StateSource.of(None, dict(reversed(env.observation_spaces.items())), env.action_spaces)
    team, position = Team(list(env.agents), {}, {}), Position(observations, np.ones_like(env.alive))
    one, other = (CriticStates(each, env, team).now(position) for each in (source, reordered))
    blocks = np.split(one, [2, 4], axis=1)
    np.testing.assert_array_equal(other, np.concatenate(blocks[::-1], axis=1))
    assert not np.array_equal(one, other)


def test_observations_are_seen_as_the_policies_see_them() -> None:
    env, source = make("plain", "observations")
    position = Position(env.reset(), np.ones_like(env.alive))
    normalizer = Normalizer(NormalizerConfig(norm_obs=True), env.observation_spaces["ant"], N_ENVS)
    normalizer.observe(position.observations["ant"], np.ones(N_ENVS, dtype=bool))
    team = Team(list(env.agents), {}, {"ant": ("ant",), "zebra": ("zebra",)}, {"ant": normalizer})
    states = CriticStates(source, env, team)
    seen = states.now(position)
    np.testing.assert_array_equal(seen[:, :3], position.observations["zebra"])
    np.testing.assert_array_equal(seen[:, 3:], normalizer.normalize(position.observations["ant"]))
    np.testing.assert_array_equal(states.rows("ant", seen), seen)  # normalised already


def test_states_of_the_env_are_normalised_by_their_own_statistics() -> None:
    env, source = make("plain", "env")
    position = Position(env.reset(), np.ones_like(env.alive))
    size = source.env_size
    normalizer = Normalizer(NormalizerConfig(norm_obs=True), env.observation_spaces["ant"], N_ENVS, size)
    team = Team(list(env.agents), {}, {"ant": ("ant",), "zebra": ("zebra",)}, {"ant": normalizer})
    states = CriticStates(source, env, team)
    team.observe({**position.observations}, env.alive, states.of_env)
    raw, assert_close = states.now(position), np.testing.assert_allclose
    # RunningMeanStd starts from mean 0 and variance 1 with a weight of 1e-4 rows.
    mean, variance = raw.mean(axis=0), raw.var(axis=0)
    expected = np.clip((raw - mean) / np.sqrt(variance + 1e-8), -10, 10)
    assert_close(states.rows("ant", raw), expected, atol=0.02)
    np.testing.assert_array_equal(states.rows("zebra", raw), raw)
    again = Normalizer(NormalizerConfig(norm_obs=True), env.observation_spaces["ant"], N_ENVS, size)
    again.restore(normalizer.state())
    np.testing.assert_array_equal(again.normalize_states(raw), normalizer.normalize_states(raw))
