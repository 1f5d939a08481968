"""Checks of what a meta-game is made from: samples, tables and profiles."""

import numpy as np
import numpy.typing as npt

from sb3_matrl.metagame.incentives import Array
from sb3_matrl.metagame.strategy_table import MAX_DENSE_PROFILES

#: Largest logarithm of a joint ratio that still leaves room for sums in float64.
_MAX_LOG_RATIO = 600.0
#: Centred advantages below this share of the uncentred ones are rounding errors of a constant.
_CONSTANT_ADVANTAGE = 1e-13
#: Largest error of the sum of a distribution: single precision.
_SUM_TOLERANCE = 1e-5


def checked_ratios(ratios: npt.ArrayLike) -> Array:
    """
    Ratios as an array with an axis of strategies.

    :param ratios: (B, n) or (B, n, K-1)
    :return: (B, n, K-1)
    :raises ValueError: on another shape
    """
    array = np.asarray(ratios, dtype=np.float64)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            "ratios must have shape (samples, agents), or (samples, agents, strategies - 1), with at least one of each, "
            f"not {array.shape}"
        )
    return array[:, :, None] if array.ndim == 2 else array


def checked_advantages(advantages: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """
    Advantages as an array.

    :param advantages: (B, n)
    :param shape: (B, n) of the ratios
    :return: (B, n)
    :raises ValueError: on another shape
    """
    array = np.asarray(advantages, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"ratios have shape {shape} but advantages {array.shape}; both must be (samples, agents)")
    return array


def checked_mask(mask: npt.ArrayLike | None, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """
    Mask as an array of booleans.

    :param mask: (B, n) or ``None``: always live
    :param shape: (B, n)
    :return: (B, n) True where the agent was live
    :raises ValueError: on another shape or other numbers than 0 and 1
    """
    if mask is None:
        return np.ones(shape, dtype=np.bool_)
    array = np.asarray(mask)
    if array.shape != shape:
        raise ValueError(f"mask has shape {array.shape}, expected {shape} like the ratios")
    if not np.all((array == 0) | (array == 1)):
        raise ValueError("mask must hold booleans: True where the agent was live")
    return array.astype(np.bool_)


def require_finite(array: Array, name: str, live: npt.NDArray[np.bool_] | None = None) -> None:
    """
    :param array: (B, n), (B, n, K-1), or any shape without ``live``
    :param name: name for the message
    :param live: (B, n) entries that count; ``None``: all
    :raises ValueError: if a live entry is NaN or infinite
    """
    bad = ~np.isfinite(array)
    if live is not None:
        bad &= live if array.ndim == 2 else live[:, :, None]
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        raise ValueError(f"{name} must be finite, but entry {where} is {array[where]} ({int(bad.sum())} such entries)")


def clipped_ratios(ratio: Array, clip_range: float | None) -> Array:
    """
    Ratios within the clip range.

    :param ratio: any shape
    :param clip_range: c; ``None`` leaves them
    :return: clip(ratio, max(0, 1-c), 1+c)
    :raises ValueError: if the clip range is not positive
    """
    if clip_range is None:
        return ratio
    clip = float(clip_range)
    if not (0.0 < clip < np.inf):
        raise ValueError(f"clip_range must be a positive number or None, got {clip_range}")
    return np.clip(ratio, max(0.0, 1.0 - clip), 1.0 + clip)


def require_bounded_products(ratio: Array) -> None:
    """
    :param ratio: (B, n, K-1) clipped ratios
    :raises ValueError: if a joint ratio is beyond the range of float64
    """
    largest = float(np.log(np.maximum(ratio, 1.0).max(axis=2)).sum(axis=1).max())
    if largest > _MAX_LOG_RATIO:
        raise ValueError(f"a joint ratio reaches exp({largest:.0f}), beyond float64; pass a clip_range")


def centred_weights(advantage: Array, live: npt.NDArray[np.bool_]) -> Array:
    """
    Sample weights of every agent's payoffs.

    :param advantage: (B, n)
    :param live: (B, n)
    :return: (B, n) centred advantages over the number of live samples; 0 where masked or where all are equal
    """
    counts = np.maximum(live.sum(axis=0), 1)
    advantage = np.where(live, advantage, 0.0)
    centred = np.where(live, advantage - advantage.sum(axis=0) / counts, 0.0)
    constant = np.abs(centred).max(axis=0) <= _CONSTANT_ADVANTAGE * np.abs(advantage).max(axis=0)
    return np.where(constant, 0.0, centred / counts)


def checked_table(payoffs: npt.ArrayLike) -> Array:
    """
    Payoff table as an array of its own.

    :param payoffs: (n, K, ..., K)
    :return: a copy
    :raises ValueError: on a wrong shape, a table that is too large, or non-finite entries
    """
    table = np.array(payoffs, dtype=np.float64)
    n = len(table) if table.ndim else 0
    k = table.shape[1] if table.ndim > 1 else 0
    if n == 0 or k < 2 or table.shape != (n, *(k,) * n):
        raise ValueError(
            "payoffs must have shape (n, K, ..., K) with n axes of one length K >= 2 for n agents with K strategies each, "
            f"not {table.shape}"
        )
    require_small(n, k)
    require_finite(table, "payoffs")
    return table


def is_small(n_agents: int, n_strategies: int) -> bool:
    """
    :param n_agents: n
    :param n_strategies: K
    :return: whether a table of all K^n pure profiles is built
    """
    return bool(n_strategies**n_agents <= MAX_DENSE_PROFILES)


def require_small(n_agents: int, n_strategies: int) -> None:
    """
    :param n_agents: n
    :param n_strategies: K
    :raises ValueError: if the table of all K^n pure profiles is too large
    """
    if not is_small(n_agents, n_strategies):
        limit = max(n for n in range(1, 13) if is_small(n, n_strategies)) if n_strategies <= MAX_DENSE_PROFILES else 0
        raise ValueError(
            f"the table of {n_agents} agents has {n_strategies}^{n_agents} profiles; tables are built up to {limit} agents "
            f"with {n_strategies} strategies. Use strategy_payoffs, expected_payoffs and nash_conv, which need no table"
        )


def checked_weights(rho: Array, n_agents: int) -> Array:
    """
    :param rho: weights on current
    :param n_agents: n
    :return: (n,) the same
    :raises ValueError: on another shape or weights outside [0, 1]
    """
    if rho.shape != (n_agents,):
        raise ValueError(f"rho must have shape ({n_agents},), one weight per agent, not {rho.shape}")
    if not np.all((rho >= 0.0) & (rho <= 1.0)):
        raise ValueError(f"rho must lie in [0, 1] (the weight on the current policy), got {rho}")
    return rho


def checked_distributions(sigma: Array, n_agents: int, n_strategies: int) -> Array:
    """
    :param sigma: one distribution over strategies per agent
    :param n_agents: n
    :param n_strategies: K
    :return: (n, K) the same
    :raises ValueError: on another shape, weights outside [0, 1], or rows that do not sum to one
    """
    if sigma.shape != (n_agents, n_strategies):
        raise ValueError(
            f"sigma must have shape ({n_agents}, {n_strategies}), one distribution over {n_strategies} strategies per agent, "
            f"not {sigma.shape}"
        )
    if not np.all((sigma >= 0.0) & (sigma <= 1.0)) or np.abs(sigma.sum(axis=1) - 1.0).max() > _SUM_TOLERANCE:
        raise ValueError(f"each row of sigma must be a distribution: weights in [0, 1] that sum to 1, got {sigma.tolist()}")
    return sigma
