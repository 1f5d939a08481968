"""Random 2x2 games of the paper's classes (Table 1, Appendix E)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.payoff_arrays import Array
from sb3_matrl.utils.suggest import unknown

#: The eight payoffs, each (count,): A = [[a, b], [c, d]] for the row player, B = [[e, g], [f, h]] for the column player.
Entries = dict[str, Array]


def random_games(kind: str, count: int, generator: str = "paper", seed: int = 0) -> NormalFormGame:
    """
    Draw random 2x2 games of one class. With A = [[a, b], [c, d]] and B = [[e, g], [f, h]] the classes are

    - ``coordination``: a > c, b < d, e > g, f < h;
    - ``anticoordination``: a < c, b > d, e < g, f > h;
    - ``cyclic``: a > c, b < d, e < g, f > h, or all four reversed.

    :param kind: name of the class
    :param count: number of games
    :param generator: ``paper``: sums of uniform draws, as in the paper's code; ``normal``: eight standard normal payoffs
        under the condition of the class
    :param seed: seed of the draws; the same seed gives the same games
    :return: batch of shape (count,)
    :raises ValueError: on an unknown class or generator, or a count below 1
    """
    if kind not in KINDS:
        raise ValueError(unknown("class of games", kind, KINDS))
    if generator not in GENERATORS:
        raise ValueError(unknown("generator", generator, GENERATORS))
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"count must be an integer of at least 1, got {count!r}")
    rng = np.random.default_rng(seed)
    entries = _PAPER[kind](rng, int(count)) if generator == "paper" else _normal(kind, rng, int(count))
    return NormalFormGame(_payoffs(entries), n_players=2)


def _payoffs(x: Entries) -> Array:
    row, column = [[x["a"], x["b"]], [x["c"], x["d"]]], [[x["e"], x["g"]], [x["f"], x["h"]]]
    return np.moveaxis(np.array([row, column]), -1, 0)


def _normal(kind: str, rng: np.random.Generator, count: int) -> Entries:
    """Draw normal payoffs under the class's conditions; each one orders a pair, so sorting the pair conditions its draw."""
    pairs = np.sort(rng.standard_normal((4, 2, count)), axis=1)
    # Per pair (a, c), (b, d), (e, g), (f, h): True if the first one is the larger.
    larger = np.array(_FIRST_IS_LARGER[kind])[:, None] ^ ((kind == "cyclic") & (rng.random(count) < 0.5))
    first, second = np.where(larger, pairs[:, 1], pairs[:, 0]), np.where(larger, pairs[:, 0], pairs[:, 1])
    return dict(zip("abefcdgh", [*first, *second], strict=True))


def _coordination(rng: np.random.Generator, count: int) -> Entries:
    u = rng.random((8, count))
    b = u[0]
    d = b + u[1]
    c = d + u[2]
    return {"a": c + u[3], "b": b, "c": c, "d": d, "g": u[4], "e": u[4] + u[5], "f": u[6], "h": u[6] + u[7]}


def _anticoordination(rng: np.random.Generator, count: int) -> Entries:
    u, low = rng.random((10, count)), rng.random(count) < 0.5
    a = -1.0 - u[0]
    c = a + u[1]
    b_high = np.abs(a) - 0.1 * u[2]
    d_high = np.minimum(np.abs(c), b_high) - 0.1 * u[3]
    d_low = c + 0.1 * u[4]
    b, d = np.where(low, d_low + 0.1 * u[5], b_high), np.where(low, d_low, d_high)
    return {"a": a, "b": b, "c": c, "d": d, "e": u[6], "g": u[6] + u[7], "h": u[8], "f": u[8] + u[9]}


def _cyclic(rng: np.random.Generator, count: int) -> Entries:
    u, reversed_ = rng.random((8, count)), rng.random(count) < 0.5
    high = 0.5 + u[0]
    low = -high + 0.1 * u[1]
    better = np.abs(low) - 0.1 * u[2]
    worse = better - 0.1 * u[3]
    row = {"a": (high, low), "c": (low, high), "d": (better, worse), "b": (worse, better)}
    column = {
        "e": (u[4], u[4] + u[5]),
        "g": (u[4] + u[5], u[4]),
        "h": (u[6], u[6] + u[7]),
        "f": (u[6] + u[7], u[6]),
    }
    return {name: np.where(reversed_, pair[1], pair[0]) for name, pair in (row | column).items()}


_PAPER: dict[str, Callable[[np.random.Generator, int], Entries]] = {
    "coordination": _coordination,
    "anticoordination": _anticoordination,
    "cyclic": _cyclic,
}
_FIRST_IS_LARGER = {
    "coordination": (True, False, True, False),
    "anticoordination": (False, True, False, True),
    "cyclic": (True, False, False, True),
}
KINDS = tuple(_PAPER)
GENERATORS = ("paper", "normal")
