"""IDDPG, MADDPG and COMIX learn games whose best joint actions are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_matrl.off_policy.comix import COMIX
from sb3_matrl.off_policy.iddpg import IDDPG
from sb3_matrl.off_policy.maddpg import MADDPG
from tests.worlds.continuous_games import ContinuousGame, coordination, separate
from tests.worlds.matrix_games import COORDINATION, team_game

SETTINGS: dict[str, Any] = {
    "policy": "MlpPolicy",
    "learning_starts": 200,
    "batch_size": 64,
    "tau": 0.01,
    "policy_kwargs": {"net_arch": [32, 32]},
    "seed": 0,
    "device": "cpu",
}


def greedy(model: Any) -> list[Any]:
    observations = {agent: np.ones((1, *space.shape), space.dtype) for agent, space in model._spaces["observation"].items()}
    actions, _ = model.predict(observations, deterministic=True)
    return [action[0] for action in actions.values()]


@pytest.mark.expensive
@pytest.mark.parametrize("algorithm", [IDDPG, MADDPG])
def test_coordinated_actions(algorithm: Any) -> None:
    model = algorithm(env=ContinuousGame, action_noise=0.2, **SETTINGS).learn(5_200)
    assert model._n_updates == 5_000
    one, other = (float(action[0]) for action in greedy(model))
    assert coordination(one, other) > -0.05


@pytest.mark.expensive
@pytest.mark.parametrize(("mixer", "steps"), [("qmix", 2_200), ("vdn", 1_000)], ids=["qmix", "vdn"])
def test_comix_finds_the_best_actions(mixer: str, steps: int) -> None:
    env_kwargs = {"payoff": separate, "everybody": False}
    model = COMIX(env=ContinuousGame, env_kwargs=env_kwargs, mixer=mixer, **SETTINGS).learn(steps)
    assert [float(action[0]) for action in greedy(model)] == pytest.approx([0.3, -0.6], abs=0.1)


@pytest.mark.expensive
@pytest.mark.parametrize("seed", range(3))
def test_discrete_maddpg_ends_in_an_equilibrium(seed: int) -> None:
    env_kwargs = {"payoffs": COORDINATION, "everybody": True}
    model = MADDPG(env=team_game, env_kwargs=env_kwargs, **{**SETTINGS, "seed": seed}).learn(2_200)
    assert COORDINATION[tuple(int(action) for action in greedy(model))] > 0
