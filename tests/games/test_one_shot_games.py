import itertools

import numpy as np
import pytest

from sb3_matrl.games import CongestionGame, TableGame, named_game, one_shot_game, one_shot_names
from sb3_matrl.games.named_games import game_names

COMMON = ["climbing", "climbing_partially_stochastic", "climbing_stochastic", "penalty", "random_common_payoff"]


def joints(game):
    return np.array(list(itertools.product(*map(range, game.n_actions))))


def slow_congestion(actions, n_agents):
    return [1 - (sum(other == own for other in actions) - 1) / (n_agents - 1) for own in actions]


def pure(actions, counts):
    return [np.eye(count)[action] for action, count in zip(actions, counts, strict=True)]


@pytest.mark.parametrize("name", game_names())
def test_games_of_two_players_are_the_named_ones(name):
    game = one_shot_game(name)
    np.testing.assert_array_equal(game.table, named_game(name).payoffs)
    assert not game.is_random


def test_payoffs_are_the_published_ones():
    climbing = [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]
    np.testing.assert_array_equal(one_shot_game("climbing").table, [climbing] * 2)
    np.testing.assert_array_equal(one_shot_game("penalty", k=-25).table[1], [[10, 0, -25], [0, 2, 0], [-25, 0, 10]])
    for name in ("climbing_partially_stochastic", "climbing_stochastic"):
        np.testing.assert_array_equal(one_shot_game(name).table, [climbing] * 2)  # the expectation


def test_random_payoffs_are_the_published_pairs():
    fully = one_shot_game("climbing_stochastic")
    pairs = {
        (0, 0): (10, 12), (0, 1): (-65, 5), (0, 2): (-8, 8),
        (1, 0): (-65, 5), (1, 1): (0, 14), (1, 2): (0, 12),
        (2, 0): (-5, 5), (2, 1): (-5, 5), (2, 2): (0, 10),
    }  # fmt: skip
    for joint, pair in pairs.items():
        actions = np.array([joint])
        mean, spread = fully.payoffs(actions)[0], fully.spreads(actions)[0]
        assert [*(mean - spread), *(mean + spread)] == [pair[0], pair[0], pair[1], pair[1]]
    partially = one_shot_game("climbing_partially_stochastic")
    spreads = partially.spreads(joints(partially))
    assert spreads[4].tolist() == [7, 7] and np.count_nonzero(spreads) == 2


@pytest.mark.parametrize(
    ("name", "options", "equilibria", "welfare"),
    [
        ("climbing", {}, [[0, 0], [1, 1]], 22),
        ("climbing_stochastic", {}, [[0, 0], [1, 1]], 22),
        ("penalty", {}, [[0, 0], [1, 1], [2, 2]], 20),
        ("penalty", {"k": 0}, [[0, 0], [1, 1], [2, 2]], 20),
        ("chicken", {}, [[0, 1], [1, 0]], 6),
        ("stag_hunt", {}, [[0, 0], [1, 1]], 8),
        ("prisoners_dilemma", {}, [[1, 1]], 6),
        ("matching_pennies", {}, [], 0),
    ],
)
def test_equilibria_and_best_welfare(name, options, equilibria, welfare):
    game = one_shot_game(name, **options)
    assert game.pure_equilibria().tolist() == equilibria
    assert game.best_welfare() == welfare


@pytest.mark.parametrize("name", [name for name in one_shot_names() if name != "congestion"])
def test_pure_equilibria_are_the_joint_actions_without_gain(name):
    game = one_shot_game(name)
    still = [joint.tolist() for joint in joints(game) if game.nash_conv(pure(joint, game.n_actions)) < 1e-12]
    assert game.pure_equilibria().tolist() == still


