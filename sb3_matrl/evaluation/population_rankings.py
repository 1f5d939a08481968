"""Rankings of players that allow for cycles: alpha-rank and Nash averaging, by OpenSpiel's implementations."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def alpha_rank(payoffs: npt.ArrayLike) -> Array:
    """
    Rank players by alpha-rank: the share of time that a population spends with each player, as players that do better invade
    it (Omidshafiei et al. 2019, "alpha-Rank: Multi-Agent Evaluation by Evolution"), in the limit of strong selection.

    :param payoffs: (K, K) mean return of the row player against the column player, such as
        :meth:`~sb3_matrl.evaluation.CrossPlayResult.symmetric_payoffs`
    :return: (K,) shares, which sum to 1
    :raises ValueError: if the payoffs are no finite square matrix
    :raises ImportError: if OpenSpiel is missing
    """
    matrix = _square(payoffs)
    if len(matrix) == 1:
        return np.ones(1)
    module = _open_spiel("open_spiel.python.egt.alpharank", "alpha-rank")
    _, _, shares, *_ = module.compute([matrix], use_inf_alpha=True)
    return np.asarray(shares, dtype=np.float64)


def nash_averaging(payoffs: npt.ArrayLike) -> tuple[Array, Array]:
    """
    Rank players by Nash averaging: the Nash equilibrium of largest entropy of the game in which each side chooses a player,
    and the payoffs against it (Balduzzi et al. 2018, "Re-evaluating Evaluation").

    :param payoffs: (K, K) antisymmetric payoffs of the row players, such as the mean over games of
        :meth:`~sb3_matrl.evaluation.CrossPlayResult.margins_by_game`
    :return: (K,) probabilities of the equilibrium, and (K,) payoffs of the players against it, which are at most 0
    :raises ValueError: if the payoffs are not antisymmetric
    :raises ImportError: if OpenSpiel is missing, or cvxpy, with which it solves the game
    """
    matrix = _square(payoffs)
    if not np.allclose(matrix, -matrix.T, atol=1e-9 * max(abs(matrix).max(initial=0.0), 1.0)):
        raise ValueError("payoffs must be antisymmetric: what one player gains the other one loses")
    # Exactly, as OpenSpiel asks for.
    matrix = (matrix - matrix.T) / 2.0
    spiel = _open_spiel("pyspiel", "Nash averaging")
    module = _open_spiel("open_spiel.python.algorithms.nash_averaging", "Nash averaging")
    strategy, scores = module.nash_averaging(spiel.create_matrix_game(matrix.tolist(), (0.0 - matrix).tolist()))
    return np.asarray(strategy, dtype=np.float64).ravel(), np.asarray(scores, dtype=np.float64).ravel()


def _open_spiel(module: str, purpose: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        package = "OpenSpiel" if missing in ("pyspiel", "open_spiel") else missing
        raise ImportError(f"{purpose} needs {package}, which is not installed: pip install 'sb3-matrl[openspiel]'") from error


def _square(payoffs: npt.ArrayLike) -> Array:
    matrix = np.array(payoffs, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"payoffs must be a square matrix of finite numbers, got shape {matrix.shape}")
    return matrix
