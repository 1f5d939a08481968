"""Run learners on games, and measure where and when the trajectories arrive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.equilibria import Equilibria
from sb3_matrl.games.exact_learner import Learner, PlayedGame, check_positive
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoff_arrays import Array

#: Steps measured at once, so that the temporaries stay in the cache.
_BLOCK = 32
#: Largest |coordinate| in a differentiable game; beyond it a run has diverged.
_DIVERGED = 1e12


def run(learner: Learner[PlayedGame], game: PlayedGame, start: npt.ArrayLike, steps: int) -> Array:
    """
    Let all players learn at the same time.

    :param learner: learner from :func:`~sb3_matrl.games.make_learner`
    :param game: 2x2 games with at most one batch axis (a single game counts as a batch of one), or a differentiable game
    :param start: (2,) or (batch, 2) probabilities of action 0; in a differentiable game (d,) joint strategy
    :param steps: number of steps
    :return: (steps + 1, batch, 2) or (steps + 1, d), the start first; in a differentiable game NaN from the step on at which a
        coordinate exceeds 1e12 (the run diverges)
    :raises ValueError: if the learner does not play this kind of game, for normal-form games of another size, a start outside
        the strategies or of another shape, or fewer than 0 steps
    """
    if not isinstance(game, learner.plays):
        raise ValueError(f"{type(learner).__name__} does not play a {type(game).__name__}")
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
        raise ValueError(f"steps must be an integer of at least 0, got {steps!r}")
    strategies: Array
    played, strategies = _prepared(game, start)
    trajectory = np.full((int(steps) + 1, *strategies.shape), np.nan)
    trajectory[0] = strategies
    dynamics = learner.start(played, strategies)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, len(trajectory)):
            strategies = dynamics.step(strategies)
            if _has_diverged(game, strategies):
                break
            trajectory[step] = strategies
    return trajectory


def _prepared(game: PlayedGame, start: npt.ArrayLike) -> tuple[PlayedGame, Array]:
    """:return: the game, with one batch axis if it is a normal-form game, and the checked start"""
    if isinstance(game, DifferentiableGame):
        return game, game.joint(start, "start")
    game.require_two_by_two("run()")
    batch = game if game.batch_shape else game[None]
    if len(batch.batch_shape) != 1:
        raise ValueError(f"run() takes one batch axis, these games have batch shape {game.batch_shape}")
    return batch, np.broadcast_to(check_start(start, len(batch)), (len(batch), 2)).copy()


def _has_diverged(game: NormalFormGame | DifferentiableGame, strategies: Array) -> bool:
    return isinstance(game, DifferentiableGame) and not bool((np.abs(strategies) <= _DIVERGED).all())


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
    Measure convergence as the paper does: the first step at which both probabilities are within the tolerance of any
    equilibrium.

    :param trajectories: (steps + 1, batch, 2) as from :func:`run`
    :param games: the games of the run
    :param tolerance: largest difference of a probability
    :return: (batch,) first step, 0 being the start; -1 if there is none
    """
    equilibria = (games if games.batch_shape else games[None]).equilibria()
    first = np.full(trajectories.shape[1], -1)
    left = np.arange(len(first))
    for begin in range(0, len(trajectories), _BLOCK):
        # Only the games that have not converged yet.
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


def steps_to_tolerance(trajectory: npt.ArrayLike, target: npt.ArrayLike = 0.0, tolerance: float = 1e-3) -> int | None:
    """
    :param trajectory: (steps + 1, d) as from :func:`run` on a differentiable game
    :param target: (d,) or one number, the fixed point
    :param tolerance: tolerance of every coordinate, above 0
    :return: first step with max |w - target| < tolerance (0 is the start); ``None`` if there is none
    :raises ValueError: on wrong shapes or a tolerance that is not a positive number
    """
    path, goal = np.asarray(trajectory, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if path.ndim != 2 or goal.shape not in ((), path.shape[1:]):
        raise ValueError(f"expected a trajectory (steps + 1, d) and a target (d,), got shapes {path.shape} and {goal.shape}")
    check_positive("tolerance", tolerance)
    reached = np.abs(path - goal).max(axis=1) < tolerance
    return int(reached.argmax()) if reached.any() else None
