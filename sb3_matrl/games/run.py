"""Run learners on batches of 2x2 games, and measure where they end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_matrl.games.equilibria import Equilibria
from sb3_matrl.games.learners import Learner
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoffs import Array

#: Steps measured at once, so that the temporaries stay in the cache.
_BLOCK = 32


def run(learner: Learner, games: NormalFormGame, start: npt.ArrayLike, steps: int) -> Array:
    """
    Let both players learn at the same time.

    :param learner: from :func:`~sb3_matrl.games.make_learner`
    :param games: 2x2 games, one batch axis (or a single game, which counts as a batch of one)
    :param start: (2,) or (batch, 2) probabilities of action 0
    :param steps: number of steps
    :return: (steps + 1, batch, 2) probabilities of action 0, the start first
    :raises ValueError: for games of another size, a start outside [0, 1] or of another shape, or fewer than 0 steps
    """
    games.require_two_by_two("run()")
    batch = games if games.batch_shape else games[None]
    if len(batch.batch_shape) != 1:
        raise ValueError(f"run() takes one batch axis, these games have batch shape {games.batch_shape}")
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
        raise ValueError(f"steps must be an integer of at least 0, got {steps!r}")
    trajectories = np.empty((int(steps) + 1, len(batch), 2))
    trajectories[0] = check_start(start, len(batch))
    dynamics = learner.start(batch, trajectories[0])
    for step in range(int(steps)):
        trajectories[step + 1] = dynamics.step(trajectories[step])
    return trajectories


def check_start(start: npt.ArrayLike, batch: int) -> Array:
    """
    :param start: (2,) or (batch, 2) probabilities of action 0
    :param batch: number of games
    :return: float64
    :raises ValueError: on another shape, or an entry outside [0, 1]
    """
    try:
        points = np.asarray(start, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"start must be probabilities of action 0, of shape (2,) or ({batch}, 2): {error}") from error
    if points.shape not in ((2,), (batch, 2)):
        raise ValueError(f"start must have shape (2,) or ({batch}, 2), one probability per player, not {points.shape}")
    if not np.all((points >= 0.0) & (points <= 1.0)):
        wrong = points[~((points >= 0.0) & (points <= 1.0))][0]
        raise ValueError(f"start must lie in [0, 1] (probabilities of action 0), got {wrong}")
    return points


def distances(trajectories: Array, games: NormalFormGame) -> Array:
    """
    Distance to the nearest equilibrium along the way, in the larger difference of the two probabilities.

    :param trajectories: (steps + 1, batch, 2) as from :func:`run`
    :param games: the games of the run
    :return: (steps + 1, batch)
    """
    equilibria = games.equilibria()
    blocks = range(0, len(trajectories), _BLOCK)
    return np.concatenate([equilibria.distance(trajectories[block : block + _BLOCK]) for block in blocks])


def convergence(trajectories: Array, games: NormalFormGame, tolerance: float = 0.05) -> npt.NDArray[np.int64]:
    """
    The paper's measure: the first step at which both probabilities are within the tolerance of any equilibrium.

    :param trajectories: (steps + 1, batch, 2) as from :func:`run`
    :param games: the games of the run
    :param tolerance: largest difference of a probability
    :return: (batch,) first step, 0 being the start; -1 where there is none
    """
    equilibria = (games if games.batch_shape else games[None]).equilibria()
    first = np.full(trajectories.shape[1], -1)
    left = np.arange(len(first))
    for begin in range(0, len(trajectories), _BLOCK):
        # Games that have arrived are not looked at again.
        nearest = Equilibria(equilibria.lower[left], equilibria.upper[left], equilibria.valid[left])
        close = nearest.distance(trajectories[begin : begin + _BLOCK, left]) <= tolerance
        arrived = close.any(axis=0)
        first[left[arrived]] = begin + close[:, arrived].argmax(axis=0)
        left = left[~arrived]
    return first


def final_distance(trajectories: Array, games: NormalFormGame) -> Array:
    """
    :param trajectories: (steps + 1, batch, 2) as from :func:`run`
    :param games: the games of the run
    :return: (batch,) distance of the last point to the nearest equilibrium, as in :func:`distances`
    """
    return games.equilibria().distance(trajectories[-1])
