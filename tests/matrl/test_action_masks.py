"""Learners with action masks: what they play, and what the update makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from pettingzoo import ParallelEnv
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

from sb3_matrl import MATRL
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.on_policy.batch import agent_batch
from sb3_matrl.vec_env import make_joint_vec_env
from tests.vec_env.turn_toys import Waiting

TICTACTOE, CONNECT_FOUR = "pettingzoo:classic/tictactoe-v3", "pettingzoo:classic/connect_four-v3"
SMALL: dict[str, Any] = {"n_envs": 2, "n_steps": 24, "batch_size": 16, "n_epochs": 2, "br_n_epochs": 1, "seed": 0}
SMALL |= {"device": "cpu", "policy_kwargs": {"net_arch": [8]}, "learning_rate": 0.01}


class MaskedWalk(ParallelEnv):
    """
    Two agents walk on positions 0 to 4 of a line and are paid for their position; a step off its end is illegal. One
    sees its mask, the other is told it. It can save its state.
    """

    metadata = {"name": "masked_walk_v0"}  # noqa: RUF012
    render_mode = None
    possible_agents = ("seeing", "told")

    def __init__(self) -> None:
        self.rng, self.agents = np.random.default_rng(3), []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        position = spaces.Box(0, 4, (1,), np.float32)
        return spaces.Dict({"x": position, "action_mask": spaces.MultiBinary(3)}) if agent == "seeing" else position

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.rng = self.rng if seed is None else np.random.default_rng(seed)
        self.agents, self.time = list(self.possible_agents), 0
        self.at = {agent: int(self.rng.integers(5)) for agent in self.agents}
        return self._observe()

    def step(self, actions: dict[str, int]) -> Any:
        for agent, action in actions.items():
            assert self._mask(agent)[action], f"{agent} does {action} at {self.at[agent]}"
            self.at[agent] += int(action) - 1
        self.time += 1
        rewards = {agent: float(self.at[agent]) + self.rng.normal() for agent in self.agents}
        cut = dict.fromkeys(self.agents, self.time == 7)
        observations, infos = self._observe()
        self.agents = [] if self.time == 7 else self.agents
        return observations, rewards, dict.fromkeys(cut, False), cut, infos

    def _mask(self, agent: str) -> np.ndarray:
        return np.array([self.at[agent] > 0, True, self.at[agent] < 4], dtype=np.int8)

    def _observe(self) -> Any:
        x = {agent: np.array([self.at[agent]], np.float32) for agent in self.agents}
        seen = {"seeing": {"x": x["seeing"], "action_mask": self._mask("seeing")}, "told": x["told"]}
        return seen, {"seeing": {}, "told": {"action_mask": self._mask("told")}}

    def snapshot(self) -> dict[str, Any]:
        state = {"time": self.time, "at": dict(self.at), "agents": list(self.agents)}
        return state | {"rng": self.rng.bit_generator.state}

    def restore(self, snapshot: dict[str, Any]) -> None:
        self.time, self.at, self.agents = snapshot["time"], dict(snapshot["at"]), list(snapshot["agents"])
        self.rng.bit_generator.state = snapshot["rng"]


WALK = {"policy": {"seeing": "MultiInputPolicy", "told": "MlpPolicy"}, "env": MaskedWalk, "learner_class": MaskablePPO}


def make(policy: Any = "MultiInputPolicy", env: Any = TICTACTOE, **kwargs: Any) -> MATRL:
    return MATRL(policy, env, **{**SMALL, "learner_class": MaskablePPO, **kwargs})


class Referee:
    """Looks at all actions before a joint env gets them, and counts the illegal ones of those whose turn it is."""

    def __init__(self, env: Any) -> None:
        self.env, self.step, self.seen, self.illegal = env, env.step, 0, 0
        env.step = self

    def __call__(self, actions: dict[str, np.ndarray]) -> Any:
        for column, agent in enumerate(self.env.agents):
            masks = self.env.action_masks.get(agent)
            for copy in np.flatnonzero(self.env.acting[:, column]) if masks is not None else ():
                chosen = one_hot(self.env.action_spaces[agent], actions[agent][copy])
                self.seen += 1
                self.illegal += bool((chosen & ~masks[copy]).any())
        return self.step(actions)


def one_hot(space: spaces.Space[Any], action: Any) -> np.ndarray:
    """The choices that an action makes, in the form of its mask."""
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * space.n if np.ndim(action) else [space.n]
    return np.concatenate([np.arange(size) == part for size, part in zip(sizes, np.atleast_1d(action), strict=True)])


def waiting(**kwargs: Any) -> MATRL:
    """Every kind of action that can be masked, masks seen and told, and an agent without."""
    policy = {"seen": "MultiInputPolicy", "late": "MultiInputPolicy", "told": "MlpPolicy", "free": "MlpPolicy"}
    return make(policy, Waiting, learner_class=dict.fromkeys(policy, MaskablePPO) | {"free": PPO}, **kwargs)


MODELS = {"tictactoe": make, "walk": lambda **kwargs: make(**(WALK | kwargs)), "waiting": waiting}


@pytest.mark.cases(e2e=["waiting", "walk"])
@pytest.mark.parametrize("name", MODELS)
def test_illegal_actions_are_never_collected_and_all_numbers_are_finite(name: str) -> None:
    model = MODELS[name]()
    assert model.env is not None
    referee = Referee(model.env)
    for _ in range(3):
        model.learn(48, reset_num_timesteps=model.num_timesteps == 0)
        assert model.report is not None
        numbers = {key: value for key, value in model.report.scalars().items() if isinstance(value, float)}
        assert all(np.isfinite(value) for value in numbers.values()), numbers
    assert referee.seen > 60 and referee.illegal == 0


@pytest.mark.parametrize("name", MODELS)
def test_stored_masks_are_those_that_were_legal(name: str) -> None:
    model = MODELS[name]()
    assert model.env is not None
    env, step, legal = model.env, model.env.step, []

    def remember(actions: Any) -> Any:
        legal.append({agent: masks.copy() for agent, masks in env.action_masks.items()})
        return step(actions)

    env.step = remember  # type: ignore[method-assign]
    model.learn(0)
    model.collect_rollouts(model._init_callback(None))
    forbidden = 0
    for agent, learner in model.agents.items():
        if not isinstance(learner, MaskablePPO):
            continue
        buffer: Any = learner.rollout_buffer
        everything = np.ones_like(buffer.action_masks[0], dtype=bool)
        expected = np.stack([masks.get(agent, everything) for masks in legal])
        np.testing.assert_array_equal(buffer.action_masks[buffer.mask], expected[buffer.mask])
        forbidden += int((~expected).sum())
    assert forbidden > 20


def test_divergences_are_those_over_legal_actions() -> None:
    model = make()
    model.learn(0)
    model.collect_rollouts(model._init_callback(None))
    current: dict[str, Any] = {}

    def probabilities(agent: str) -> np.ndarray:
        """Softmax of the network's logits over the legal actions alone."""
        policy, batch = model.agents[agent].policy, agent_batch(model.agents[agent])
        with th.no_grad():
            latent = policy.mlp_extractor.forward_actor(policy.extract_features(batch.observations))
            logits = policy.action_net(latent).double().numpy()
        weights = np.where(batch.action_masks.numpy() > 0.5, np.exp(logits), 0.0)  # type: ignore[union-attr]
        return weights / weights.sum(axis=1, keepdims=True)

    for agent in model.agents:
        current[agent] = probabilities(agent)
    prediction = model.coordinator._predict()
    game = model.coordinator._metagame(prediction)
    predicted = np.array([[0.0, 1.0], [0.0, 1.0]])
    distances = model.coordinator._lower_bounds(prediction, game, predicted)["total_variation"]
    divergences = model.coordinator._distances(prediction, predicted)["kl_predicted"]
    for i, agent in enumerate(model.agents):
        p, q, live = current[agent], probabilities(agent), prediction.batches[i].mask.numpy()
        actions = prediction.batches[i].actions.numpy()
        rows = np.arange(len(actions))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(live, q[rows, actions] / p[rows, actions], 1.0)
            kl = np.where(p > 0, p * np.log(p / q), 0.0).sum(axis=1)
        np.testing.assert_allclose(prediction.ratios[:, i], ratios, rtol=1e-4)
        assert divergences[i] == pytest.approx(kl[live].mean(), rel=1e-3) and divergences[i] > 1e-5
        assert distances[i] == pytest.approx((np.abs(p - q).sum(axis=1) / 2)[live].max(), rel=1e-3)


