import numpy as np
import pytest

from sb3_matrl.metagame import (
    MetaGame,
    classify,
    classify_strategies,
    eigenvalues,
    fixed_point_type,
    improvement_lower_bound,
    solve,
)
from tests.metagame.test_solvers import CHICKEN, COORDINATION, CYCLE, DILEMMA, PENNIES
from tests.metagame.test_strategy_solvers import COORDINATION as COORDINATION_OF_THREE
from tests.metagame.test_strategy_solvers import ROCK_PAPER_SCISSORS, SHAPLEY


def test_eigenvalues_of_two_agents_are_the_root_of_the_product():
    np.testing.assert_allclose(eigenvalues([[0, 2], [8, 0]]), [4, -4])
    np.testing.assert_allclose(eigenvalues([[0, 2], [-8, 0]]), [4j, -4j])


KNOWN = [
    (PENNIES, [0.5, 0.5], "rotational"),
    (COORDINATION, [1 / 3, 1 / 3], "saddle"),
    (COORDINATION, [1, 1], "stable"),
    (COORDINATION, [1, 0], "unstable"),
    (DILEMMA, [0, 0], "stable"),
    (DILEMMA, [1, 1], "unstable"),
    (DILEMMA, [0, 1], "saddle"),
    (CHICKEN, [0.9, 0.9], "saddle"),
    (CHICKEN, [0, 1], "stable"),
    (np.zeros((2, 2, 2)), [0.3, 1], "stable"),
    (PENNIES, [0.2, 0.5], "none"),
    # Three in a cycle: eigenvalues are the cube roots of -1, one negative, a growing pair.
    (CYCLE, [0.5, 0.5, 0.5], "saddle"),
]


@pytest.mark.parametrize(("table", "rho", "expected"), KNOWN)
def test_known_fixed_points(table, rho, expected):
    assert fixed_point_type(MetaGame.from_payoffs(table), rho) == expected


TIES = [
    # Zero gradient at the corner (0, 0): the paper's cooperative case, entries <= 0 push every feasible move back.
    ([[0, -1], [-1, 0]], [0, 0], "stable"),
    ([[0, 1], [1, 0]], [0, 0], "unstable"),
    ([[0, 1], [1, 0]], [0, 1], "stable"),
    ([[0, -1], [-1, 0]], [0, 1], "unstable"),
    ([[0, -1], [1, 0]], [0, 0], "stable"),
    ([[0, 1], [1, 0]], None, "saddle"),
    ([[0, 1], [-1, 0]], None, "rotational"),
    ([[0, 1], [0, 0]], None, "stable"),
    # A tie at the boundary that a mixing agent can release.
    ([[0, 1], [1, 0]], [0, 0.5], "saddle"),
    ([[0, 0], [1, 0]], [0, 0.5], "stable"),
    ([[0, 1, -1], [1, 0, 1], [1, 1, 0]], [0, 0, 0], "saddle"),
]


@pytest.mark.parametrize(("hessian", "rho", "expected"), TIES)
def test_ties_at_the_boundary_count_feasible_directions_only(hessian, rho, expected):
    assert classify(hessian, rho) == expected


def test_held_and_leaving_agents_make_a_saddle():
    assert classify(np.zeros((2, 2)), [0, 0], [-1, 1]) == "saddle"
    assert classify(np.zeros((2, 2)), [1, 1], [1, 1]) == "stable"


def test_equilibria_are_fixed_points():
    rng = np.random.default_rng(0)
    for n in (2, 3, 4, 5):
        for _ in range(5):
            game = MetaGame.from_payoffs(rng.standard_normal((n, *(2,) * n)))
            assert fixed_point_type(game, solve(game, rng=rng).rho) in ("stable", "saddle", "rotational")


def in_two_strategies(rho):
    return np.stack([rho, 1.0 - np.asarray(rho)], axis=1)


@pytest.mark.parametrize(("table", "rho", "expected"), KNOWN)
def test_types_of_many_strategies_are_those_of_two(table, rho, expected):
    game = MetaGame.from_payoffs(table)
    unit = game.scale or 1.0
    hessian, gradient = game.hessian(rho) / unit, game.gradient(rho) / unit
    assert classify_strategies(hessian, in_two_strategies(rho), gradient) == expected
    assert fixed_point_type(game, in_two_strategies(rho)) == expected


@pytest.mark.parametrize(("hessian", "rho", "expected"), TIES)
def test_ties_of_many_strategies_are_those_of_two(hessian, rho, expected):
    point = np.full(len(hessian), 0.5) if rho is None else rho
    assert classify_strategies(hessian, in_two_strategies(point), np.zeros(len(hessian))) == expected


def test_random_corners_and_faces_have_the_same_type_in_both_forms():
    rng = np.random.default_rng(3)
    for _ in range(200):
        n = int(rng.integers(1, 5))
        hessian = rng.integers(-1, 2, (n, n)) * (1.0 - np.eye(n))
        rho = rng.choice([0.0, 0.5, 1.0], n)
        gradient = np.where(rho == 0.5, 0.0, rng.integers(-1, 2, n))
        expected = classify(hessian, rho, gradient)
        assert classify_strategies(hessian, in_two_strategies(rho), gradient) == expected


