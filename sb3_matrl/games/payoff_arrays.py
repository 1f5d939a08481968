"""Checks of payoff arrays: shape (n, A_1, ..., A_n), or a batch of them, finite numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def check_payoffs(payoffs: npt.ArrayLike) -> Array:
    """
    Check the payoffs of one normal-form game.

    :param payoffs: shape (n, A_1, ..., A_n)
    :return: float64 copy
    :raises ValueError: on another shape, or a payoff that is not finite
    """
    array = _as_numbers(payoffs, "(n, A_1, ..., A_n)")
    if array.ndim < 2 or array.ndim != len(array) + 1 or array.size == 0:
        raise ValueError(
            f"payoffs must have shape (n, A_1, ..., A_n): first axis the n players, then one axis of actions per player; "
            f"got shape {array.shape}"
        )
    _check_finite(array)
    return array


def check_batched_payoffs(payoffs: npt.ArrayLike, n_players: int | None) -> tuple[Array, int]:
    """
    Check the payoffs of a batch of normal-form games.

    :param payoffs: shape (..., n, A_1, ..., A_n)
    :param n_players: n; ``None`` infers it from the shape: if several n fit, the one with the fewest batch axes
    :return: float64 copy, and n
    :raises ValueError: if no n fits, or a payoff is not finite
    """
    array = _as_numbers(payoffs, "(..., n, A_1, ..., A_n)")
    fitting = [n for n in range(array.ndim - 1, 0, -1) if array.shape[-n - 1] == n]
    if n_players is not None:
        fitting = [n for n in fitting if n == n_players]
    if not fitting or array.size == 0:
        wanted = "" if n_players is None else f" with n = {n_players}"
        raise ValueError(
            f"payoffs must have shape (..., n, A_1, ..., A_n){wanted}: any batch axes, an axis of the n players, "
            f"then one axis of actions per player; got shape {array.shape}"
        )
    _check_finite(array)
    return array, fitting[0]


def _as_numbers(payoffs: npt.ArrayLike, shape: str) -> Array:
    """:return: float64 copy; ``shape`` is the expected one, for the message"""
    try:
        return np.array(payoffs, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"payoffs must be an array of numbers of shape {shape}: {error}") from error


def _check_finite(payoffs: Array) -> None:
    if not np.isfinite(payoffs).all():
        where = tuple(np.argwhere(~np.isfinite(payoffs))[0].tolist())
        raise ValueError(f"payoffs must be finite, got {payoffs[where]} at {where}")
