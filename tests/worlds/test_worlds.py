"""The worlds on which algorithms are tested keep to their rules and have the solutions that are said."""

from __future__ import annotations

import itertools
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

from sb3_matrl.vec_env import make_joint_vec_env
from tests.worlds.continuous_games import ContinuousGame, coordination, separate
from tests.worlds.gymnasium_as_parallel import AGENT, GymnasiumAsParallel
from tests.worlds.matrix_games import COORDINATION, G1, G2, team_game
from tests.worlds.multi_step_game import MultiStepGame
from tests.worlds.scripted_team import ENDS, N_SCRIPTS, ScriptedTeam, legal, reward
from tests.worlds.team_game import TeamGame
from tests.worlds.two_step_game import PAYOFFS, TwoStepGame

GAMES = {
    "two steps": TwoStepGame,
    "ten steps": MultiStepGame,
    "continuous": ContinuousGame,
    "matrix": partial(team_game, G1),
    "CartPole": partial(GymnasiumAsParallel, "CartPole-v1"),
}


def replayed(make: Any, plays: Any) -> tuple[list[float], TeamGame]:
    """Team rewards of a sequence of joint actions, until the game is over."""
    env, rewards = make(), []
    env.reset()
    for actions in plays:
        step = env.step(dict(zip(env.possible_agents, actions, strict=True)))
        rewards.append(sum(step[1].values()))
        if not env.agents:
            break
    return rewards, env


def outcomes(make: Any, joint_actions: list[Any], plays: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], float]:
    """Return of every way in which a game can be played to its end."""
    found: dict[tuple[Any, ...], float] = {}
    for actions in joint_actions:
        rewards, env = replayed(make, [*plays, actions])
        found |= outcomes(make, joint_actions, (*plays, actions)) if env.agents else {(*plays, actions): sum(rewards)}
    return found


@pytest.mark.parametrize("name", GAMES)
def test_games_pass_pettingzoos_test(name: str) -> None:
    env = GAMES[name]()
    parallel_api_test(env, num_cycles=30)
    env.reset(seed=0)
    assert not isinstance(env, TeamGame) or env.state_space.contains(env.state())


TERMINATED, TRUNCATED = (True, False), (False, True)


@pytest.mark.parametrize(
    ("env_id", "limit", "expected"),
    [
        ("Pendulum-v1", 7, {TRUNCATED}),
        ("CartPole-v1", 18, {TERMINATED, TRUNCATED}),
        ("CartPole-v1", None, {TERMINATED}),
    ],
)
def test_a_gymnasium_env_is_the_same_as_a_parallel_env(env_id: str, limit: int | None, expected: Any) -> None:
    ours, env = GymnasiumAsParallel(env_id, limit), gym.make(env_id, max_episode_steps=limit)
    env.action_space.seed(0)
    seed: int | None = 5
    ends = set()
    for _ in range(80):
        if seed is not None or not ours.agents:
            np.testing.assert_equal(ours.reset(seed=seed), ({AGENT: (start := env.reset(seed=seed))[0]}, {AGENT: start[1]}))
            seed = None
        action = env.action_space.sample()
        step = env.step(action)
        np.testing.assert_equal(ours.step({AGENT: action}), tuple({AGENT: value} for value in step))
        assert (ours.agents == []) == (step[2] or step[3])
        ends |= {step[2:4]} - {(False, False)}
    assert ends == expected


def test_the_two_step_game_pays_what_the_first_action_chooses() -> None:
    found = outcomes(TwoStepGame, list(itertools.product(range(2), repeat=2)))
    assert found == {(first, last): PAYOFFS[first[0], *last] for first in np.ndindex(2, 2) for last in np.ndindex(2, 2)}
    assert max(found.values()) == 8
    env = TwoStepGame(everybody=True)
    env.reset()
    states = [env.state().tolist()]
    for first in (1, 0):
        assert env.step({"agent_0": first, "agent_1": 1})[1] == dict.fromkeys(env.possible_agents, float(first == 0))
        states.append(env.state().tolist())
    assert states == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_the_multi_step_game_is_worth_13() -> None:
    found = outcomes(MultiStepGame, list(itertools.product(range(2), repeat=2)))
    best = max(found, key=lambda plays: found[plays])
    assert best == ((0, 0),) * 9 + ((1, 1),) and found[best] == 13
    assert max(value for plays, value in found.items() if plays[0] == (1, 1)) == found[((1, 1),) * 10] == 10
    assert found[((0, 1),)] == found[((1, 0),)] == 0 and found[((1, 1), (0, 0))] == 1
    assert [value for plays, value in found.items() if plays[:9] == ((0, 0),) * 9] == [10, 10, 10, 13]
    # Two first actions that end it, 2 branches of 8 steps with 3 ways out, and 4 last joint actions of each.
    assert len(found) == 2 + 2 * (8 * 3 + 4)


