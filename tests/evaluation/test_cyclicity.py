import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_matrl.evaluation import cyclic_share, cyclic_triples, cyclicity, hodge_parts

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


def transitive(ratings):
    return np.subtract.outer(ratings, ratings)


def disc_game(points):
    """Balduzzi et al. 2019, Example 1: who is ahead on the circle, within half a turn, wins."""
    return points @ np.array([[0.0, -1.0], [1.0, 0.0]]) @ points.T


def random_matrix(seed, players=7):
    matrix = np.random.default_rng(seed).normal(size=(players, players))
    return matrix - matrix.T


@given(seed=st.integers(0, 10**6), players=st.integers(3, 9))
def test_parts_add_up_are_orthogonal_and_of_their_kind(seed, players):
    matrix = random_matrix(seed, players)
    ordered, cyclic = hodge_parts(matrix)
    np.testing.assert_allclose(ordered + cyclic, matrix)
    assert (ordered * cyclic).sum() == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(cyclic.sum(axis=1), 0.0, atol=1e-9)
    for i, j, k in itertools.combinations(range(players), 3):  # the curl of the transitive part is zero
        assert ordered[i, j] + ordered[j, k] + ordered[k, i] == pytest.approx(0.0, abs=1e-9)


def test_share_of_known_games():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(8, 2))
    assert cyclic_share(RPS) == pytest.approx(1.0)
    assert cyclic_share(transitive(generator.normal(size=6))) == pytest.approx(0.0, abs=1e-12)
    assert cyclic_share(disc_game(points - points.mean(axis=0))) == pytest.approx(1.0)
    # Ratings 1, 0, -1 have squared norm 12, the cycle has 6 x^2.
    for weight in (0.5, 1.0, 3.0):
        mixed = transitive([1.0, 0.0, -1.0]) + weight * RPS
        assert cyclic_share(mixed) == pytest.approx(6 * weight**2 / (12 + 6 * weight**2))
    assert math.isnan(cyclic_share(np.zeros((3, 3))))


@given(seed=st.integers(0, 10**6))
def test_triples_are_counted_as_in_a_loop(seed):
    matrix = np.where(abs(random_matrix(seed)) < 0.3, 0.0, random_matrix(seed))
    found = [
        any(matrix[a, b] > 0 and matrix[b, c] > 0 and matrix[c, a] > 0 for a, b, c in itertools.permutations(triple))
        for triple in itertools.combinations(range(7), 3)
    ]
    assert cyclic_triples(matrix) == pytest.approx(np.mean(found))


def test_triples_of_known_games():
    assert cyclic_triples(RPS) == 1.0
    assert cyclic_triples(transitive(np.arange(5.0))) == 0.0
    assert cyclic_triples(np.zeros((4, 4))) == 0.0
    angles = 2 * np.pi * np.arange(9) / 9
    # A regular tournament of 9 players has the largest possible number, (9^3 - 9) / 24 = 30 of 84.
    assert cyclic_triples(disc_game(np.stack([np.cos(angles), np.sin(angles)], axis=1))) == pytest.approx(30 / 84)


def noisy(matrix, games, scale, seed):
    noise = np.random.default_rng(seed).normal(scale=scale, size=(games, *matrix.shape))
    return matrix + (noise - np.swapaxes(noise, 1, 2)) / math.sqrt(2)


@pytest.mark.e2e
def test_share_is_not_biased_by_noise_and_intervals_cover_it():
    matrix = transitive([1.0, 0.5, 0.0, -0.5, -1.0]) + 3.0 * disc_game(np.eye(5)[:, :2] - 0.2)
    truth, biased, found, covered = cyclic_share(matrix), [], [], []
    for seed in range(80):
        samples = noisy(matrix, 100, 8.0, seed)
        result = cyclicity(samples, n_resamples=200)
        biased.append(cyclic_share(samples.mean(axis=0)))
        found.append(result.share)
        covered.append(result.share_interval[0] <= truth <= result.share_interval[1])
    assert abs(np.mean(found) - truth) < 0.04 < np.mean(biased) - truth
    assert np.mean(covered) > 0.85


def test_equal_players_are_told_from_players_in_a_circle():
    circle, equal, ranked = (
        cyclicity(noisy(matrix, 200, 1.0, 0))
        for matrix in (np.kron(RPS, np.ones((2, 2))), np.zeros((6, 6)), transitive(np.arange(6.0)))
    )
    assert circle.share > 0.98 and circle.share_interval[0] > 0.95 and circle.noise < 0.05
    assert circle.decided_cyclic == circle.decided == 8 and circle.n_triples == 20  # one of each kind of players
    assert ranked.share < 0.01 and ranked.share_interval[1] < 0.02 and ranked.triples_interval == (0.0, 0.0)
    assert ranked.decided == 20 and ranked.decided_cyclic == 0
    assert equal.decided == 0 and (math.isnan(equal.share) or equal.share_interval[1] - equal.share_interval[0] > 0.3)
    assert equal.noise > 0.9 or math.isnan(equal.noise)


def test_exact_games_need_no_noise():
    result = cyclicity(np.repeat(RPS[None], 5, axis=0))
    assert result.share == pytest.approx(1.0) and result.triples == 1.0 and result.noise == pytest.approx(0.0, abs=1e-12)


def test_many_games_are_resampled_in_groups():
    samples = noisy(transitive([1.0, 0.0, -1.0]) + RPS, 3000, 1.0, 0)
    result = cyclicity(samples)
    assert result.share == pytest.approx(6 / 18, abs=0.05) and result.share_interval[1] - result.share_interval[0] < 0.1


def test_other_payoffs_are_rejected():
    with pytest.raises(ValueError, match="antisymmetric"):
        hodge_parts(np.ones((3, 3)))
    with pytest.raises(ValueError, match="square"):
        cyclic_triples(np.ones((3, 2)))
    with pytest.raises(ValueError, match="at least three players and two games"):
        cyclicity(RPS[None])
    assert math.isnan(cyclic_triples(np.zeros((2, 2))))
