"""Episodes without an end: cut at a limit, counted and marked, with a warning; evaluation ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_matrl import MATRL
from sb3_matrl.evaluation import EvaluationResult, MultiAgentEvalCallback, evaluate, evaluate_policy, play, play_episodes
from sb3_matrl.vec_env import make_joint_vec_env
from tests.evaluation.worlds import RandomLength


class Script:
    """Earns 2 per step for the agent on the right; remembers how many observations began an episode."""

    def __init__(self) -> None:
        self.starts = 0

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        self.starts += int(episode_start.sum())
        return {agent: np.full(np.shape(value)[:-1], 2) for agent, value in observation.items()}, state


def by_vec_env(n_episodes: int, limit: int | None, long: int, n_envs: int = 1, policy: Any = None) -> EvaluationResult:
    env = make_joint_vec_env(partial(RandomLength, long), n_envs)
    return evaluate_policy(policy or Script(), env, n_episodes, seed=3, max_episode_steps=limit)


def by_playing(n_episodes: int, limit: int | None, long: int, n_envs: int = 1, policy: Any = None) -> EvaluationResult:
    return play_episodes(policy or Script(), RandomLength(long), n_episodes, seed=3, max_episode_steps=limit)


WAYS = pytest.mark.parametrize("evaluated", [by_vec_env, by_playing])
Way = Callable[..., EvaluationResult]


@WAYS
def test_endless_episodes_are_cut_and_marked(evaluated: Way) -> None:
    with pytest.warns(UserWarning, match=r"of 12 evaluated episodes had no end after 5 steps and were cut: .* max_episode"):
        result = evaluated(12, 5, long=10**9)
    assert set(result.lengths.tolist()) == {1, 5}
    assert result.cut == tuple(np.flatnonzero(result.lengths == 5).tolist()) and 0 < len(result.cut) < 12
    np.testing.assert_array_equal(result.was_cut, result.lengths == 5)
    np.testing.assert_array_equal(result.agent_returns, result.lengths[:, None] * [1, 2])
    np.testing.assert_array_equal(result.returns, 3 * result.lengths)


@pytest.mark.parametrize(("n_envs", "n_episodes"), [(1, 5), (2, 7), (4, 4), (5, 13), (4, 2)])
def test_every_copy_plays_its_episodes_from_the_start(n_envs: int, n_episodes: int) -> None:
    with pytest.warns(UserWarning, match="were cut"):
        result = by_vec_env(n_episodes, 4, 10**9, n_envs)
    assert result.n_episodes == n_episodes and set(result.lengths.tolist()) <= {1, 4}
    np.testing.assert_array_equal(result.agent_returns[:, 0], result.lengths)


@WAYS
@pytest.mark.parametrize("limit", [6, 20, None])
def test_a_limit_that_no_episode_exceeds_changes_nothing(evaluated: Way, limit: int | None) -> None:
    """An episode may end in the very step of the limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        limited, free = Script(), Script()
        one, other = evaluated(9, limit, 6, 3, limited), evaluated(9, 10**6, 6, 3, free)
    np.testing.assert_array_equal(one.agent_returns, other.agent_returns)
    assert one.cut == other.cut == () and limited.starts == free.starts and 6 in one.lengths


@WAYS
def test_a_long_wait_is_said_before_it_is_over(evaluated: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (evaluate, play):
        monkeypatch.setattr(module, "LONG_EPISODE", 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = evaluated(2, 8, 50)
    said = [one for one in caught if one.category is UserWarning]
    assert [str(one.message) for one in said] == [
        "an evaluated episode has not ended after 3 steps; it is cut after 8 (max_episode_steps)",
        f"{len(result.cut)} of 2 evaluated episodes had no end after 8 steps and were cut: their returns are those so far. "
        "Does the env end its episodes? A longer one needs a larger max_episode_steps",
    ]
    assert {one.filename for one in said} == {__file__}


@WAYS
@pytest.mark.parametrize("limit", [0, -1])
def test_wrong_limits_are_refused(evaluated: Way, limit: int) -> None:
    with pytest.raises(ValueError, match="max_episode_steps must be at least 1, or None for no limit, got"):
        evaluated(1, limit, 5)


def test_the_callback_counts_cut_episodes(tmp_path: Path) -> None:
    env = partial(RandomLength, 10**9)
    callback = MultiAgentEvalCallback(env, None, None, 6, 32, tmp_path, max_episode_steps=7, verbose=0)
    model = MATRL("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    with pytest.warns(UserWarning, match="were cut"):
        model.learn(32, callback=callback)
    recorded = np.load(tmp_path / "evaluations.npz")
    assert recorded["cut"].shape == (1, 6) and (recorded["cut"] == (recorded["ep_lengths"] == 7)).all()
    restored = MultiAgentEvalCallback(env)
    restored.set_state(callback.state())
    assert restored.sampled[0].cut == callback.sampled[0].cut != ()


def test_an_env_that_goes_on_listing_ended_agents_ends_when_played() -> None:
    class Listing(RandomLength):
        def step(self, actions: Any) -> Any:
            result = super().step({"left": 0, "right": 0, **actions})
            self.agents = list(self.possible_agents)
            return result

    result = play_episodes(Script(), Listing(6), 4, seed=3)
    assert set(result.lengths.tolist()) == {1, 6} and result.cut == ()


def test_a_callback_sees_the_finished_episodes_of_every_copy() -> None:
    seen: list[list[int]] = []
    env = make_joint_vec_env(partial(RandomLength, 10**9), 2)

    def watch(local: dict[str, Any], _: dict[str, Any]) -> None:
        seen.append([len(episodes) for episodes in local["episodes"]])

    with pytest.warns(UserWarning, match="were cut"):
        evaluate_policy(Script(), env, 5, seed=3, callback=watch, max_episode_steps=4)
    assert seen[-1] == [2, 3] and all(np.diff(np.array(seen), axis=0).ravel() >= 0)
