import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sb3_matrl.utils.reward_structure import reward_structure

RETURNS = arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(2, 4)), elements=st.floats(-100, 100, width=32))


@pytest.mark.parametrize(
    ("returns", "structure"),
    [
        ([[3.0, 3.0], [-1.0, -1.0]], "common"),
        ([[2.0]], "common"),
        (np.empty((0, 2)), "common"),
        ([[0.0, 0.0]], "common"),
        ([[21.0, -21.0]], "constant-sum"),  # one greedy game of Pong
        ([[21.0, -21.0]] * 3, "constant-sum"),
        ([[1.0, 0.0], [0.0, 1.0]], "constant-sum"),
        ([[1.0, 0.0], [1.0, 0.0]], "individual"),  # nothing changes: a deterministic world would look like this
        ([[5.0, 1.0], [4.0, 1.0]], "individual"),
        ([[2.0, -1.0, -1.0], [-3.0, 1.0, 2.0]], "constant-sum"),
        ([[2.0, -1.0], [np.nan, 1.0]], "individual"),
    ],
)
def test_structure_of_known_games(returns, structure):
    assert reward_structure(np.array(returns)) == structure


@given(RETURNS, st.floats(-50, 50))
def test_returns_that_are_made_to_have_a_constant_sum_do(returns, total):
    returns[:, -1] = total - returns[:, :-1].sum(axis=1)
    scale = np.abs(returns).max()
    if np.ptp(returns, axis=1).max() > 1e-3 * scale and np.ptp(returns, axis=0).max() > 1e-3 * scale:
        assert reward_structure(returns) == "constant-sum"


@given(RETURNS)
def test_sums_that_change_are_never_constant(returns):
    if np.ptp(returns.sum(axis=1)) > 1e-3 * np.abs(returns).max():
        assert reward_structure(returns) != "constant-sum"
