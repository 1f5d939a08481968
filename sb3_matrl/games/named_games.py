"""Two-player games by name, such as chicken and rock-paper-scissors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.utils.suggest import unknown

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
    """Names that :func:`named_game` and :func:`named_payoffs` know."""
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


def named_game(name: str) -> NormalFormGame:
    """
    Look up a named game.

    :param name: one of :func:`game_names`, e.g. ``"matching_pennies"``
    :return: the game, not batched
    :raises ValueError: on an unknown name, with the nearest one
    """
    return NormalFormGame(named_payoffs(name), n_players=2)
