import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_matrl.evaluation import bradley_terry

RPS_WINS = np.array([[0, 0, 10], [10, 0, 0], [0, 10, 0]])


@given(won=st.integers(1, 500), lost=st.integers(1, 500))
def test_two_players_have_the_closed_form(won, lost):
    ratings = bradley_terry([[0, won], [lost, 0]], virtual_draws=0.0)
    assert ratings.values[0] - ratings.values[1] == pytest.approx(400 * math.log10(won / lost), abs=1e-6)
    # The log odds have variance 1 / won + 1 / lost; each rating is half of their difference.
    error = 400 / math.log(10) * math.sqrt(1 / won + 1 / lost) / 2
    assert ratings.high[0] - ratings.values[0] == pytest.approx(1.959964 * error, rel=1e-5)
    assert ratings.expected_scores()[0, 1] == pytest.approx(won / (won + lost), abs=1e-9)


def test_expected_scores_of_the_fit_equal_the_scores():
    """The maximum of the likelihood: every player's expected number of wins is the observed one."""
    wins = np.random.default_rng(0).integers(1, 30, size=(6, 6)).astype(float)
    np.fill_diagonal(wins, 0)
    ratings = bradley_terry(wins, virtual_draws=0.0)
    expected = (wins + wins.T) * ratings.expected_scores()
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(expected.sum(axis=1), wins.sum(axis=1), rtol=1e-8)
    assert ratings.values.sum() == pytest.approx(0.0, abs=1e-8)


def test_intervals_cover_the_ratings_of_simulated_players():
    generator, truth = np.random.default_rng(1), np.array([-250.0, -80.0, 0.0, 90.0, 240.0])
    chances = 1 / (1 + 10 ** ((truth[None] - truth[:, None]) / 400))
    covered = []
    for _ in range(200):
        upper = np.triu(generator.binomial(60, chances), 1)
        wins = upper + np.tril(60 - upper.T, -1)
        ratings = bradley_terry(wins, virtual_draws=0.0)
        covered.append((ratings.low <= truth) & (truth <= ratings.high))
    assert 0.93 < np.mean(covered) < 0.97


def test_players_in_a_circle_have_equal_ratings():
    np.testing.assert_allclose(bradley_terry(RPS_WINS).values, 0.0, atol=1e-9)


def test_a_player_that_won_all_games_has_a_finite_rating():
    wins = [[0, 20, 20], [0, 0, 10], [0, 10, 0]]
    ratings = bradley_terry(wins)
    assert np.isfinite(ratings.values).all() and ratings.values[0] > 400 > ratings.values[1]
    with pytest.raises(ValueError, match="ratings need virtual_draws > 0"):
        bradley_terry(wins, virtual_draws=0.0)


@pytest.mark.parametrize("wins", [[[0, 1]], [[0, -1], [1, 0]], [[0, math.nan], [1, 0]]])
def test_other_tables_are_rejected(wins):
    with pytest.raises(ValueError, match="wins must be a square table"):
        bradley_terry(wins)
