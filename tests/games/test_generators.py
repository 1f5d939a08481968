import numpy as np
import pytest

from sb3_matrl.games import GENERATORS, KINDS, random_games


def holds(kind, payoffs):
    (a, b), (c, d) = payoffs[0]
    (e, g), (f, h) = payoffs[1]
    if kind == "coordination":
        return a > c and b < d and e > g and f < h
    if kind == "anticoordination":
        return a < c and b > d and e < g and f > h
    return (a > c and b < d and e < g and f > h) or (a < c and b > d and e > g and f < h)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_games_satisfy_the_conditions_of_their_class_and_repeat(kind, generator):
    games = random_games(kind, 500, generator, seed=4)
    assert games.batch_shape == (500,)
    assert all(holds(kind, payoffs) for payoffs in games.payoffs)
    np.testing.assert_array_equal(games.payoffs, random_games(kind, 500, generator, seed=4).payoffs)
    assert not np.array_equal(games.payoffs, random_games(kind, 500, generator, seed=5).payoffs)


def test_both_orientations_of_cyclic_games_are_drawn():
    for generator in GENERATORS:
        first = random_games("cyclic", 1000, generator).payoffs[:, 0]
        assert 0.4 < (first[:, 0, 0] > first[:, 1, 0]).mean() < 0.6


def test_sorted_pairs_have_the_distribution_of_rejected_draws():
    draws = np.random.default_rng(0).normal(size=(200_000, 2, 2, 2))
    kept = draws[[holds("coordination", payoffs) for payoffs in draws[:40_000]] + [False] * 160_000]
    mine = random_games("coordination", 40_000, "normal").payoffs
    np.testing.assert_allclose(mine.mean(axis=0), kept.mean(axis=0), atol=0.08)
    np.testing.assert_allclose(mine.std(axis=0), kept.std(axis=0), atol=0.08)


@pytest.mark.parametrize("kind", KINDS)
def test_paper_games_stay_in_the_ranges_of_their_recipe(kind):
    payoffs = random_games(kind, 2000).payoffs
    low, high = {"coordination": (0, 4), "anticoordination": (-2, 2), "cyclic": (-1.5, 2)}[kind]
    assert payoffs.min() >= low and payoffs.max() <= high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cylic", 3), "class of games 'cylic' is unknown; did you mean 'cyclic'"),
        (("cyclic", 3, "norml"), "generator 'norml' is unknown; did you mean 'normal'"),
        (("cyclic", 0), "count must be an integer of at least 1, got 0"),
        (("cyclic", 2.5), "count must be an integer of at least 1, got 2.5"),
    ],
)
def test_bad_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_games(*arguments)
