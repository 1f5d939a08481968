"""Confidence intervals for the mean of a few independent values; win rates and score margins of competing agents."""

from __future__ import annotations

import math

import numpy as np


def mean_confidence_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """
    Student-t interval for the mean: ``mean -+ t * s / sqrt(k)`` with k - 1 degrees of freedom.

    :param values: k independent observations, shape (k,)
    :param level: confidence level, in (0, 1)
    :return: lower and upper end; both NaN for fewer than two observations
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    margin = student_t_quantile(level, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - margin), float(values.mean() + margin)


def win_rates(agent_returns: np.ndarray) -> np.ndarray:
    """
    Share of the episodes that each agent won: no agent has a higher return, and some agent has a lower one.

    Agents of a team that get the same return win together; an episode in which all get the same return is a draw.

    :param agent_returns: returns of n agents in k episodes, shape (k, n)
    :return: shape (n,), between 0 and 1
    """
    returns = np.asarray(agent_returns, dtype=np.float64)
    rounding = 1e-9 * np.abs(returns).max(initial=0.0)
    is_highest = returns >= returns.max(axis=1, keepdims=True) - rounding
    return np.asarray((is_highest & (np.ptp(returns, axis=1, keepdims=True) > rounding)).mean(axis=0))


def score_margins(agent_returns: np.ndarray) -> np.ndarray:
    """
    Mean difference between each agent's return and the mean return of the other agents.

    :param agent_returns: returns of n agents in k episodes, shape (k, n)
    :return: shape (n,); zeros for a single agent
    """
    returns = np.asarray(agent_returns, dtype=np.float64)
    others = (returns.sum(axis=1, keepdims=True) - returns) / max(returns.shape[1] - 1, 1)
    return np.zeros(1) if returns.shape[1] == 1 else np.asarray((returns - others).mean(axis=0))


def student_t_quantile(level: float, degrees: int) -> float:
    """
    Quantile t of Student's distribution with P(abs(T) < t) = level, by bisection on the exact probability.

    :param level: two-sided probability, in (0, 1)
    :param degrees: degrees of freedom, a positive integer
    :return: e.g. 12.706 for level 0.95 and one degree of freedom
    :raises ValueError: if an argument is out of range
    """
    if not 0.0 < level < 1.0 or degrees < 1:
        raise ValueError(f"level must lie in (0, 1) and degrees be at least 1, got {level} and {degrees}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _central_probability(theta: float, degrees: int) -> float:
    """
    Probability P(abs(T) < sqrt(degrees) * tan(theta)), a finite sum for integer degrees.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 (odd) and 26.7.4 (even).
    """
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    # Odd: cos, 2/3 cos^3, 2*4/(3*5) cos^5, ...; even: 1, 1/2 cos^2, 1*3/(2*4) cos^4, ...
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (k - 1) / k * cosine**2
    return (theta + sine * total) * 2 / math.pi if odd else sine * total