@pytest.mark.parametrize(("n_agents", "n_resources"), [(2, 2), (3, 2), (4, 4), (5, 3), (3, 5)])
def test_congestion_equals_counting_and_its_table(n_agents, n_resources):
    game = CongestionGame(n_agents, n_resources)
    actions = joints(game)
    payoffs = game.payoffs(actions)
    np.testing.assert_allclose(payoffs, [slow_congestion(row.tolist(), n_agents) for row in actions])
    table = TableGame(np.moveaxis(payoffs.reshape(*game.n_actions, n_agents), -1, 0))
    assert game.best_welfare() == pytest.approx(table.best_welfare())
    rng = np.random.default_rng(n_agents)
    mixed = [rng.dirichlet(np.ones(n_resources)) for _ in range(n_agents)]
    for mine, expected in zip(game.action_payoffs(mixed), table.action_payoffs(mixed), strict=True):
        np.testing.assert_allclose(mine, expected)
    assert game.nash_conv(mixed) == pytest.approx(table.nash_conv(mixed))
    assert game.welfare_score(mixed) == pytest.approx(table.welfare_score(mixed))
    loads = np.stack([(actions == resource).sum(axis=1) for resource in range(n_resources)])
    balanced = actions[loads.max(axis=0) - loads.min(axis=0) <= 1]
    assert table.pure_equilibria().tolist() == balanced.tolist()
    welfare = payoffs.sum(axis=1)
    np.testing.assert_array_equal(np.isclose(welfare, welfare.max()), loads.max(axis=0) - loads.min(axis=0) <= 1)


def test_congestion_of_sixteen_agents():
    game = one_shot_game("congestion", n_agents=16, n_resources=16)
    assert game.best_welfare() == 16
    assert game.nash_conv(pure(range(16), game.n_actions)) == 0
    assert game.welfare_score(pure(range(16), game.n_actions)) == pytest.approx(1)
    uniform = [np.full(16, 1 / 16)] * 16
    assert game.welfare_score(uniform) == pytest.approx(0) and game.nash_conv(uniform) == pytest.approx(0)
    assert game.payoffs(np.zeros((1, 16), dtype=int)).tolist() == [[0.0] * 16]


@pytest.mark.parametrize("name", COMMON)
def test_common_payoffs(name):
    table = one_shot_game(name).table
    np.testing.assert_array_equal(table[0], table[1])


@pytest.mark.parametrize(("name", "shape"), [("random_common_payoff", (2, 5, 5)), ("random_general_sum", (2, 3, 3))])
def test_random_games_depend_on_the_seed_alone(name, shape):
    first, again, other = (one_shot_game(name, seed=seed).table for seed in (7, 7, 8))
    assert first.shape == shape and first.min() >= 0 and first.max() < 1
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert one_shot_game(name, n_agents=3, n_actions=2).n_actions == (2, 2, 2)


def test_score_of_a_mixed_strategy_worked_out_by_hand():
    game = one_shot_game("stag_hunt")  # welfare: 8, 4, 4, 4; uniform play 5
    assert game.welfare_score([[1, 0], [1, 0]]) == pytest.approx(1)
    assert game.welfare_score([[0, 1], [0, 1]]) == pytest.approx(-1 / 3)
    assert game.welfare_score([[0.5, 0.5]] * 2) == pytest.approx(0)


def test_zero_sum_games_have_no_score():
    with pytest.raises(ValueError, match="needs joint actions of different welfare"):
        one_shot_game("rps").welfare_score([[1, 0, 0]] * 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("climbin", {}, "game 'climbin' is unknown; did you mean 'climbing'? Known: rps, matching_pennies"),
        ("penalty", {"kk": 1}, "game 'penalty': option 'kk' is unknown; did you mean 'k'? Known: k"),
        ("chicken", {"k": 1}, "game 'chicken': option 'k' is unknown. Known: none"),
        ("penalty", {"k": 1}, "k must be a finite number of at most 0, got 1"),
        ("penalty", {"k": float("-inf")}, "k must be a finite number of at most 0, got -inf"),
        ("congestion", {"n_agents": 1}, "n_agents must be an integer of at least 2, got 1"),
        ("congestion", {"n_resources": 2.0}, "n_resources must be an integer of at least 2, got 2.0"),
        ("random_general_sum", {"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ("random_common_payoff", {"n_agents": 16}, "a table for 16 players with 5 actions each is too large: at most 20"),
    ],
)
def test_wrong_names_and_options_are_explained(name, options, message):
    with pytest.raises(ValueError) as caught:
        one_shot_game(name, **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("spread", [np.zeros((2, 2)), -np.ones((2, 2, 2)), np.zeros((2, 2, 3))])
def test_wrong_spreads_are_rejected(spread):
    with pytest.raises(ValueError, match=r"spread must be numbers of at least 0|payoffs must have shape"):
        TableGame(np.zeros((2, 2, 2)), spread)
