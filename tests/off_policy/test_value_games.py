"""QTRAN's games: what the published tables say that sums and monotone mixers cannot learn, and QTRAN and Q-DPP can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.utils import LinearSchedule

from benchmarks.value_games import greedy_return, train
from sb3_matrl.off_policy.qdpp import QDPP
from tests.worlds.matrix_games import G1, G2
from tests.worlds.multi_step_game import MultiStepGame

PAYOFFS = {"G1": G1, "G2": G2}
# Limit of a sum of utilities that is fitted to uniform plays of G1: its least-squares fit.
ADDITIVE_G1 = G1.mean(axis=1)[:, None] + G1.mean(axis=0)[None] - G1.mean()

# Lets the last values settle: with a constant rate they go on moving by about 0.5 around their limit.
DECAY = {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}


def play(game: str, method: str, **task: Any) -> tuple[float, dict[str, Any]]:
    """Return of the greedy joint action, and what was learned."""
    result = train({"game": game, "method": method, "seed": 0, **task})
    return greedy_return(game, result), result[""]


@pytest.mark.cases(e2e=["qmix-changes0-6.0"], rest="expensive")
@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [("qmix", {}, 6.0), ("qtran-alt", {"learning_rate": 4e-3, "nopt_coef": 3.0}, 8.0)],
)
def test_short_trainings_end_at_the_right_joint_action(method: str, changes: dict[str, Any], expected: float) -> None:
    assert play("G2", method, steps=2_500, changes=changes)[0] == expected


@pytest.mark.expensive
@pytest.mark.parametrize("game", PAYOFFS)
@pytest.mark.parametrize("method", ["qtran-base", "qtran-alt"])
def test_qtran_learns_the_payoffs_and_plays_the_best_action(method: str, game: str) -> None:
    value, learned = play(game, method)
    assert value == 8.0 and learned["greedy"] == [0, 0]
    assert np.abs(np.array(learned["q_tot"]) - PAYOFFS[game]).max() < 0.15


@pytest.mark.expensive
def test_vdn_learns_the_least_squares_fit() -> None:
    np.testing.assert_allclose(9.0 * ADDITIVE_G1, [[-56.0, -44.0, -44.0], [-44.0, -32.0, -32.0], [-44.0, -32.0, -32.0]])
    value, learned = play("G1", "vdn", changes=DECAY)
    assert value == 0.0
    assert np.abs(np.array(learned["q_tot"]) - ADDITIVE_G1).max() < 0.5


@pytest.mark.expensive
def test_monotone_values_miss_the_best_action_of_g2() -> None:
    assert play("G2", "vdn")[0] == 6.0
    value, learned = play("G2", "qmix", changes=DECAY)
    assert value == 6.0
    best_fit = np.full((3, 3), 6.0)
    best_fit[0] = best_fit[:, 0] = G2[0].mean() * 3 / 5 + G2[1:, 0].mean() * 2 / 5
    assert best_fit[0, 0] == -8.0 and np.abs(np.array(learned["q_tot"]) - best_fit).max() < 0.5


@pytest.mark.expensive
def test_qdpp_plays_the_best_action_of_g1() -> None:
    value, learned = play("G1", "qdpp")
    assert value == 8.0 and learned["q_tot"][0][0] == pytest.approx(8.0, abs=1.0)


def episode(model: QDPP, deterministic: bool) -> float:
    """Return of the team in one episode of the multi-step game."""
    env = MultiStepGame()
    observations, _ = env.reset()
    total = 0.0
    while env.agents:
        actions, _ = model.predict(observations, deterministic=deterministic)
        observations, rewards, *_ = env.step({agent: int(action) for agent, action in actions.items()})
        total += sum(rewards.values())
    return total


@pytest.mark.expensive
def test_qdpp_nearly_solves_the_multi_step_game() -> None:
    returns = []
    for seed in range(3):
        model = QDPP(
            "MlpPolicy",
            MultiStepGame,
            n_envs=8,
            seed=seed,
            device="cpu",
            learning_rate=5e-4,
            learning_starts=1_000,
            batch_size=128,
            train_freq=1,
            target_update_interval=800,
            exploration_fraction=0.8,
            temperature=5.0,
            buffer_size=30_000,
            policy_kwargs={"net_arch": [64, 64]},
        ).learn(30_000)
        returns.append(np.mean([episode(model, deterministic=False) for _ in range(50)]))
    assert np.mean(returns) > 11.0, returns
