"""Nash solvers of the meta-game: named methods, selection among equilibria, and the default that combines them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_matrl.metagame.best_response_dynamics import best_response
from sb3_matrl.metagame.evolution import cmaes
from sb3_matrl.metagame.exact import closed_form, enumerate_pure, two_agent_incentives, two_agent_points
from sb3_matrl.metagame.game import MetaGame
from sb3_matrl.metagame.incentives import TOLERANCE, Array, regrets
from sb3_matrl.metagame.support import enumerate_supports
from sb3_matrl.metagame.table_payoffs import MAX_DENSE_AGENTS
from sb3_matrl.utils.suggest import unknown

METHODS = ("auto", "enumeration", "closed-form", "support", "best-response", "cmaes")
SELECTIONS = ("random", "welfare", "progress")
#: Largest number of agents for which a method applies.
_LIMITS = {"enumeration": MAX_DENSE_AGENTS, "closed-form": 2, "support": 8}
#: Payoff sums closer than this share of the scale count as equal in selection.
_TIE = 1e-9
#: Number of mixing agents at the nine points of two agents.
_MIXING = np.array([0, 0, 1, 0, 0, 1, 1, 1, 2])[:, None]


@dataclass(frozen=True)
class Solution:
    """
    Result of :func:`solve`.

    :param rho: (n,) weights on the CURRENT policies
    :param nash_conv: NashConv at ``rho``, in the game's own payoffs
    :param method: method that produced ``rho`` (never "auto")
    :param equilibria: (k, n) equilibria found by this method: all pure ones for enumeration, all for closed form. Empty if
        it found none; ``rho`` is then the best point seen.
    """

    rho: Array
    nash_conv: float
    method: str
    equilibria: Array


def solve(game: MetaGame, method: str = "auto", selection: str = "random", rng: np.random.Generator | None = None) -> Solution:
    """
    Find a Nash equilibrium.

    A point counts as an equilibrium if no agent gains more than 1e-9 by deviating, in units of that agent's largest
    difference between its two strategies. Among several equilibria those with the fewest mixing agents come first (never a
    mixed one if a pure one was found), then ``selection`` decides. If all payoffs are equal, every profile is an equilibrium;
    ``random`` then draws any pure one, the others return all-predicted.

    :param game: meta-game
    :param method: ``enumeration`` (all pure equilibria, n <= 12), ``closed-form`` (all equilibria and end points of continua,
        n <= 2), ``support`` (Newton per support, n <= 8), ``best-response`` (pure dynamics, then a mixed search, any n),
        ``cmaes`` (the paper's, any n), or ``auto``: the cheapest exact one that applies, then the next until one succeeds; if
        none does, the best point seen. In a game without a pure equilibrium ``enumeration`` returns the pure profile of least
        regret, with ``nash_conv > 0`` and no ``equilibria``.
    :param selection: ``random`` (the paper), ``welfare`` (largest sum of payoffs) or ``progress`` (smallest sum of rho);
        the latter two break ties by each other, then by order
    :param rng: source of all random draws; ``None`` uses a generator with a fixed seed, so that a call can be repeated
    :return: the selected equilibrium and all equilibria found
    :raises ValueError: on an unknown method or selection, or a method that does not apply to this number of agents
    """
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if selection not in SELECTIONS:
        raise ValueError(unknown("selection", selection, SELECTIONS))
    check_applicable(method, game.n_agents)
    rng = np.random.default_rng(0) if rng is None else rng
    if method == "auto":
        return _first_success(game, _order(game.n_agents), selection, rng)
    return _attempt(game, method, selection, rng)


def solve_two_agents(tables: Array, rng: np.random.Generator) -> Array:
    """
    :func:`solve` by closed form with random selection, for a batch of games of two agents at once.

    :param tables: (B, 2, 2, 2) payoffs of agent i (second index) at every pure profile; 0 is current, 1 is predicted
    :param rng: source of the draws among the equilibria with the fewest mixing agents; one block for the whole batch
    :return: (B, 2) weights on the CURRENT policies
    """
    points, regret = two_agent_points(two_agent_incentives(np.ascontiguousarray(np.moveaxis(tables, 0, -1))))
    rank = np.where(regret <= TOLERANCE, _MIXING, 3.0 + regret) + rng.random(regret.shape)
    return np.asarray(points[:, rank.argmin(axis=0), np.arange(len(tables))].T)


def check_applicable(method: str, n_agents: int) -> None:
    """
    Reject a method that cannot solve games of this size.

    :param method: one of ``METHODS``
    :param n_agents: number of agents
    :raises ValueError: if there are too many agents for it
    """
    limit = _LIMITS.get(method)
    if limit is not None and n_agents > limit:
        raise ValueError(f"method {method!r} applies to at most {limit} agents, this game has {n_agents}; use 'auto'")


def _order(n_agents: int) -> Sequence[str]:
    """Methods that ``auto`` tries, cheapest exact first."""
    if n_agents <= _LIMITS["closed-form"]:
        return ("closed-form",)
    if n_agents > MAX_DENSE_AGENTS:
        return ("best-response",)
    order = ("enumeration", "support", "best-response", "cmaes")
    return [name for name in order if n_agents <= _LIMITS.get(name, n_agents)]


def _first_success(game: MetaGame, order: Sequence[str], selection: str, rng: np.random.Generator) -> Solution:
    best: Solution | None = None
    for name in order:
        solution = _attempt(game, name, selection, rng)
        if len(solution.equilibria):
            return solution
        if best is None or solution.nash_conv < best.nash_conv:
            best = solution
    assert best is not None
    return best


def _attempt(game: MetaGame, method: str, selection: str, rng: np.random.Generator) -> Solution:
    points = _points(game, method, rng)
    found = regrets(points, game.normalised.gradient(points)).max(axis=1) <= TOLERANCE
    equilibria = points[found]
    rho = _select(game, equilibria if found.any() else points, selection, rng)
    return Solution(rho=rho, nash_conv=game.nash_conv(rho), method=method, equilibria=equilibria)


def _points(game: MetaGame, method: str, rng: np.random.Generator) -> Array:
    """Candidate points (k, n) of a method, k >= 1."""
    match method:
        case "enumeration":
            return enumerate_pure(game.normalised_table)
        case "closed-form":
            return closed_form(game.normalised_table)
        case "support":
            return enumerate_supports(game.normalised_table, rng)
        case "cmaes":
            return cmaes(game.normalised, rng)
        case _:
            return best_response(game.normalised, rng)


def _select(game: MetaGame, points: Array, selection: str, rng: np.random.Generator) -> Array:
    """
    Selected point among those with the fewest mixing agents.

    :param points: (k, n) candidates
    :return: (n,) one of them
    """
    mixing = np.sum((points > 0.0) & (points < 1.0), axis=1)
    points = points[mixing == mixing.min()]
    if selection == "random":
        return np.asarray(points[rng.integers(len(points))])
    # Rounding makes near-equal values equal, so that the second criterion decides between them.
    unit = _TIE * max(game.scale, np.finfo(np.float64).tiny)
    loss = np.round([-game.expected_payoffs(point).sum() / unit for point in points])
    regress = np.round(points.sum(axis=1) / _TIE)
    first, second = (loss, regress) if selection == "welfare" else (regress, loss)
    return np.asarray(points[np.lexsort((second, first))[0]])
