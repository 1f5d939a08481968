"""What goes wrong with environments of all kinds: the message says what happened and what to do."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import supersuit
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_matrl import MATRL
from sb3_matrl.evaluation import RandomPolicy, evaluate_policy, play_episodes
from sb3_matrl.vec_env import EnvError, make_joint_vec_env
from tests.vec_env import toys
from tests.vec_env.kinds import EVERY_KIND
from tests.vec_env.test_supersuit_traps import PassThrough


class Parallel(ParallelEnv):
    """Two agents; ``fault`` says what the env does wrong."""

    metadata = {"name": "parallel_v0"}  # noqa: RUF012
    possible_agents = ("a", "b")
    render_mode = None

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(-1, 1, (2,), np.float32)

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if self.fault != "never sets agents":
            self.agents = list(self.possible_agents)
        return {agent: np.zeros(2, np.float32) for agent in self.possible_agents}, {}

    def step(self, actions: Any) -> Any:
        seen = {agent: np.zeros(2, np.float32) for agent in self.possible_agents}
        rewards, never = dict.fromkeys(seen, 0.0), dict.fromkeys(seen, False)
        if self.fault == "deletes agents":
            del self.agents
        if self.fault == "truncated without observation":
            self.agents = ["b"]
            return {"b": seen["b"]}, rewards, never, {"a": True, "b": False}, {}
        return seen, rewards, never, never, {}


MESSAGES = {
    "never sets agents": "the env has no attribute agents; set self.agents to the list of live agents in reset",
    "deletes agents": "the env has no attribute agents",
    "truncated without observation": "agent 'a': no final observation, though it was truncated; return its last observation",
}


@EVERY_KIND
@pytest.mark.parametrize("fault", MESSAGES)
def test_faults_of_parallel_envs(fault: str, kind: str) -> None:
    env = make_joint_vec_env(partial(Parallel, fault), 2, kind, num_cpus=1)
    with pytest.raises(EnvError, match=f"env copy 0, {MESSAGES[fault]}"):
        env.reset()
        env.step(dict.fromkeys("ab", np.zeros(2, int)))


class Sequential(AECEnv):
    """The first player ends in its second turn; ``fault`` says what the env does wrong then."""

    metadata = {"name": "sequential_v0"}  # noqa: RUF012
    render_mode = None

    def __init__(self, fault: str) -> None:
        self.possible_agents, self.fault = ["x", "y"], fault

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(-1, 1, (2,), np.float32)

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(2)

    def observe(self, agent: str) -> np.ndarray:
        return np.zeros(2, np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents, self.t = list(self.possible_agents), 0
        if self.fault != "selects nobody":
            self.agent_selection = "x"
        self.rewards, self._cumulative_rewards = dict.fromkeys(self.agents, 0.0), dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}

    def step(self, action: Any) -> None:
        if self.terminations[self.agent_selection]:
            if self.fault == "selects a removed agent":
                self._was_dead_step(action)
                self.agent_selection = "x"
            elif self.fault == "keeps the flags of a removed agent":
                self.agents = ["y"]
            return  # "lists an ended agent" stays as it is
        self.t += 1
        self.terminations["x"] = self.t >= 3
        self.agent_selection = "x" if self.t >= 3 or self.agent_selection == "y" else "y"


SELECTED = (
    r"env.agent_selection is 'x', which is not in env.agents \['y'\]; at the end of reset\(\) and step\(\), select a listed"
)
TURNS = {
    "selects a removed agent": SELECTED,
    "keeps the flags of a removed agent": SELECTED,
    "lists an ended agent": r"agent 'x' is still in env.agents after its end and step\(None\); remove it there",
    "selects nobody": r"env.agent_selection is None, which is not in env.agents \['x', 'y'\]",
}


@EVERY_KIND
@pytest.mark.parametrize("fault", TURNS)
def test_faults_of_turn_based_envs(fault: str, kind: str) -> None:
    env = make_joint_vec_env(partial(Sequential, fault), 2, kind, num_cpus=1)
    with pytest.raises(EnvError, match=rf"env copy 0.*{TURNS[fault]}"):
        env.reset()
        for _ in range(5):
            env.step(dict.fromkeys("xy", np.zeros(2, int)))


def test_playing_names_the_same_faults() -> None:
    env = Parallel("never sets agents")
    policy = RandomPolicy(*({a: kind(a) for a in "ab"} for kind in (env.observation_space, env.action_space)))
    with pytest.raises(ValueError, match=MESSAGES["never sets agents"]):
        play_episodes(policy, env)


def supersuit_vec_env(base_class: str | None) -> Any:
    env = supersuit.pettingzoo_env_to_vec_env_v1(Parallel("none"))
    return env if base_class is None else supersuit.concat_vec_envs_v1(env, 2, num_cpus=1, base_class=base_class)


VECTORS = {
    "markov": partial(supersuit_vec_env, None),
    "gymnasium": partial(supersuit_vec_env, "gymnasium"),
    "stable_baselines3": partial(supersuit_vec_env, "stable_baselines3"),
    "monitored": lambda: VecMonitor(supersuit_vec_env("stable_baselines3")),
    "single agent": lambda: DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]),
    "single agent, normalised": lambda: VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("given", ["object", "factory"])
def test_vector_envs_are_refused_with_what_to_pass_instead(name: str, given: str) -> None:
    env = VECTORS[name] if given == "factory" else VECTORS[name]()
    for make in (make_joint_vec_env, partial(MATRL, "MlpPolicy")):
        with pytest.raises(
            TypeError, match=r"needs a PettingZoo ParallelEnv, but the \w+ given is a vector environment .* pass the Par"
        ):
            make(env)


def test_wrappers_around_a_joint_vec_env_are_refused_by_models_as_before() -> None:
    with pytest.raises(ValueError, match=r"takes no SB3 wrapper \(PassThrough\) around a JointVecEnv"):
        MATRL("MlpPolicy", PassThrough(make_joint_vec_env(toys.plain)))
    with pytest.raises(TypeError, match=r"VecMonitor are for one agent.*a JointVecEnv records episodes itself"):
        VecMonitor(make_joint_vec_env(toys.plain))
    with pytest.raises(ValueError, match="evaluate_policy needs a JointVecEnv, got a DummyVecEnv"):
        evaluate_policy(RandomPolicy({}, {}), VECTORS["single agent"]())
