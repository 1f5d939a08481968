"""Numbers of an iteration's report: the meta-game at its solution, shares of clipped ratios, effective sample sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.matrl.best_response import clip_weights
from sb3_matrl.matrl.mixture import effective_sample_size
from sb3_matrl.metagame import MetaGame, Solution
from sb3_matrl.metagame.stability import eigenvalues, fixed_point_type
from sb3_matrl.on_policy.batch import AgentBatch

# The dense payoff table is reported up to this many agents, and this many profiles.
MAX_REPORTED_AGENTS = 4
MAX_REPORTED_PROFILES = 256


def game_numbers(game: MetaGame, solution: Solution) -> dict[str, Any]:
    """
    Numbers of the meta-game at its solution, named as in :class:`~sb3_matrl.MetaGameReport`.

    :param game: meta-game
    :param solution: its solution
    """
    sigma = solution.sigma
    payoffs = game.strategy_payoffs(sigma)
    tabulated = game.n_agents <= MAX_REPORTED_AGENTS and payoffs.shape[1] ** game.n_agents <= MAX_REPORTED_PROFILES
    return {
        "rho": solution.rho,
        "sigma": sigma,
        "method": solution.method,
        "nash_conv": solution.nash_conv,
        "n_pure_equilibria": solution.n_pure,
        "current_payoffs": payoffs[:, 0],
        "predicted_payoffs": payoffs[:, 1],
        "strategy_payoffs": payoffs,
        "expected_payoffs": game.expected_payoffs(sigma),
        "payoffs": game.payoffs() if tabulated else None,
        "fixed_point": fixed_point_type(game, sigma),
        "eigenvalues": eigenvalues(game.hessian(sigma)),
    }


def sample_sizes(weights: th.Tensor, mask: th.Tensor, clip_ranges: Sequence[float | None]) -> np.ndarray:
    """
    Effective sample size of each agent's clipped weights.

    :param weights: (S, n), before clipping
    :param mask: bool (S, n), samples that count
    :param clip_ranges: clip range of each agent
    :return: (n,), as shares of the samples that count
    """
    clipped = [clip_weights(weights[:, i], clip_range)[mask[:, i]].numpy() for i, clip_range in enumerate(clip_ranges)]
    return np.array([effective_sample_size(column) for column in clipped])


def clipped_share(values: th.Tensor, mask: th.Tensor, clip_ranges: Sequence[float | None]) -> np.ndarray:
    """
    Share of the samples whose distance from 1 exceeds the clip.

    :param values: (S, n), or (S, n, K - 1) of several strategies
    :param mask: bool (S, n), samples that count
    :param clip_ranges: clip range of each agent; ``None`` clips nothing
    :return: (n,)
    """
    shares = []
    for i, clip_range in enumerate(clip_ranges):
        live = values[:, i][mask[:, i]]
        outside = (live - 1.0).abs() > clip_range if clip_range is not None else th.zeros(len(live))
        shares.append(float(outside.double().mean()) if len(live) else 0.0)
    return np.array(shares)


def over_live(values: th.Tensor, batch: AgentBatch) -> float:
    """Mean over the rows in which the agent acted; 0 if it never did."""
    live = values[batch.mask]
    return float(live.mean()) if len(live) > 0 else 0.0
