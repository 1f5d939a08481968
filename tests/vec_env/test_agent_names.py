"""Names of agents that are no strings: kept as they are for the env and the user, text everywhere else."""

from __future__ import annotations

import enum
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv
from sb3_contrib import MaskablePPO, RecurrentPPO

from sb3_matrl import MATRL
from sb3_matrl.evaluation import MixedPolicy, MultiAgentEvalCallback, Player, RandomPolicy, evaluate_policy, play_episodes
from sb3_matrl.utils.agent_names import AgentDict, agent_name
from sb3_matrl.vec_env import EnvDataError, make_joint_vec_env
from tests.vec_env.kinds import EVERY_KIND


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


NAMES: dict[str, Any] = {
    "integers": [0, 1],
    "descending integers": [7, 3],
    "array of integers": np.arange(2),
    "array of strings": np.array(["zebra", "ant"]),
    "tuples": [("scout", 0), ("scout", 1)],
    "tuples of NumPy values": [(np.str_("scout"), np.int64(0)), (np.str_("scout"), np.int64(1))],
    "enum": list(Colour),
    "mixed": ("leader", 0),
}
KINDS = pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)


class Race(ParallelEnv):
    """Two agents with spaces of their own move on; each observes its own position. The first one ends earlier."""

    metadata = {"name": "race_v0"}  # noqa: RUF012
    render_mode = None

    def __init__(self, names: Any = ("one", "two")) -> None:
        self.possible_agents = names
        self.places = dict(zip(names, range(2), strict=True))

    def observation_space(self, agent: Any) -> spaces.Box:
        return spaces.Box(-9, 99, (1 + self.places[agent],), np.float32)

    def action_space(self, agent: Any) -> spaces.Discrete:
        return spaces.Discrete(2 + self.places[agent])

    def look(self) -> dict[Any, np.ndarray]:
        return {agent: np.full(1 + self.places[agent], self.at[agent], np.float32) for agent in self.agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t = list(self.places), 0
        self.at = {agent: 0.0 for agent in self.agents}
        return self.look(), {agent: {"place": self.places[agent]} for agent in self.agents}

    def step(self, actions: dict[Any, Any]) -> Any:
        assert {type(agent) for agent in actions} <= {type(agent) for agent in self.places}
        assert set(actions) == set(self.agents)
        self.t += 1
        for agent, action in actions.items():
            self.at[agent] += int(action)
        seen, rewards = self.look(), {agent: self.at[agent] for agent in self.agents}
        ends = {agent: self.t >= 3 + 2 * self.places[agent] for agent in self.agents}
        infos = {agent: {"t": self.t} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not ends[agent]]
        return seen, rewards, ends, dict.fromkeys(ends, False), infos


class Twins(Race):
    """Both agents have the same spaces."""

    def observation_space(self, agent: Any) -> spaces.Box:
        return spaces.Box(-9, 99, (1,), np.float32)

    def action_space(self, agent: Any) -> spaces.Discrete:
        return spaces.Discrete(2)

    def look(self) -> dict[Any, np.ndarray]:
        return {agent: np.full(1, self.at[agent], np.float32) for agent in self.agents}


@pytest.mark.cases(
    quick=[
        "dummy-integers",
        "dummy-descending integers",
        "dummy-array of integers",
        "dummy-array of strings",
        "dummy-tuples",
        "dummy-tuples of NumPy values",
        "dummy-enum",
        "dummy-mixed",
        "subproc-array of strings",
        "subproc-tuples",
        "subproc-enum",
        "subproc-mixed",
    ],
    expensive=[
        "subproc-integers",
        "subproc-descending integers",
        "subproc-array of integers",
        "subproc-tuples of NumPy values",
    ],
)
@KINDS
@EVERY_KIND
def test_names_do_not_change_what_is_seen(names: Any, kind: str) -> None:
    texts = [agent_name(name) for name in names]
    with closing(make_joint_vec_env(partial(Race, names), 2, kind, num_cpus=1)) as env:
        plain = make_joint_vec_env(Race, 2, "dummy")
        assert env.agents == texts and all(type(agent) is str for agent in env.agents)
        seen, expected = env.reset(), plain.reset()
        assert env.reset_infos[0]["agents"][names[1]] == {"place": 1}
        for step in range(12):
            for name, agent in zip(names, plain.agents, strict=True):
                np.testing.assert_array_equal(seen[name], expected[agent])
                np.testing.assert_array_equal(seen[agent_name(name)], expected[agent])
                assert env.observation_spaces[name] == plain.observation_spaces[agent]
            actions = [np.array([step % 2, 1]), np.array([step % 3, 2])]
            seen, rewards, _, _ = env.step(dict(zip(names if step % 2 else texts, actions, strict=True)))
            expected, plain_rewards, _, _ = plain.step(dict(zip(plain.agents, actions, strict=True)))
            np.testing.assert_array_equal(rewards, plain_rewards)


@pytest.mark.cases(quick=["mixed"])
@KINDS
def test_a_model_acts_under_the_env_s_own_names_also_after_loading(names: Any, tmp_path: Any) -> None:
    env, plain = Race(names), Race()
    rates = dict(zip(names, (1e-3, 1e-4), strict=True))
    small = {"n_envs": 2, "n_steps": 8, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
    model = MATRL("MlpPolicy", partial(Race, names), learning_rate=rates, **small).learn(32)
    reference = MATRL("MlpPolicy", Race, learning_rate={"one": 1e-3, "two": 1e-4}, **small).learn(32)
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=partial(Race, names)).learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 48
    for one in (model, MATRL.load(tmp_path / "model")):
        actions, _ = one.predict(env.reset()[0], deterministic=True)
        expected, _ = reference.predict(plain.reset()[0], deterministic=True)
        assert list(actions) == list(names) and [type(name) for name in actions] == [type(name) for name in names]
        assert list(actions.values()) == list(expected.values())
        env.step(actions)
        assert one.agents[names[0]].learning_rate == 1e-3
    results = play_episodes(model, env, 2, deterministic=True), evaluate_policy(model, partial(Race, names), 2, True, seed=0)
    assert [result.agents for result in results] == [tuple(map(agent_name, names))] * 2
    np.testing.assert_array_equal(results[0].agent_returns, results[1].agent_returns)


@pytest.mark.cases(quick=["array of strings", "tuples", "enum", "mixed"], rest="expensive")
@KINDS
def test_groups_frozen_agents_and_other_policies_are_named_in_either_way(names: Any) -> None:
    small = {"n_envs": 2, "n_steps": 8, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
    team = MATRL("MlpPolicy", partial(Twins, names), share={"team": names}, **small).learn(16)
    assert team.agents[names[0]] is team.agents[agent_name(names[1])]
    duel = MATRL("MlpPolicy", partial(Twins, names), frozen={names[0]: (team, names[1])}, **small).learn(16)
    assert list(duel.learners) == [agent_name(names[1])]
    env = Twins(names)
    scripted = RandomPolicy(
        {name: env.observation_space(name) for name in names}, {name: env.action_space(name) for name in names}
    )
    mixed = MixedPolicy({names[0]: Player(duel, names[1]), names[1]: Player(scripted, names[0])})
    assert play_episodes(mixed, env).lengths.tolist() == [5]
    assert evaluate_policy(mixed, partial(Twins, names)).n_episodes == 10


def test_a_policy_of_the_user_reads_observations_by_its_own_names() -> None:
    class Script:
        def predict(self, observation: Any, *_: Any, **__: Any) -> Any:
            return {0: np.ones_like(observation[0][..., 0], int), 1: np.zeros_like(observation[1][..., 0], int)}, None

    result = evaluate_policy(Script(), partial(Race, [0, 1]), 1)
    assert result.agent_means == {"0": 6.0, "1": 0.0}


def test_names_of_later_episodes_are_checked_as_text() -> None:
    class Renamed(Race):
        later = (["0", np.int64(1)], [0, 2])  # the same text, and another one

        def reset(self, seed: int | None = None, options: Any = None) -> Any:
            result = super().reset(seed, options)
            self.possible_agents, *self.later = self.later
            return result

    env = make_joint_vec_env(partial(Renamed, [0, 1]), 1, "dummy")
    env.reset()
    with pytest.raises(EnvDataError, match=r"possible_agents changed from \['0', '1'\] to \['0', '2'\]"):
        env.reset()


def test_a_dict_of_agents_knows_both_names_and_no_others() -> None:
    agents = AgentDict({"0": "zero", "('a', 1)": "tuple"})
    assert agents[0] == agents[np.int64(0)] == agents.get(0) == "zero" and agents["a", 1] == "tuple"
    assert 0 in agents and "0" in agents and 1 not in agents and agents.get(1, "none") == "none"
    for missing in (1, "1"):
        with pytest.raises(KeyError):
            agents[missing]


def test_masks_and_states_are_found_under_either_name() -> None:
    small = {"n_envs": 2, "n_steps": 8, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
    env = partial(Race, [0, 1])
    masked = MATRL("MlpPolicy", env, learner_class=MaskablePPO, **small)
    seen = {0: np.zeros(1, np.float32), 1: np.zeros(2, np.float32)}
    masks = {"0": np.array([0, 1], bool), "1": np.array([0, 0, 1], bool)}
    mixed = MixedPolicy({0: Player(masked, 0), "1": Player(masked, 1)})
    chance = RandomPolicy(
        {a: Race([0, 1]).observation_space(a) for a in (0, 1)}, {a: Race([0, 1]).action_space(a) for a in (0, 1)}
    )
    for policy in (masked, mixed, chance):
        for _ in range(5):
            actions, _ = policy.predict(seen, action_masks=masks)
            assert actions == {0: 1, 1: 2}
            actions, _ = policy.predict({"0": seen[0], "1": seen[1]}, action_masks={0: masks["0"], 1: masks["1"]})
            assert actions == {"0": 1, "1": 2}
    recurrent = MATRL("MlpLstmPolicy", env, learner_class=RecurrentPPO, **small)
    _, states = recurrent.predict(seen)
    assert states is not None and list(states) == [0, 1]
    _, after = recurrent.predict(seen, states)
    _, by_text = recurrent.predict(seen, {"0": states[0], "1": states[1]})
    assert after is not None and by_text is not None
    np.testing.assert_equal(after, by_text)
    assert not np.array_equal(after[0][0], states[0][0])


def test_evaluation_during_training_goes_by_name() -> None:
    model = MATRL("MlpPolicy", Race, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    places = {"two": 1, "one": 0}

    class Reversed(Race):
        def __init__(self) -> None:
            super().__init__(("two", "one"))
            self.places = places

    callback = MultiAgentEvalCallback(Reversed, n_eval_episodes=2, eval_freq=16, verbose=0)
    model.learn(16, callback=callback)
    assert callback.sampled[0].agents == ("two", "one") and callback.sampled[0].lengths.tolist() == [5, 5]