EVEN = np.full((2, 3), 1 / 3)


@pytest.mark.parametrize(
    ("table", "sigma", "expected"),
    [
        (ROCK_PAPER_SCISSORS, EVEN, "rotational"),
        (SHAPLEY, EVEN, "saddle"),
        (ROCK_PAPER_SCISSORS, np.eye(3)[[0, 0]], "saddle"),
        (ROCK_PAPER_SCISSORS, [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], "none"),
        (COORDINATION_OF_THREE, np.eye(3)[[1, 1]], "stable"),
        (COORDINATION_OF_THREE, [[0.75, 0.25, 0.0], [0.75, 0.25, 0.0]], "saddle"),
        (COORDINATION_OF_THREE, np.eye(3)[[0, 1]], "unstable"),
        (-COORDINATION_OF_THREE, np.eye(3)[[1, 1]], "unstable"),
        (np.zeros((2, 3, 3)), np.eye(3)[[0, 1]], "stable"),
        (np.zeros((2, 3, 3)), EVEN, "stable"),
        # Both may leave the corner for the last strategy together, though neither gains alone.
        (np.array([np.diag([0.0, -1.0, 1.0])] * 2), np.eye(3)[[0, 0]], "saddle"),
    ],
)
def test_known_fixed_points_of_three_strategies(table, sigma, expected):
    assert fixed_point_type(MetaGame.from_payoffs(table), sigma) == expected


def test_eigenvalues_of_rock_paper_scissors_are_imaginary_pairs():
    # Ascent of sigma_i' = 2 P A sigma_j turns at the rate 2 |eigenvalues of A| = 2 sqrt(3).
    values = eigenvalues(MetaGame.from_payoffs(ROCK_PAPER_SCISSORS).hessian(EVEN))
    np.testing.assert_allclose(np.sort(values.imag), 2 * np.sqrt(3) * np.array([-1, -1, 1, 1]), atol=1e-12)
    np.testing.assert_allclose(values.real, 0.0, atol=1e-12)


def test_equilibria_of_three_strategies_are_fixed_points():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3):
        for _ in range(5):
            game = MetaGame.from_payoffs(rng.standard_normal((n, *(3,) * n)))
            assert fixed_point_type(game, solve(game, rng=rng).sigma) in ("stable", "saddle", "rotational")


def test_profiles_of_another_size_than_the_hessian_are_rejected():
    with pytest.raises(ValueError, match="needs a hessian of n"):
        classify_strategies(np.zeros((3, 3)), EVEN, np.zeros(3))


def test_lower_bound_of_two_agents_is_equation_4_and_31():
    gain, eps, alpha, gamma, rho = np.array([1.0, 2.0]), np.array([0.5, 0.7]), np.array([0.1, 0.2]), 0.9, np.array([0.25, 0.5])
    joint = 0.1 + 0.2 - 0.1 * 0.2
    np.testing.assert_allclose(improvement_lower_bound(gain, eps, alpha, gamma), gain - 4 * 0.9 * eps / 0.01 * joint**2)
    mixed = 0.1 * 0.75 + 0.2 * 0.5 - 0.1 * 0.2 * 0.75 * 0.5
    np.testing.assert_allclose(improvement_lower_bound(gain, eps, alpha, gamma, rho), gain - 4 * 0.9 * eps / 0.01 * mixed**2)


def test_lower_bound_takes_a_discount_per_agent_and_is_vacuous_without_discounting():
    each = [improvement_lower_bound([1.0, 1.0], 0.5, 0.1, gamma)[0] for gamma in (0.5, 0.9)]
    np.testing.assert_allclose(improvement_lower_bound([1.0, 1.0], 0.5, 0.1, [0.5, 0.9]), each)
    np.testing.assert_array_equal(improvement_lower_bound([1.0, 1.0], [0.5, 0.0], 0.1, 1.0), [-np.inf, 1.0])


def test_lower_bound_at_current_is_the_payoff():
    np.testing.assert_array_equal(improvement_lower_bound([0.0, 0.0, 0.0], 1.0, [0.5] * 3, 0.99, np.ones(3)), 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 1.0, 0.1, 0.9), r"shape \(n,\)"),
        (([1.0], [1.0, 2.0], 0.1, 0.9), "max_advantage must have shape"),
        (([1.0], -1.0, 0.1, 0.9), "max_advantage"),
        (([1.0], 1.0, 1.1, 0.9), "total_variation must lie"),
        (([1.0], 1.0, 0.1, 1.1), "gamma must lie"),
        (([1.0], 1.0, 0.1, np.nan), "gamma must lie"),
        (([1.0], 1.0, 0.1, 0.9, [2.0]), "rho must lie"),
    ],
)
def test_bad_bounds_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        improvement_lower_bound(*arguments)


def test_bad_hessians_are_rejected():
    with pytest.raises(ValueError, match="finite"):
        eigenvalues(np.ones((2, 3)))
