"""Payoff arrays: the named games' ones, and what makes an array the payoffs of a normal-form game."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_matrl.utils.suggest import unknown

Array = npt.NDArray[np.float64]

_PRISONERS_DILEMMA = ((3, 1), (4, 2))  # actions: cooperate, defect
_CHICKEN = ((3, 2), (4, 1))  # swerve, straight
_STAG_HUNT = ((4, 1), (3, 2))  # stag, hare
_COORDINATION = ((1, 0), (0, 1))
_MATCHING_PENNIES = ((1, -1), (-1, 1))  # heads, tails
_RPS = ((0, -1, 1), (1, 0, -1), (-1, 1, 0))  # rock, paper, scissors
_SHAPLEY_ROW = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_SHAPLEY_COLUMN = ((0, 1, 0), (0, 0, 1), (1, 0, 0))


def _symmetric(row_payoffs: npt.ArrayLike) -> Array:
    row = np.asarray(row_payoffs, dtype=np.float64)
    return np.stack([row, row.T])


def _zero_sum(row_payoffs: npt.ArrayLike) -> Array:
    row = np.asarray(row_payoffs, dtype=np.float64)
    return np.stack([row, 0.0 - row])


_GAMES = {
    "rps": _zero_sum(_RPS),
    "matching_pennies": _zero_sum(_MATCHING_PENNIES),
    "prisoners_dilemma": _symmetric(_PRISONERS_DILEMMA),
    "chicken": _symmetric(_CHICKEN),
    "stag_hunt": _symmetric(_STAG_HUNT),
    "coordination": _symmetric(_COORDINATION),
    "shapley": np.array([_SHAPLEY_ROW, _SHAPLEY_COLUMN], dtype=np.float64),
}


def game_names() -> list[str]:
    """Names that :func:`named_payoffs` knows."""
    return list(_GAMES)


def named_payoffs(game: str) -> Array:
    """
    Look up the payoffs of a named game.

    :param game: one of :func:`game_names`
    :return: float64, (2, A_1, A_2), a copy
    :raises ValueError: on an unknown name, with the nearest one
    """
    if game not in _GAMES:
        raise ValueError(unknown("game", game, _GAMES))
    return _GAMES[game].copy()


def check_payoffs(payoffs: npt.ArrayLike) -> Array:
    """
    Check the payoffs of one normal-form game.

    :param payoffs: shape (n, A_1, ..., A_n)
    :return: float64 copy
    :raises ValueError: when the shape is another, or a payoff is not finite
    """
    array = as_numbers(payoffs, "(n, A_1, ..., A_n)")
    if array.ndim < 2 or array.ndim != len(array) + 1 or array.size == 0:
        raise ValueError(
            f"payoffs must have shape (n, A_1, ..., A_n): first axis the n players, then one axis of actions per player; "
            f"got shape {array.shape}"
        )
    check_finite(array)
    return array


def check_batched_payoffs(payoffs: npt.ArrayLike, n_players: int | None) -> tuple[Array, int]:
    """
    Check the payoffs of a batch of normal-form games.

    :param payoffs: shape (..., n, A_1, ..., A_n)
    :param n_players: n; ``None`` finds it from the shape, and where several fit takes the one with the fewest batch axes
    :return: float64 copy, and n
    :raises ValueError: when no n fits, or a payoff is not finite
    """
    array = as_numbers(payoffs, "(..., n, A_1, ..., A_n)")
    fitting = [n for n in range(array.ndim - 1, 0, -1) if array.shape[-n - 1] == n]
    if n_players is not None:
        fitting = [n for n in fitting if n == n_players]
    if not fitting or array.size == 0:
        wanted = "" if n_players is None else f" with n = {n_players}"
        raise ValueError(
            f"payoffs must have shape (..., n, A_1, ..., A_n){wanted}: any batch axes, an axis of the n players, "
            f"then one axis of actions per player; got shape {array.shape}"
        )
    check_finite(array)
    return array, fitting[0]


def as_numbers(payoffs: npt.ArrayLike, shape: str) -> Array:
    """
    :param payoffs: anything array-like
    :param shape: the shape wanted, for the message
    :return: float64 copy
    :raises ValueError: when these are not numbers, or the array is ragged
    """
    try:
        return np.array(payoffs, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"payoffs must be an array of numbers of shape {shape}: {error}") from error


def check_finite(payoffs: Array) -> None:
    """
    :param payoffs: any shape
    :raises ValueError: on the first entry that is NaN or infinite
    """
    if not np.isfinite(payoffs).all():
        where = tuple(np.argwhere(~np.isfinite(payoffs))[0].tolist())
        raise ValueError(f"payoffs must be finite, got {payoffs[where]} at {where}")
