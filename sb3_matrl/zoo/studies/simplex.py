"""Phase portraits of 3x3 games: one triangle of strategies per player, learners that ascend the logits of a softmax."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch as th
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_matrl.games import DifferentiableGame, NormalFormGame
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.zoo.studies import outcome
from sb3_matrl.zoo.studies.portrait import (
    Portrait,
    draw_field,
    draw_path,
    draw_start,
    make_learners,
    row,
    trajectories,
    unique_legend,
)
from sb3_matrl.zoo.studies.study_options import DynamicsOptions

# Without MATRL-TR: it gets stuck at corners, where a softmax is flat and the steps that it measures are long.
LEARNERS = ("gd", "extragradient", "matrl")
START = (0.6, 0.3, 0.1, 0.2, 0.3, 0.5)
STEPS = 300
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
_GRID = 12


def simplex_portrait(game: NormalFormGame, title: str, actions: Sequence[str], options: DynamicsOptions) -> Portrait:
    """
    :param game: single 3x3 game
    :param title: title of the picture
    :param actions: names of the three actions
    :param options: options of the study
    :return: rows and picture; equilibria are pairs of strategies
    :raises ValueError: on unknown learners, a start that is not made of positive probabilities, or a learning rate of zero or
        below
    """
    settings = {"learning_rate": options.learning_rate}
    learners = make_learners(options.learners or LEARNERS, DifferentiableGame, settings)
    start = np.log(_start(options.start)).ravel()
    steps = STEPS if options.steps is None else options.steps
    logits = trajectories(title, learners, softmax_policies(game, title), start, steps)
    paths = {name: _probabilities(path[~np.isnan(path).any(axis=1)]) for name, path in logits.items()}
    equilibria = support_equilibria(game)
    rows = [_row(game, name, settings, path, equilibria) for name, path in paths.items()]
    return Portrait(rows, equilibria, _figure(game, title, actions, paths, equilibria))


def softmax_policies(game: NormalFormGame, name: str) -> DifferentiableGame:
    """
    :param game: single game of two players
    :param name: name for messages
    :return: game in which both players choose logits, and a player's loss is minus its expected payoff
    """
    payoffs = th.tensor(game.payoffs)

    def losses(logits: Sequence[th.Tensor]) -> list[th.Tensor]:
        first, second = (th.softmax(one, 0) for one in logits)
        return [-(first @ matrix @ second) for matrix in payoffs]

    return DifferentiableGame(game.n_actions, losses, name=name)


def _start(given: Sequence[float] | None) -> Array:
    """:return: (2, 3) checked probabilities"""
    start = np.asarray(START if given is None else given, dtype=np.float64)
    if start.shape != (6,) or not (start > 0.0).all() or not np.allclose(start.reshape(2, 3).sum(axis=1), 1.0, atol=1e-6):
        raise ValueError(
            f"--start of a 3x3 game must be six probabilities above 0, three per player that sum to 1, got {start.tolist()}"
        )
    return start.reshape(2, 3)


def _probabilities(logits: Array) -> Array:
    """:return: (k, 2, 3) softmax of the players' logits (k, 6)"""
    parts = logits.reshape(-1, 2, 3)
    powers = np.exp(parts - parts.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _row(
    game: NormalFormGame, name: str, settings: dict[str, Any], path: Array, equilibria: Sequence[Array]
) -> dict[str, Any]:
    distances = np.min([np.abs(path - point).max(axis=(1, 2)) for point in equilibria], axis=0)
    return row(name, settings, distances, path[-1], float(game.nash_conv(list(path[-1]))))


def support_equilibria(game: NormalFormGame, tolerance: float = 1e-9) -> list[Array]:
    """
    Find equilibria by enumeration of supports of equal size: all of them in nondegenerate games (von Stengel 2002,
    Algorithm 3).

    :param game: single game of two players
    :param tolerance: largest NashConv, in units of the game's payoffs
    :return: equilibria, each (2, A)
    """
    found = []
    rows, columns = (range(count) for count in game.n_actions)
    for size in range(1, min(game.n_actions) + 1):
        for pair in itertools.product(itertools.combinations(rows, size), itertools.combinations(columns, size)):
            blocks = [payoffs[np.ix_(*pair)] for payoffs in game.payoffs]
            mixed = [_indifferent(blocks[1].T), _indifferent(blocks[0])]
            if any(one is None for one in mixed):
                continue
            point = np.zeros((2, game.n_actions[0]))
            for player in range(2):
                point[player, list(pair[player])] = mixed[player]
            if game.nash_conv(list(point)) <= tolerance:
                found.append(point)
    return found


def _indifferent(payoffs: Array) -> Array | None:
    """:return: (k,) probabilities of the columns that make all rows of (k, k) payoffs equal, if they exist"""
    size = len(payoffs)
    system = np.block([[payoffs, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
    try:
        weights = np.linalg.solve(system, np.eye(size + 1)[-1])[:-1]
    except np.linalg.LinAlgError:
        return None
    return np.asarray(np.abs(weights)) if (weights > -1e-12).all() else None


def _figure(
    game: NormalFormGame, title: str, actions: Sequence[str], paths: dict[str, Array], equilibria: Sequence[Array]
) -> Figure:
    figure = outcome.new_figure(7.2, 3.6)
    with mpl.rc_context(outcome.STYLE):
        figure.suptitle(title)
        for player, axes in enumerate(figure.subplots(1, 2)):
            _draw_triangle(axes, actions)
            axes.set_title(f"player {player + 1}")
            points = _grid()
            draw_field(axes, points @ _CORNERS, _field(game, player, points) @ _CORNERS)
            for name, path in paths.items():
                draw_path(axes, name, path[:, player] @ _CORNERS)
            draw_start(axes, next(iter(paths.values()))[0, player] @ _CORNERS)
            for point in equilibria:
                place = point[player] @ _CORNERS
                axes.plot(*place, "o", color="white", markeredgecolor="black", markersize=8, label="equilibrium", zorder=6)
        figure.legend(*unique_legend(axes), loc="outside lower center", ncols=6)
    return figure


def _draw_triangle(axes: Axes, actions: Sequence[str]) -> None:
    axes.plot(*_CORNERS[[0, 1, 2, 0]].T, color="black", linewidth=0.8, zorder=1)
    places: list[tuple[tuple[int, int], dict[str, str]]] = [
        ((0, -4), {"ha": "center", "va": "top"}),
        ((0, -4), {"ha": "center", "va": "top"}),
        ((0, 4), {"ha": "center", "va": "bottom"}),
    ]
    for corner, name, (offset, alignment) in zip(_CORNERS, actions, places, strict=True):
        axes.annotate(name, corner, xytext=offset, textcoords="offset points", **alignment)  # type: ignore[arg-type]
    axes.set(aspect="equal", xlim=(-0.05, 1.05), ylim=(-0.08, 0.95))
    axes.axis("off")


def _grid() -> Array:
    """:return: (k, 3) points inside the simplex"""
    counts = [(i, j, _GRID - i - j) for i in range(1, _GRID) for j in range(1, _GRID - i)]
    return np.array(counts, dtype=np.float64) / _GRID


def _field(game: NormalFormGame, player: int, points: Array) -> Array:
    """:return: (k, 3) how softmax ascent moves a player against an opponent with the same mixture: J^2 times the payoffs"""
    values = game.action_payoffs([points, points])[player]
    for _ in range(2):
        values = points * (values - (points * values).sum(axis=1, keepdims=True))
    return values
