import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sb3_matrl.metagame.tangent import (
    from_tangent,
    one_hot,
    project_to_simplex,
    settle,
    strategy_regrets,
    tangent_basis,
    to_tangent,
)


@pytest.mark.parametrize("k", range(2, 8))
def test_the_basis_is_orthogonal_and_its_columns_sum_to_zero(k):
    basis = tangent_basis(k)
    np.testing.assert_allclose(basis.T @ basis, 2.0 * np.eye(k - 1), atol=1e-14)
    np.testing.assert_allclose(basis.sum(axis=0), 0.0, atol=1e-14)


def test_two_strategies_have_the_coordinate_of_rho():
    np.testing.assert_array_equal(tangent_basis(2), [[1.0], [-1.0]])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_coordinates_and_profiles_are_inverse(k):
    sigma = np.random.default_rng(k).dirichlet(np.ones(k), size=(4, 3))
    assert to_tangent(sigma).shape == (4, 3 * (k - 1))
    np.testing.assert_allclose(from_tangent(to_tangent(sigma), k), sigma, atol=1e-15)


def slow_projection(point):
    """Nearest point among the projections onto the affine hulls of all faces that lie in the simplex."""
    best, best_distance = None, np.inf
    for size in range(1, len(point) + 1):
        for face in itertools.combinations(range(len(point)), size):
            candidate = np.zeros(len(point))
            candidate[list(face)] = point[list(face)] + (1.0 - point[list(face)].sum()) / size
            distance = np.linalg.norm(candidate - point)
            if candidate.min() >= 0.0 and distance < best_distance:
                best, best_distance = candidate, distance
    return best


@given(hnp.arrays(np.float64, st.integers(2, 5), elements=st.floats(-3.0, 3.0)))
@settings(deadline=None)
def test_projection_is_the_nearest_distribution(point):
    projected = project_to_simplex(point)
    np.testing.assert_allclose(projected, slow_projection(point), atol=1e-12)
    assert projected.min() >= 0.0


def test_projection_of_a_batch_reaches_vertices_exactly():
    points = np.array([[[5.3, 0.1, 0.2], [0.2, 0.3, 0.5]], [[-1.0, 7.7, 0.0], [0.0, 0.0, 1.0]]])
    projected = project_to_simplex(points)
    np.testing.assert_array_equal(projected[[0, 1, 1], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(projected[0, 1], [0.2, 0.3, 0.5])


def test_settled_profiles_have_no_negligible_weights():
    settled = settle(np.array([[1.0 - 1e-12, 1e-12, 0.0], [0.5, 0.5 - 1e-11, 1e-11]]))
    np.testing.assert_array_equal(settled[0], [1.0, 0.0, 0.0])
    assert settled[1, 2] == 0.0
    assert settled[1].sum() == 1.0


def test_regrets_are_the_gains_of_the_best_deviations():
    rng = np.random.default_rng(0)
    sigma, payoffs = rng.dirichlet(np.ones(3), size=(5, 2)), rng.standard_normal((5, 2, 3))
    for index in np.ndindex(5, 2):
        gain = max(payoffs[index]) - sum(sigma[index] * payoffs[index])
        assert strategy_regrets(sigma, payoffs)[index] == pytest.approx(gain)
    assert not strategy_regrets(one_hot(payoffs.argmax(axis=2), 3), payoffs).any()
