from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from sb3_matrl.evaluation import alpha_rank, nash_averaging

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
needs_open_spiel = pytest.mark.skipif(find_spec("pyspiel") is None, reason="needs OpenSpiel")
needs_cvxpy = pytest.mark.skipif(find_spec("cvxpy") is None, reason="needs cvxpy")


@needs_open_spiel
def test_alpha_rank_of_a_circle_and_of_an_order():
    np.testing.assert_allclose(alpha_rank(RPS), 1 / 3, atol=1e-9)
    # A player that beats all: leaving it has a chance of 0.01 in place of 0.99, so that it has nearly all the time.
    shares = alpha_rank(np.subtract.outer([2.0, 1.0, 0.0], [2.0, 1.0, 0.0]))
    assert shares[0] > 0.97 and shares.sum() == pytest.approx(1.0) and list(np.argsort(-shares)) == [0, 1, 2]
    np.testing.assert_array_equal(alpha_rank([[0.0]]), [1.0])


@needs_open_spiel
@needs_cvxpy
def test_nash_averaging_of_a_circle_with_a_weak_player():
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = RPS
    matrix[:3, 3], matrix[3, :3] = 0.5, -0.5
    strategy, payoffs = nash_averaging(matrix)
    np.testing.assert_allclose(strategy, [1 / 3, 1 / 3, 1 / 3, 0.0], atol=1e-4)
    np.testing.assert_allclose(payoffs, [0.0, 0.0, 0.0, -0.5], atol=1e-4)


@pytest.mark.parametrize("function", [alpha_rank, nash_averaging])
def test_without_open_spiel_the_extra_is_named(function, monkeypatch):
    def missing(name):
        if name.partition(".")[0] in ("open_spiel", "pyspiel"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(name)

    monkeypatch.setattr("sb3_matrl.evaluation.population_rankings.import_module", missing)
    with pytest.raises(ImportError, match=r"needs OpenSpiel, which is not installed: pip install 'sb3-matrl\[openspiel\]'"):
        function(RPS)


def test_other_payoffs_are_rejected():
    with pytest.raises(ValueError, match="square matrix"):
        alpha_rank(np.ones((2, 3)))
    with pytest.raises(ValueError, match="antisymmetric"):
        nash_averaging(np.ones((2, 2)))
