"""Images: equal to SB3 to the last bit in every layout, and no more memory than SB3 takes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from pettingzoo import ParallelEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_matrl import MATRL

CHOICE = spaces.Discrete(3)
LAST, FIRST = spaces.Box(0, 255, (40, 36, 3), np.uint8), spaces.Box(0, 255, (3, 40, 36), np.uint8)
VIEWS: dict[str, Any] = {
    "channels last": LAST,
    "channels first": FIRST,
    "grey": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "Dict": spaces.Dict(film=LAST, speed=spaces.Box(-1, 1, (2,), np.float32)),
}


class Film:
    """Random pictures; an episode ends after some steps."""

    def __init__(self, space: Any, length: int = 5, late: bool = True) -> None:
        self.space, self.length, self.late = space, length, late

    def reset(self, seed: int | None) -> Any:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.time = 0
        return self._look(self.space)

    def _look(self, space: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._look(entry) for key, entry in space.spaces.items()}
        if space.dtype == np.uint8:
            return self.generator.integers(0, 256, space.shape, np.uint8)
        return self.generator.uniform(-1, 1, space.shape).astype(np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        self.time += 1
        over = self.time >= self.length
        return self._look(self.space), float(action + self.generator.normal()), over and not self.late, over and self.late


class Single(gym.Env[Any, Any]):
    action_space = CHOICE

    def __init__(self, film: Film) -> None:
        self.film, self.observation_space = film, film.space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.film.reset(seed), {}

    def step(self, action: Any) -> Any:
        return *self.film.step(action), {}


class Joint(ParallelEnv):  # type: ignore[type-arg]
    metadata = {"name": "film_v0"}  # noqa: RUF012
    possible_agents = ["viewer"]  # noqa: RUF012
    render_mode = None

    def __init__(self, film: Film) -> None:
        self.film = film

    def observation_space(self, agent: str) -> Any:
        return self.film.space

    def action_space(self, agent: str) -> Any:
        return CHOICE

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = ["viewer"]
        return {"viewer": self.film.reset(seed)}, {}

    def step(self, actions: Any) -> Any:
        observation, reward, ended, late = self.film.step(actions["viewer"])
        self.agents = [] if ended or late else ["viewer"]
        return *({"viewer": value} for value in (observation, reward, ended, late)), {}


@pytest.mark.cases(quick=["channels last-True"])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_images_equal_sb3_to_the_last_bit(view: str, late: bool) -> None:
    compare(PPO, "MultiInputPolicy" if view == "Dict" else "CnnPolicy", VIEWS[view], late)


@pytest.mark.e2e
def test_images_of_a_recurrent_learner_equal_its_original() -> None:
    compare(RecurrentPPO, "CnnLstmPolicy", LAST, True, policy_kwargs={"lstm_hidden_size": 8})


def compare(cls: Any, policy: str, space: Any, late: bool, **kwargs: Any) -> None:
    kwargs |= {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu"}
    switches: dict[str, Any] = {"learner_class": cls, "metagame": False, "best_response": False}
    ours = MATRL(policy, lambda: Joint(Film(space, late=late)), n_envs=2, **switches, **kwargs)
    seeds = list(ours.env._seeds)  # type: ignore[union-attr]
    ours.learn(64)
    env = DummyVecEnv([lambda: Single(Film(space, late=late))] * 2)
    theirs = cls(policy, env, **kwargs)
    env._seeds = seeds
    theirs.learn(64)
    for name, value in theirs.policy.state_dict().items():
        assert th.equal(ours.agents["viewer"].policy.state_dict()[name], value), name


PEAK = """
import dataclasses, resource, sys
import torch
from stable_baselines3 import PPO
from sb3_matrl import MATRL
from tests.matrl.test_images import Film, Joint, Single, spaces, np

torch.set_num_threads(1)
film = Film(spaces.Box(0, 255, (84, 84, 3), np.uint8), length=100)
arguments = {"n_steps": 2048, "batch_size": 64, "n_epochs": 1, "device": "cpu", "seed": 0}
if sys.argv[1] == "sb3":
    PPO("CnnPolicy", Single(film), **arguments).learn(2048)
else:
    model = MATRL("CnnPolicy", lambda: Joint(film), br_n_epochs=1, aggregation=sys.argv[1], distill_steps=2, **arguments)
    solve = model.coordinator._solve
    half = {"rho": np.array([0.5]), "sigma": np.array([[0.5, 0.5]])}
    model.coordinator._solve = lambda *given: dataclasses.replace(solve(*given), **half)
    model.learn(2048)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.expensive
@pytest.mark.parametrize("aggregation", ["parameters", "distill"])
def test_large_images_take_at_most_a_fifth_more_memory_than_in_sb3(aggregation: str) -> None:
    def peak(whose: str) -> int:
        # glibc's own threshold moves with what was freed before, and the peak with it.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
        done = subprocess.run([sys.executable, "-c", PEAK, whose], capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout.splitlines()[-1])

    assert peak(aggregation) <= 1.2 * peak("sb3")


@pytest.mark.parametrize("view", ["channels last", "channels first"])
def test_a_stack_stores_the_pictures_that_it_acted_on(view: str) -> None:
    model = MATRL("MlpPolicy", lambda: Joint(Film(VIEWS[view])), n_steps=8, n_envs=2, backend="torch", seed=0, device="cpu")
    model.learn(0)
    assert model.joint.stacks and model.collect_rollouts(model._init_callback(None))
    learner = model.learners["viewer"]
    buffer = learner.rollout_buffer
    flat = [th.as_tensor(rows.reshape(16, *rows.shape[2:])) for rows in (buffer.observations, buffer.actions)]
    with th.no_grad():
        values, log_probs, _ = learner.policy.evaluate_actions(flat[0], flat[1].flatten())
    np.testing.assert_allclose(buffer.log_probs.flatten(), log_probs, atol=1e-5)
    np.testing.assert_allclose(buffer.values.flatten(), values.flatten(), atol=1e-5)
