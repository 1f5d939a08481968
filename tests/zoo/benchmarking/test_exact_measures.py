"""Exact values of networks' policies, and the file that keeps them."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

from sb3_matrl import MATRL
from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.games.one_shot_games import one_shot_game
from sb3_matrl.zoo.benchmarking.exact_measures import (
    ExactMeasures,
    exact_measure,
    one_shot_measure,
    one_shot_strategies,
    read_measures,
)
from sb3_matrl.zoo.common.hyperparameters import find_conf_file, load_hyperparameters

GENERAL_SUM = {"n_agents": 3, "n_actions": 2, "seed": 5}


@pytest.fixture(scope="module")
def model():
    """Three agents whose policies are far from uniform."""
    kwargs = {"game": "random_general_sum", "game_kwargs": GENERAL_SUM}
    model = MATRL("MlpPolicy", "matrix_game_v0", env_kwargs=kwargs, n_steps=4, batch_size=4, seed=0, device="cpu")
    for index, learner in enumerate(model.agents.values()):
        with th.no_grad():
            learner.policy.action_net.bias.copy_(th.tensor([0.3 * index, 1.0]))
    yield model
    model.env.close()


def test_strategies_are_those_that_the_agents_play(model):
    strategies = one_shot_strategies(model)
    observations = {agent: np.ones((20_000, 1), dtype=np.float32) for agent in model.agents}
    actions, _ = model.predict(observations, deterministic=False)
    for strategy, played in zip(strategies, actions.values(), strict=True):
        assert strategy.sum() == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(np.bincount(played, minlength=2) / len(played), strategy, atol=0.02)


def test_welfare_and_nash_conv_are_those_of_a_sum_over_joint_actions(model):
    game = one_shot_game("random_general_sum", **GENERAL_SUM)
    found, strategies = one_shot_measure(game)(model), one_shot_strategies(model)

    def value(player, mixed):
        joint = product(*(range(len(one)) for one in mixed))
        return sum(
            np.prod([one[a] for one, a in zip(mixed, actions, strict=True)]) * game.table[player][actions] for actions in joint
        )

    welfare = sum(value(player, strategies) for player in range(3))
    uniform = sum(value(player, [np.full(2, 0.5)] * 3) for player in range(3))
    best = game.table.sum(axis=0).max()
    gains = 0.0
    for player in range(3):
        deviations = [[*strategies[:player], np.eye(2)[action], *strategies[player + 1 :]] for action in range(2)]
        gains += max(value(player, one) for one in deviations) - value(player, strategies)
    expected = {"nash_conv": gains, "welfare": welfare, "welfare_score": (welfare - uniform) / (best - uniform)}
    assert found == pytest.approx(expected, abs=1e-12)


def test_zero_sum_games_have_no_welfare_score():
    game = one_shot_game("rps")
    policy = SimpleNamespace(
        get_distribution=lambda seen: SimpleNamespace(distribution=SimpleNamespace(probs=th.tensor([[1.0, 0.0, 0.0]])))
    )
    learner = SimpleNamespace(policy=policy, device="cpu")
    found = one_shot_measure(game)(SimpleNamespace(agents={"a": learner, "b": learner}))
    # Both play rock: each would win 1 by paper.
    assert found == {"nash_conv": 2.0, "welfare": 0.0}
    assert found["nash_conv"] == matrix_game_v0.nash_conv(matrix_game_v0.named_payoffs("rps"), [np.eye(3)[0]] * 2)


@pytest.mark.parametrize(
    ("algorithm", "env", "changes", "measured"),
    [
        ("ippo", "matrix_game_v0", {}, True),
        ("ippo", "matrix_game_v0", {"env_kwargs": {"max_cycles": 2}}, False),
        ("ippo", "matrix_game_v0", {"norm_obs": True}, False),
        ("iql", "matrix_game_v0", {}, False),
        ("ippo", "checkers_v0", {}, False),
    ],
)
def test_only_what_can_be_computed_is_measured(algorithm, env, changes, measured):
    hyperparameters = load_hyperparameters(find_conf_file(algorithm, None), algorithm, env, changes)
    assert (exact_measure(env, hyperparameters) is not None) == measured


def test_file_is_continued_from_the_steps_of_the_checkpoint(tmp_path):
    path, model = tmp_path / "measures.csv", SimpleNamespace(num_timesteps=0)

    def callback(scale):
        one = ExactMeasures(lambda model: {"value": scale * model.num_timesteps / 3}, path)
        one.model = model
        one._on_training_start()
        return one

    first = callback(scale=1)
    for model.num_timesteps in (0, 10, 20):
        first._on_rollout_start()
    first._on_training_end()  # the same policies as before: no second line
    path.write_text(path.read_text() + "30.0,9")  # killed while it wrote
    assert read_measures(path)["timesteps"].tolist() == [0, 10, 20]
    model.num_timesteps = 10
    second = callback(scale=-1)
    for model.num_timesteps in (10, 20):
        second._on_rollout_start()
    found = read_measures(path)
    assert found["timesteps"].tolist() == [0, 10, 20] and found["value"].tolist() == [0.0, -10 / 3, -20 / 3]
    model.num_timesteps = 0
    callback(scale=1)
    assert read_measures(path) == {}
