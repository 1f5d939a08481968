"""How the returns of the agents depend on each other: all equal, each its own, or with a constant sum."""

from __future__ import annotations

from typing import Literal

import numpy as np

#: ``"common"``: all agents get the same return; ``"constant-sum"``: what one gains, others lose; ``"individual"``: neither.
RewardStructure = Literal["common", "individual", "constant-sum"]
# Differences up to this share of the largest return are rounding errors.
_TOLERANCE = 1e-5


def reward_structure(agent_returns: np.ndarray) -> RewardStructure:
    """
    Tell from returns how the agents' rewards depend on each other.

    The sum counts as constant if it is the same in all rows while the agents' returns change, or if it is always 0 while
    the agents' returns are not. Fewer rows than the environment has outcomes can only show what happened in them: pass all
    episodes that are known.

    :param agent_returns: returns of n agents in k episodes, or means over episodes, shape (k, n)
    :return: ``"common"`` if the agents' returns are equal in every row, also for one agent and without any row
    """
    returns = np.asarray(agent_returns, dtype=np.float64)
    if not returns.size or not np.isfinite(returns).all():
        return "common" if not returns.size else "individual"
    tolerance = _TOLERANCE * np.abs(returns).max()
    if np.ptp(returns, axis=1).max() <= tolerance:
        return "common"
    sums = returns.sum(axis=1)
    is_constant = np.ptp(sums) <= tolerance
    changes = np.ptp(returns, axis=0).max() > tolerance
    return "constant-sum" if is_constant and (changes or np.abs(sums).max() <= tolerance) else "individual"
