"""Scripted opponents: functions with and without masks, objects with a predict, policies of several agents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv
from sb3_contrib import MaskablePPO

from sb3_matrl import MATRL
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.evaluation import MixedPolicy, Player, RandomPolicy

AGENTS = ("left", "right")
VIEW, ACTION = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(6)
SMALL: dict[str, Any] = {"n_envs": 3, "n_steps": 8, "batch_size": 24, "n_epochs": 1, "br_n_epochs": 1, "seed": 0}
SMALL |= {"learner_class": MaskablePPO, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}


class Hidden(ParallelEnv):
    """Two of six actions are legal, others are errors; only the infos say which."""

    metadata = {"name": "hidden_v0"}  # noqa: RUF012
    possible_agents = list(AGENTS)  # noqa: RUF012
    render_mode = None

    def observation_space(self, agent: str) -> Any:
        return VIEW

    def action_space(self, agent: str) -> Any:
        return ACTION

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.agents, self.time = list(AGENTS), 0
        return self._observe()

    def _observe(self) -> Any:
        self.legal = {agent: self.generator.permutation([1, 1, 0, 0, 0, 0]) for agent in AGENTS}
        return {agent: np.zeros(1, np.float32) for agent in AGENTS}, {
            agent: {"action_mask": mask.astype(np.int8)} for agent, mask in self.legal.items()
        }

    def step(self, actions: Any) -> Any:
        for agent, action in actions.items():
            assert self.legal[agent][action], f"illegal action of {agent}"
        self.time += 1
        observations, infos = self._observe()
        over = dict.fromkeys(AGENTS, self.time == 5)
        self.agents = [] if self.time == 5 else self.agents
        return observations, dict.fromkeys(AGENTS, 1.0), dict.fromkeys(AGENTS, False), over, infos


def first_legal(masks: Any) -> np.ndarray:
    return np.atleast_2d(masks).argmax(axis=1)


class Script:
    def __call__(self, observation: Any, action_masks: Any = None) -> Any:
        return first_legal(action_masks)


class LikeSb3:
    def predict(self, observation: Any, state: Any = None, deterministic: bool = False, *, action_masks: Any) -> Any:
        assert state is None or state == len(observation)
        return first_legal(action_masks), len(observation)


class Terse:
    def predict(self, observation: Any, action_masks: Any) -> Any:
        return first_legal(action_masks)


def both(spaces_of: Any) -> dict[str, Any]:
    return {agent: spaces_of for agent in AGENTS}


RANDOM = RandomPolicy(both(VIEW), both(ACTION), seed=0)
OPPONENTS: dict[str, Any] = {
    "second argument": lambda observations, masks: first_legal(masks),
    "keyword": lambda observations, action_masks=None: first_legal(action_masks),
    "keyword alone": lambda observations, *, action_masks: first_legal(action_masks),
    "partial": partial(lambda shift, observations, masks: first_legal(masks) + shift, 0),
    "callable object": Script(),
    "predict with masks": LikeSb3(),
    "predict of two arguments": Terse(),
    "random policy": RANDOM,
    "other agent of a random policy": (RANDOM, "left"),
    "class of the random policy": RandomPolicy,
    "mixed policy": MixedPolicy({agent: Player(RANDOM, agent) for agent in AGENTS}),
}


@pytest.mark.cases(expensive=["keyword", "partial", "predict with masks", "random policy", "class of the random policy"])
@pytest.mark.parametrize("kind", OPPONENTS)
def test_opponents_get_the_masks_of_the_infos(kind: str) -> None:
    model = MATRL("MlpPolicy", Hidden, frozen={"right": OPPONENTS[kind]}, **SMALL).learn(48)
    legal = np.array([[0, 0, 0, 0, 1, 0]], dtype=bool)
    actions, _ = model.predict(both(np.zeros((1, 1), np.float32)), action_masks=both(legal))
    assert actions["right"] == [4]


def test_functions_of_observations_alone_stay_as_they_are() -> None:
    seen: list[Any] = []
    scripts = [
        lambda observation: observation[:, 0],
        lambda observation, seen=seen: seen.append(observation) or observation[:, 0],
        lambda observation, **options: observation[:, 0] + len(options),
        lambda *arguments: arguments[0][:, len(arguments) - 1],
        np.ravel,
    ]
    for script in scripts:
        actions, state = FrozenAgent(script).predict(np.full((3, 1), 2.0), action_masks=np.ones((3, 6), dtype=bool))
        assert (actions.tolist(), state) == ([2.0, 2.0, 2.0], None)
    assert len(seen) == 1


def test_a_random_opponent_is_drawn_from_the_model_s_seed() -> None:
    def play() -> np.ndarray:
        model = MATRL("MlpPolicy", "matrix_game_v0", frozen={"agent_1": RandomPolicy}, seed=5, n_steps=8, batch_size=8)
        return np.array([model.predict({"agent_1": np.zeros((4, 1), np.float32)})[0]["agent_1"] for _ in range(5)])

    assert np.array_equal(play(), play())
    assert len(set(play().ravel())) > 1


@pytest.mark.parametrize("source", [3, MaskablePPO, np.ndarray, None])
def test_what_cannot_act_is_named(source: Any) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=r"a frozen agent is an SB3 policy or algorithm, a function|frozen must be a dict"
    ):
        MATRL("MlpPolicy", Hidden, frozen={"right": source} if source is not None else [], **SMALL)


def test_an_unknown_agent_of_a_random_policy_is_named() -> None:
    with pytest.raises(ValueError, match=r"frozen: 'right': the model has no such agent: .*middle"):
        MATRL("MlpPolicy", Hidden, frozen={"right": (RANDOM, "middle")}, **SMALL)


def test_a_saved_model_asks_for_its_random_opponent(tmp_path: Path) -> None:
    MATRL("MlpPolicy", Hidden, frozen={"right": RANDOM}, **SMALL).learn(24).save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", device="cpu")
    assert loaded.lost_agents() == ["right"]
    MATRL.load(tmp_path / "model", env=Hidden, frozen={"right": RANDOM}, device="cpu").learn(48, reset_num_timesteps=False)
