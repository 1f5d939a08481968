import itertools

import numpy as np
import pytest

from sb3_matrl.games import NormalFormGame, both_actions, named_game, random_games
from sb3_matrl.games.named_games import game_names


def slow_payoff(payoffs, strategies, player):
    """Summed over all joint actions."""
    joints = itertools.product(*(range(len(strategy)) for strategy in strategies))
    return sum(np.prod([s[a] for s, a in zip(strategies, joint, strict=True)]) * payoffs[(player, *joint)] for joint in joints)


@pytest.mark.parametrize("counts", [(3,), (2, 3), (2, 2, 2), (3, 1, 2, 2)])
def test_payoffs_and_nash_conv_of_a_batch_equal_the_sum_over_all_joint_actions(counts):
    rng = np.random.default_rng(len(counts))
    payoffs = rng.normal(size=(4, len(counts), *counts))
    strategies = [rng.dirichlet(np.ones(count), size=4) for count in counts]
    games = NormalFormGame(payoffs, n_players=len(counts))
    for b in range(4):
        mixed = [strategy[b] for strategy in strategies]
        slow = [slow_payoff(payoffs[b], mixed, player) for player in range(len(counts))]
        np.testing.assert_allclose(games.expected_payoffs(strategies)[b], slow, atol=1e-12)
        best = [
            max(slow_payoff(payoffs[b], [*mixed[:i], pure, *mixed[i + 1 :]], i) for pure in np.eye(counts[i]))
            for i in range(len(counts))
        ]
        assert games.nash_conv(strategies)[b] == pytest.approx(sum(best) - sum(slow), abs=1e-12)
        assert games[b].nash_conv(mixed) == pytest.approx(games.nash_conv(strategies)[b], abs=1e-12)


def test_one_strategy_serves_the_whole_batch():
    games = random_games("cyclic", 5)
    values = games.expected_payoffs(both_actions([0.3, 0.6]))
    assert values.shape == (5, 2)
    np.testing.assert_allclose(values[2], games[2].expected_payoffs([[0.3, 0.7], [0.6, 0.4]]))


def test_the_gradient_field_equals_finite_differences_and_differences_of_payoffs():
    games = random_games("anticoordination", 20, "normal", seed=3)
    rng = np.random.default_rng(0)
    here, there = rng.random((2, 20, 2))
    value = lambda x: games.expected_payoffs(both_actions(x))  # noqa: E731
    for player in range(2):
        step = 1e-3 * np.eye(2)[player]
        slope = (value(here + step) - value(here - step))[:, player] / 2e-3
        np.testing.assert_allclose(games.field().gradient(here)[:, player], slope, atol=1e-10)
    np.testing.assert_allclose(games.field().advantage(here, there), value(there) - value(here), atol=1e-12)


def test_a_shape_that_fits_twice_is_the_larger_game_by_default():
    payoffs = np.zeros((3, 2, 2, 2))
    assert NormalFormGame(payoffs).n_players == 3
    assert NormalFormGame(payoffs, n_players=2).batch_shape == (3,)
    with pytest.raises(ValueError, match=r"3 players with .* actions; for a batch of 2x2 games pass n_players=2"):
        NormalFormGame(payoffs).equilibria()


@pytest.mark.parametrize("shape", [(), (2,), (2, 2), (3, 2, 2), (5, 3, 2, 2), (2, 0, 2)])
def test_wrong_shapes_are_rejected(shape):
    with pytest.raises(ValueError, match=r"payoffs must have shape \(\.\.\., n, A_1, \.\.\., A_n\).*got shape"):
        NormalFormGame(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_payoffs_that_are_not_finite_are_rejected_with_their_index(bad):
    payoffs = np.zeros((4, 2, 2, 2))
    payoffs[3, 1, 0, 1] = bad
    with pytest.raises(ValueError, match=rf"must be finite, got {bad} at \(3, 1, 0, 1\)"):
        NormalFormGame(payoffs)


def test_ragged_payoffs_are_rejected():
    with pytest.raises(ValueError, match="payoffs must be an array of numbers"):
        NormalFormGame([[[1, 2], [3]], [[1, 2], [3, 4]]])


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.5, -0.5], [1.0], [np.nan, 1.0]])
def test_strategies_outside_the_simplex_are_rejected(bad):
    with pytest.raises(ValueError, match="strategy of player 1 must be 2 probabilities that sum to 1"):
        named_game("chicken").nash_conv([[1, 0], bad])


def test_unknown_games_are_rejected_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'chicken'"):
        named_game("chiken")


def test_named_games_have_their_textbook_payoffs():
    assert set(game_names()) >= {"matching_pennies", "prisoners_dilemma", "chicken", "stag_hunt", "rps", "shapley"}
    np.testing.assert_array_equal(named_game("matching_pennies").payoffs, [[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]])
    np.testing.assert_array_equal(named_game("chicken").payoffs, [[[3, 2], [4, 1]], [[3, 4], [2, 1]]])
    np.testing.assert_array_equal(named_game("prisoners_dilemma").payoffs, [[[3, 1], [4, 2]], [[3, 4], [1, 2]]])
    np.testing.assert_array_equal(named_game("stag_hunt").payoffs, [[[4, 1], [3, 2]], [[4, 3], [1, 2]]])
