"""Nash solvers of the meta-game: named methods, selection among equilibria, and the default that combines them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sb3_matrl.metagame.best_response_dynamics import best_response
from sb3_matrl.metagame.evolution import cmaes, cmaes_strategies
from sb3_matrl.metagame.exact import closed_form, enumerate_pure, two_agent_incentives, two_agent_points
from sb3_matrl.metagame.game import MetaGame, Payoffs, StrategyPayoffs
from sb3_matrl.metagame.game_checks import is_small
from sb3_matrl.metagame.incentives import TOLERANCE, Array, regrets
from sb3_matrl.metagame.strategy_search import best_response_strategies, worst_regrets
from sb3_matrl.metagame.strategy_supports import enumerate_pure_profiles, enumerate_strategy_supports
from sb3_matrl.metagame.strategy_table import StrategyTable
from sb3_matrl.metagame.support import enumerate_supports
from sb3_matrl.metagame.table_payoffs import TablePayoffs
from sb3_matrl.utils.suggest import unknown

METHODS = ("auto", "enumeration", "closed-form", "support", "best-response", "cmaes")
SELECTIONS = ("random", "welfare", "progress")
#: Largest number of supports, 2^K - 1 per agent, for the support method.
_MAX_SUPPORTS = 3**8
#: With more supports and more than two strategies the homotopy path is cheaper.
_FEW_SUPPORTS = 400
#: Payoff sums closer than this share of the scale count as equal in selection.
_TIE = 1e-9
#: Number of mixing agents at the nine points of two agents.
_MIXING = np.array([0, 0, 1, 0, 0, 1, 1, 1, 2])[:, None]


@dataclass(frozen=True)
class Solution:
    """
    Result of :func:`solve`.

    :param rho: (n,) weights on the CURRENT policies, column 0 of ``sigma``
    :param nash_conv: NashConv at the solution, in the game's own payoffs
    :param method: method that produced it (never "auto")
    :param equilibria: equilibria found by this method, (k, n) weights on current with two strategies, (k, n, K) distributions
        with more: all pure ones for enumeration, all for closed form. Empty if it found none; the solution is then the best
        point seen.
    :param sigma: (n, K) each agent's distribution over its strategies; may be left out with two strategies
    """

    rho: Array
    nash_conv: float
    method: str
    equilibria: Array
    sigma: Array = field(default_factory=lambda: np.empty((0, 0)))

    def __post_init__(self) -> None:
        if self.sigma.size == 0:
            object.__setattr__(self, "sigma", _distributions(self.rho))

    @property
    def n_pure(self) -> int:
        """Number of pure profiles among the equilibria."""
        axes = tuple(range(1, self.equilibria.ndim))
        return int(np.all((self.equilibria == 0.0) | (self.equilibria == 1.0), axis=axes).sum())


def solve(game: MetaGame, method: str = "auto", selection: str = "random", rng: np.random.Generator | None = None) -> Solution:
    """
    Find a Nash equilibrium.

    A point counts as an equilibrium if no agent gains more than 1e-9 by deviating, in units of that agent's largest
    difference between two of its strategies. Among several equilibria those with the fewest strategies in use come first
    (never a mixed one if a pure one was found), then ``selection`` decides. If all payoffs are equal, every profile is an
    equilibrium; ``random`` then draws any pure one, the others return one without current.

    :param game: meta-game of n agents with K strategies
    :param method: ``enumeration`` (all pure equilibria, K^n <= 4096: n <= 12 with two strategies, n <= 7 with three),
        ``closed-form`` (all equilibria and end points of continua, n <= 2, K = 2), ``support`` (Newton per support,
        (2^K - 1)^n <= 6561: n <= 8 with two strategies, n <= 4 with three), ``best-response`` (pure dynamics, then a mixed
        search, any n and K), ``cmaes`` (the paper's, any n and K), or ``auto``: the cheapest exact one that applies, then the
        next until one succeeds (with K > 2 and more than 400 supports ``best-response`` comes before ``support``); if none
        does, the best point seen. In a game without a pure equilibrium ``enumeration`` returns the pure profile of least
        regret, with ``nash_conv > 0`` and no ``equilibria``.
    :param selection: ``random`` (the paper), ``welfare`` (largest sum of payoffs) or ``progress`` (smallest sum of the
        weights on current); the latter two break ties by each other, then by order
    :param rng: source of all random draws; ``None`` uses a generator with a fixed seed, so that a call can be repeated
    :return: the selected equilibrium and all equilibria found
    :raises ValueError: on an unknown method or selection, or a method that does not apply to a game of this size
    """
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if selection not in SELECTIONS:
        raise ValueError(unknown("selection", selection, SELECTIONS))
    check_applicable(method, game.n_agents, game.n_strategies)
    rng = np.random.default_rng(0) if rng is None else rng
    if method == "auto":
        return _first_success(game, _order(game.n_agents, game.n_strategies), selection, rng)
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


def check_applicable(method: str, n_agents: int, n_strategies: int = 2) -> None:
    """
    Reject a method that cannot solve games of this size.

    :param method: one of ``METHODS``
    :param n_agents: number of agents
    :param n_strategies: number of strategies of each agent
    :raises ValueError: if there are too many agents or strategies for it
    """
    if _applies(method, n_agents, n_strategies):
        return
    limit = max((n for n in range(1, n_agents) if _applies(method, n, n_strategies)), default=0)
    if limit == 0:
        fitting = max((k for k in range(2, n_strategies) if _applies(method, n_agents, k)), default=2)
        raise ValueError(
            f"method {method!r} applies to at most {fitting} strategies per agent, this game has {n_strategies}; use 'auto'"
        )
    suffix = "" if n_strategies == 2 else f" with {n_strategies} strategies each"
    raise ValueError(f"method {method!r} applies to at most {limit} agents{suffix}, this game has {n_agents}; use 'auto'")


def _applies(method: str, n_agents: int, n_strategies: int) -> bool:
    match method:
        case "enumeration":
            return is_small(n_agents, n_strategies)
        case "closed-form":
            return n_agents <= 2 and n_strategies == 2
        case "support":
            return is_small(n_agents, n_strategies) and (2**n_strategies - 1) ** n_agents <= _MAX_SUPPORTS
        case _:
            return True


def _order(n_agents: int, n_strategies: int) -> Sequence[str]:
    """Methods that ``auto`` tries, cheapest exact first."""
    if _applies("closed-form", n_agents, n_strategies):
        return ("closed-form",)
    if not is_small(n_agents, n_strategies):
        return ("best-response",)
    order = ["enumeration", "support", "best-response", "cmaes"]
    if n_strategies > 2 and (2**n_strategies - 1) ** n_agents > _FEW_SUPPORTS:
        order = ["enumeration", "best-response", "support", "cmaes"]
    return [name for name in order if _applies(name, n_agents, n_strategies)]


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
    found = _regrets(game, points) <= TOLERANCE
    equilibria = points[found]
    point = _select(game, equilibria if found.any() else points, selection, rng)
    rho, sigma = (point, _distributions(point)) if point.ndim == 1 else (point[:, 0].copy(), point)
    return Solution(rho=rho, nash_conv=game.nash_conv(point), method=method, equilibria=equilibria, sigma=sigma)


def _distributions(rho: Array) -> Array:
    """Profile (n, 2) of two strategies with the given weights (n,) on current."""
    return np.stack([rho, 1.0 - rho], axis=1)


def _points(game: MetaGame, method: str, rng: np.random.Generator) -> Array:
    """Candidate points (k, n) of a method, or (k, n, K) with more than two strategies; k >= 1."""
    payoffs = game.normalised
    if isinstance(payoffs, StrategyPayoffs):
        return _points_of_many_strategies(payoffs, method, rng)
    return _points_of_two_strategies(payoffs, method, rng)


def _points_of_two_strategies(payoffs: Payoffs, method: str, rng: np.random.Generator) -> Array:
    match method, payoffs:
        case "enumeration", TablePayoffs():
            return enumerate_pure(payoffs)
        case "closed-form", TablePayoffs():
            return closed_form(payoffs)
        case "support", TablePayoffs():
            return enumerate_supports(payoffs, rng)
        case "cmaes", _:
            return cmaes(payoffs, rng)
        case _:
            return best_response(payoffs, rng)


def _points_of_many_strategies(payoffs: StrategyPayoffs, method: str, rng: np.random.Generator) -> Array:
    match method, payoffs:
        case "enumeration", StrategyTable():
            return enumerate_pure_profiles(payoffs)
        case "support", StrategyTable():
            return enumerate_strategy_supports(payoffs, rng)
        case "cmaes", _:
            return cmaes_strategies(payoffs, rng)
        case _:
            return best_response_strategies(payoffs, rng)


def _regrets(game: MetaGame, points: Array) -> Array:
    """Largest regret (k,) of any agent, in units of its largest incentive."""
    payoffs = game.normalised
    if isinstance(payoffs, StrategyPayoffs):
        return worst_regrets(payoffs, points)
    return np.asarray(regrets(points, payoffs.gradient(points)).max(axis=1))


def _select(game: MetaGame, points: Array, selection: str, rng: np.random.Generator) -> Array:
    """
    Selected point among those with the fewest strategies in use.

    :param points: (k, n) or (k, n, K) candidates
    :return: one of them
    """
    if points.ndim == 2:
        mixing = np.sum((points > 0.0) & (points < 1.0), axis=1)
    else:
        mixing = np.sum(points > 0.0, axis=(1, 2))
    points = points[mixing == mixing.min()]
    if selection == "random":
        return np.asarray(points[rng.integers(len(points))])
    # Rounding makes near-equal values equal, so that the second criterion decides between them.
    unit = _TIE * max(game.scale, np.finfo(np.float64).tiny)
    loss = np.round([-game.expected_payoffs(point).sum() / unit for point in points])
    current = points if points.ndim == 2 else points[:, :, 0]
    regress = np.round(current.sum(axis=1) / _TIE)
    first, second = (loss, regress) if selection == "welfare" else (regress, loss)
    return np.asarray(points[np.lexsort((second, first))[0]])
