"""An environment that others used between two rollouts: no transition is learned from that never happened."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.evaluation import evaluate_policy as evaluate_single_agent

from sb3_matrl import MATRL
from sb3_matrl.evaluation import MultiAgentEvalCallback, evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env

pytestmark = pytest.mark.e2e

MOVED = "training continues with new episodes"


class Clock(ParallelEnv):
    """The observation is the number of steps since the reset."""

    metadata = {"name": "clock_v0"}  # noqa: RUF012
    possible_agents = ("a", "b")
    render_mode = None

    def observation_space(self, agent: str) -> spaces.Box:
        return spaces.Box(0, 99, (1,), np.float32)

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(2)

    def look(self) -> dict[str, np.ndarray]:
        return {agent: np.array([self.t], np.float32) for agent in self.possible_agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t = list(self.possible_agents), 0
        return self.look(), {}

    def step(self, actions: dict[str, int]) -> Any:
        self.t += 1
        end = dict.fromkeys(self.agents, self.t >= 10)
        rewards, never = dict.fromkeys(self.agents, 1.0), dict.fromkeys(self.agents, False)
        self.agents = [] if self.t >= 10 else self.agents
        return self.look(), rewards, never, end, {}

    def snapshot(self) -> dict[str, Any]:
        return {"t": self.t, "agents": list(self.agents)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        self.t, self.agents = snapshot["t"], list(snapshot["agents"])


class Watch(BaseCallback):
    """Checks that every observation of a rollout follows from the one before."""

    rollouts = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts += 1
        buffer = self.model.learners["a"].rollout_buffer
        clock, starts = buffer.observations[..., 0], buffer.episode_starts.astype(bool)
        np.testing.assert_array_equal(clock[1:], np.where(starts[1:], 0, clock[:-1] + 1))
        assert (clock[0][starts[0]] == 0).all()


def make(**kwargs: Any) -> MATRL:
    options = {"n_envs": 2, "n_steps": 7, "batch_size": 14, "n_epochs": 1, "seed": 0, "device": "cpu"}
    return MATRL(kwargs.pop("policy", "MlpPolicy"), kwargs.pop("env", Clock), **{**options, **kwargs})


def evaluated(model: MATRL) -> None:
    evaluate_policy(model, model.env, 3, seed=0)


def stepped(model: MATRL) -> None:
    assert model.env is not None
    for _ in range(3):
        model.env.step(model.predict(model.position.observations)[0])


def reset(model: MATRL) -> None:
    assert model.env is not None
    model.env.reset()


def restored(model: MATRL) -> None:
    assert model.env is not None
    before = model.env.snapshot()
    model.env.step(dict.fromkeys("ab", np.zeros(2, int)))
    model.env.restore(before)


def trained_by_another_model(model: MATRL) -> None:
    make(env=model.env, n_envs=1).learn(14)


def replaced(model: MATRL) -> None:
    model.set_env(make_joint_vec_env(Clock, 2), force_reset=False)


@pytest.mark.cases(e2e=["RecurrentPPO-evaluated"], rest="expensive")
@pytest.mark.parametrize("use", [evaluated, stepped, reset, restored, trained_by_another_model, replaced])
@pytest.mark.parametrize("learner", [PPO, RecurrentPPO])
def test_training_begins_new_episodes_after_another_use(use: Callable[[MATRL], None], learner: Any) -> None:
    policy = "MlpPolicy" if learner is PPO else "MlpLstmPolicy"
    model, watch = make(policy=policy, learner_class=learner), Watch()
    model.learn(28, callback=watch)
    use(model)
    with pytest.warns(UserWarning, match=MOVED):
        model.learn(28, callback=watch, reset_num_timesteps=False)
    buffer = model.learners["a"].rollout_buffer
    assert watch.rollouts == 4 and model.num_timesteps == 56
    assert buffer.observations.max() <= 9


def test_evaluation_in_the_training_env_between_rollouts_begins_new_episodes() -> None:
    model, watch = make(), Watch()
    evaluation = MultiAgentEvalCallback(model.env, n_eval_episodes=2, eval_freq=28, verbose=0)
    with pytest.warns(UserWarning, match=MOVED):
        model.learn(84, callback=[evaluation, watch])
    assert watch.rollouts == 6 and len(evaluation.timesteps) == 3


def test_an_interrupted_rollout_is_not_continued_in_the_middle() -> None:
    class Interrupt(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 10:
                raise KeyboardInterrupt
            return True

    model, watch = make(), Watch()
    with pytest.raises(KeyboardInterrupt):
        model.learn(28, callback=Interrupt())
    with pytest.warns(UserWarning, match=MOVED):
        model.learn(28, callback=watch, reset_num_timesteps=False)


def test_a_callback_that_moves_the_env_in_the_middle_of_a_rollout_is_an_error() -> None:
    class Player(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 3:
                self.model.env.reset()
            return True

    with pytest.raises(RuntimeError, match="a callback reset or stepped the environment of the training"):
        make().learn(28, callback=Player())


def test_training_in_parts_without_other_use_says_nothing_and_equals_training_at_once() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 28

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parts = make().learn(14).learn(14, reset_num_timesteps=False)
        assert parts.env is not None
        parts.env.snapshot()
        parts.env.get_attr("t")
        parts.learn(14, reset_num_timesteps=False)
        make().learn(100, callback=Stop()).learn(14, reset_num_timesteps=False)
    whole = make().learn(42)
    for agent in "ab":
        for one, other in zip(parts.agents[agent].policy.parameters(), whole.agents[agent].policy.parameters(), strict=True):
            assert (one == other).all()


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one], lambda one: EveryNTimesteps(9, one)])
def test_the_evaluation_callback_of_sb3_is_refused_before_training(wrap: Any) -> None:
    model = make()
    with pytest.raises(TypeError, match="MultiAgentEvalCallback"):
        model.learn(28, callback=wrap(EvalCallback(make_joint_vec_env(Clock), verbose=0)))
    assert model.num_timesteps == 0


def test_the_evaluation_function_of_sb3_names_ours() -> None:
    with pytest.raises(TypeError, match=r"use evaluate_policy and MultiAgentEvalCallback of sb3_matrl.evaluation"):
        evaluate_single_agent(make(), make_joint_vec_env(Clock))
