"""Noise on the agents' actions: SB3's draws, resets of copies, and states that resume exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)

from sb3_matrl.off_policy.exploration_noise import TeamNoise

SPACES: dict[str, spaces.Space[Any]] = {
    "a": spaces.Box(-2.0, 2.0, (2,)),
    "b": spaces.Discrete(3),
    "c": spaces.Box(0.0, 1.0, (3,)),
}


class Drift(ActionNoise):
    """A process with a memory of its own: it grows by a random number with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.level, self.calls = np.zeros(2), 0

    def __call__(self) -> np.ndarray:
        self.level, self.calls = self.level + 0.1 * np.random.rand(2), self.calls + 1
        return self.level * self.calls

    def reset(self) -> None:
        self.level, self.calls = np.zeros(2), 0


def draws(noise: TeamNoise, n_envs: int, steps: int = 4) -> np.ndarray:
    zeros = {agent: np.zeros((n_envs, *space.shape), np.float32) for agent, space in SPACES.items() if agent != "b"}
    rows = [np.concatenate([noise.add(agent, zero) for agent, zero in zeros.items()], axis=1) for _ in range(steps)]
    return np.stack(rows)


def test_a_number_is_normal_noise_of_each_agents_size() -> None:
    np.random.seed(0)
    ours = draws(TeamNoise(0.1, SPACES, 2), 2)
    np.random.seed(0)
    theirs = [VectorizedActionNoise(NormalActionNoise(np.zeros(k), np.full(k, 0.1)), 2) for k in (2, 3)]
    assert np.array_equal(ours, np.stack([np.concatenate([noise() for noise in theirs], axis=1) for _ in range(4)]))
    assert ours.dtype == np.float32


def test_one_copy_draws_as_sb3s_noise_alone() -> None:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.4))
    np.random.seed(1)
    ours = draws(TeamNoise({"a": noise, "b": None, "c": None}, SPACES, 1), 1)
    np.random.seed(1)
    assert np.array_equal(ours[:, 0, :2], np.stack([noise() for _ in range(4)]))
    assert (ours[:, 0, 2:] == 0.0).all()


def test_sums_are_clipped_and_agents_without_noise_are_left_alone() -> None:
    noise = TeamNoise({"a": 50.0, "b": None, "c": None}, SPACES, 3)
    actions = np.full((3, 2), 0.9, np.float32)
    assert set(np.abs(noise.add("a", actions)).ravel().tolist()) == {1.0}
    assert noise.add("c", actions) is actions and noise.add("b", actions) is actions


def test_reset_concerns_the_copies_whose_episode_is_over() -> None:
    noise = TeamNoise({"a": Drift(), "b": None, "c": None}, SPACES, 2)
    draws(noise, 2)
    noise.reset([1])
    assert [memory["calls"].item() for memory in noise.state()["a"]] == [4, 0]


@pytest.mark.parametrize("process", [OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.4)), Drift()])
def test_a_restored_process_continues_exactly(process: ActionNoise) -> None:
    given = {"a": process, "b": None, "c": 0.3}
    noise = TeamNoise(given, SPACES, 2)
    draws(noise, 2)
    state, generator = noise.state(), np.random.get_state()
    expected = draws(noise, 2)
    again = TeamNoise(given, SPACES, 2)
    again.restore(state)
    np.random.set_state(generator)
    assert np.array_equal(draws(again, 2), expected)


def test_normal_noise_has_no_state() -> None:
    assert TeamNoise(0.1, SPACES, 2).state() == {}


def test_states_that_do_not_fit_are_rejected() -> None:
    noise = TeamNoise({"a": Drift(), "b": None, "c": None}, SPACES, 2)
    with pytest.raises(ValueError, match="in the saved state of"):
        noise.restore({})
    with pytest.raises(ValueError, match="2 copies, 1"):
        noise.restore({"a": noise.state()["a"][:1]})
    with pytest.raises(ValueError, match="level does not fit"):
        noise.restore({"a": [{"level": np.zeros(3), "calls": 0}] * 2})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 0.1}, "missing b, c"),
        ({"a": 0.1, "b": 0.1, "c": 0.1}, "noise is for a Box"),
        ("loud", "must be a number, SB3's noise object or None"),
        (NormalActionNoise(np.zeros(2), np.ones(2)), "of 'c' has 2 values, its actions 3"),
    ],
)
def test_noise_that_does_not_fit_the_agents_is_rejected(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeamNoise(given, SPACES, 1)
