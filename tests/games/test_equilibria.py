import numpy as np
import pytest

from sb3_matrl.games import GENERATORS, KINDS, NormalFormGame, both_actions, named_game, random_games

GRID = np.linspace(0.0, 1.0, 13)


def boxes(game):
    found = game.equilibria()
    return {(*low, *up) for low, up in zip(found.lower[found.valid], found.upper[found.valid], strict=True)}


def point(p, q):
    return (p, q, p, q)


def slow_nash_conv(payoffs, p, q):
    """(...) from the definition, for (..., 2, 2, 2) payoffs."""
    row, column = payoffs[..., 0, :, :], payoffs[..., 1, :, :]
    rows = [row[..., a, 0] * q + row[..., a, 1] * (1 - q) for a in (0, 1)]
    columns = [column[..., 0, a] * p + column[..., 1, a] * (1 - p) for a in (0, 1)]
    return np.maximum(*rows) - p * rows[0] - (1 - p) * rows[1] + np.maximum(*columns) - q * columns[0] - (1 - q) * columns[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("matching_pennies", {point(0.5, 0.5)}),
        ("prisoners_dilemma", {point(0, 0)}),
        ("chicken", {point(0, 1), point(1, 0), point(0.5, 0.5)}),
        ("stag_hunt", {point(0, 0), point(1, 1), point(0.5, 0.5)}),
        ("coordination", {point(0, 0), point(1, 1), point(0.5, 0.5)}),
    ],
)
def test_named_games_have_their_known_equilibria(name, expected):
    assert boxes(named_game(name)) == expected


@pytest.mark.parametrize(
    ("payoffs", "expected"),
    [
        (np.zeros((2, 2, 2)), {(0, 0, 1, 1)}),
        # The row player is always indifferent, the column player wants to match it: three joined segments.
        ([[[0, 0], [0, 0]], [[1, 0], [0, 1]]], {(0, 0, 0.5, 0), (0.5, 0, 0.5, 1), (0.5, 1, 1, 1)}),
        # The row player is indifferent where the column player plays action 1, who does so up to p = 3/4 at most.
        ([[[1, 0], [0, 0]], [[0, 1], [3, 0]]], {(0.75, 0, 1, 0)}),
        ([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], {(1, 0, 1, 1)}),
    ],
)
def test_degenerate_families_are_intervals(payoffs, expected):
    assert boxes(NormalFormGame(payoffs)) == expected


def all_games():
    rng = np.random.default_rng(1)
    parts = [random_games(kind, 1000, generator, seed=2).payoffs for kind in KINDS for generator in GENERATORS]
    return np.concatenate([*parts, rng.normal(size=(2000, 2, 2, 2)), rng.integers(-1, 2, size=(4000, 2, 2, 2)).astype(float)])


def test_equilibria_of_12000_games_have_no_profitable_deviation():
    payoffs = all_games()
    found = NormalFormGame(payoffs).equilibria()
    assert (found.count >= 1).all()
    for share in [*np.random.default_rng(0).random((3, 2)).tolist(), [0, 0], [0, 1], [1, 0], [1, 1]]:
        inside = found.lower + share * (found.upper - found.lower)
        regret = slow_nash_conv(payoffs[:, None], inside[..., 0], inside[..., 1])
        assert np.nanmax(regret) < 1e-8
        assert (found.distance(np.nan_to_num(inside[:, 0])) == 0.0).all()


@pytest.mark.e2e
def test_no_equilibrium_of_12000_games_is_missing():
    payoffs = all_games()
    found = NormalFormGame(payoffs).equilibria()
    # Integer payoffs in -1..1 have their roots on this grid; generic games have an odd number of isolated equilibria.
    for p in GRID:
        for q in GRID:
            equilibrium = slow_nash_conv(payoffs, p, q) < 1e-12
            assert (found.distance([p, q])[equilibrium] < 1e-9).all()
            assert (slow_nash_conv(payoffs, p, q)[found.distance([p, q]) == 0.0] < 1e-8).all()
    generic = found.is_isolated[:8000].sum(axis=1)
    assert set(np.unique(generic)) == {1, 3}


def test_the_classes_have_the_equilibria_that_define_them():
    for generator in GENERATORS:
        assert (random_games("coordination", 300, generator).equilibria().count == 3).all()
        assert (random_games("anticoordination", 300, generator).equilibria().count == 3).all()
        cyclic = random_games("cyclic", 300, generator).equilibria()
        assert (cyclic.count == 1).all() and cyclic.is_mixed.all()


def test_scales_and_offsets_of_payoffs_leave_equilibria_alone():
    games = random_games("coordination", 50, "normal")
    scaled = NormalFormGame(1e-6 * games.payoffs)
    np.testing.assert_allclose(scaled.equilibria().lower, games.equilibria().lower, rtol=1e-9)


def test_distance_is_the_largest_difference_to_the_nearest():
    games = named_game("chicken")
    assert games.equilibria().distance([0.9, 0.2]) == pytest.approx(0.2)
    assert games.equilibria().distance([[0.5, 0.4], [0.0, 1.0]]) == pytest.approx([0.1, 0.0])
    assert games.nash_conv(both_actions([0.5, 0.5])) == 0.0


def test_other_sizes_are_rejected():
    with pytest.raises(ValueError, match=r"two players with two actions each; these games have 2 players with \(3, 3\)"):
        named_game("rps").equilibria()