@pytest.mark.e2e
@pytest.mark.parametrize("env", [TICTACTOE, CONNECT_FOUR])
def test_evaluation_never_plays_an_illegal_move_where_without_masks_it_would(env: str) -> None:
    model = make(env=env).learn(48)
    joint = make_joint_vec_env(env, 2, seed=3)
    referee = Referee(joint)
    evaluate_policy(model, joint, 12, seed=5)
    assert referee.seen > 50 and referee.illegal == 0

    class Blind:
        def predict(self, observation: Any, *args: Any, action_masks: Any = None) -> Any:
            everything = {agent: np.ones_like(masks) for agent, masks in action_masks.items()}
            return model.predict(observation, *args, action_masks=everything)

    evaluate_policy(Blind(), joint, 12, seed=5)
    assert referee.illegal > 0


def test_agents_that_wait_have_rows_of_zeros_and_may_be_asked_all_the_same() -> None:
    model = make()
    board = np.zeros((200, 3, 3, 2), np.int8)
    masks = np.zeros((200, 9), np.int8)
    masks[:100, 4] = 1
    actions, _ = model.predict({"player_1": {"observation": board, "action_mask": masks}})
    assert set(actions["player_1"][:100]) == {4}
    assert set(actions["player_1"][100:]) == set(range(9))
    boards = np.random.default_rng(0).integers(0, 2, (50, 3, 3, 2)).astype(np.int8)
    asked = {"player_1": {"observation": boards, "action_mask": np.zeros((50, 9), np.int8)}}
    everything = {"player_1": np.ones((50, 9), bool)}
    waiting_and_free = [model.predict(asked, deterministic=True, action_masks=m)[0]["player_1"] for m in (None, everything)]
    np.testing.assert_array_equal(*waiting_and_free, err_msg="as if everything were legal")
    assert waiting_and_free[0].any()