def test_the_states_of_the_multi_step_game_tell_all_places_apart() -> None:
    states = set()
    for first in range(2):
        for length in range(10):
            _, env = replayed(MultiStepGame, [(first, first)] * length)
            states.add(env.state().tobytes())
    assert len(states) == 1 + 2 * 9


@pytest.mark.parametrize("everybody", [False, True])
@pytest.mark.parametrize("payoffs", [G1, G2, COORDINATION])
def test_matrix_games_pay_the_team(payoffs: np.ndarray, everybody: bool) -> None:
    for actions in np.ndindex(*payoffs.shape):
        env = team_game(payoffs, everybody)
        env.reset()
        rewards = env.step(dict(zip(env.possible_agents, actions, strict=True)))[1]
        assert rewards == {"agent_0": payoffs[actions], "agent_1": payoffs[actions] if everybody else 0.0}


@pytest.mark.parametrize(("payoff", "best"), [(coordination, (0.2, 0.8)), (separate, (0.3, -0.6))])
def test_the_best_actions_of_continuous_games(payoff: Any, best: tuple[float, float]) -> None:
    actions = np.linspace(-1, 1, 21)
    values = np.array(
        [[sum(replayed(partial(ContinuousGame, payoff, False, 2.0), [([a], [b])])[0]) for b in actions] for a in actions]
    )
    found = np.unravel_index(values.argmax(), values.shape)
    np.testing.assert_allclose(actions[list(found)], best)
    assert values.max() == pytest.approx(0.0, abs=1e-12) and np.count_nonzero(values > -1e-3) == 1


def legal_actions(venv: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    masks = {**{"short": np.ones((venv.num_envs, 2), bool)}, **venv.action_masks}
    return {agent: np.array([rng.choice(np.flatnonzero(row)) for row in masks[agent]]) for agent in venv.agents}


@pytest.mark.parametrize("kind", ["dummy", "subproc"])
def test_the_scripted_team_follows_its_script(kind: str) -> None:
    """Every agent of every script ends when and how it should, and nothing of the dead is seen."""
    rng, seen, snapshots = np.random.default_rng(0), set(), []
    with closing(make_joint_vec_env(ScriptedTeam, 2, kind, seed=0, states=True)) as venv:
        scripts = [seed % N_SCRIPTS for seed in venv.seed(0)]
        observations = venv.reset()
        for _ in range(30):
            times, alive = venv.episode_lengths.copy(), venv.alive.copy()
            assert all(np.isfinite(part).all() for part in (observations["short"], *observations["long"].values()))
            for copy, time in enumerate(times):
                assert venv.states[copy, :6].argmax() == time and venv.states[copy, 6:].tolist() == alive[copy].tolist()
                for agent in ("middle", "long"):
                    expected = legal(agent, time) if alive[copy][venv.agents.index(agent)] else True
                    assert (venv.action_masks[agent][copy] == expected).all()
            actions = legal_actions(venv, rng)
            observations, rewards, dones, _ = venv.step(actions)
            step = venv.last_step
            for copy, column in np.ndindex(2, 3):
                agent = venv.agents[column]
                lives = alive[copy, column]
                assert rewards[copy, column] == np.float32(lives and reward(agent, times[copy], actions[agent][copy]))
                due, kind_of_end = ENDS[agent][scripts[copy]]
                ends = bool(lives and times[copy] + 1 == due)
                assert step.terminated[copy, column] == (ends and kind_of_end in ("terminated", "both"))
                assert step.truncated[copy, column] == (ends and kind_of_end in ("truncated", "both"))
                seen |= {(agent, scripts[copy])} if ends else set()
            assert (step.final_states is not None) == dones.any()
            scripts = [(script + done) % N_SCRIPTS for script, done in zip(scripts, dones, strict=True)]
            snapshots.append(venv.snapshot())
        venv.restore(snapshots[20])
        assert venv.snapshot()["envs"]["copies"][1]["env"] == snapshots[20]["envs"]["copies"][1]["env"]
    assert len(seen) == 3 * N_SCRIPTS


def test_illegal_actions_of_the_scripted_team_are_errors() -> None:
    env = ScriptedTeam()
    env.reset()
    with pytest.raises(AssertionError, match="middle chose the illegal action 0 at time 0"):
        env.step({"short": 0, "middle": 0, "long": 1})
