"""
How cyclic the order of players is: intransitive triples, and the cyclic part of their payoffs.

An antisymmetric payoff matrix A is the sum of a transitive part, the differences of ratings r_i = mean_j A_ij, and a cyclic
part, in which nobody is better than anybody else on average (Balduzzi et al. 2019, "Open-ended Learning in Symmetric Zero-sum
Games", Sec. 2; Jiang et al. 2011 for the Hodge decomposition). The two parts are orthogonal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from sb3_matrl.evaluation.cross_play_result import margins

Array = npt.NDArray[np.float64]

# More games than this are resampled in groups.
_MAX_SAMPLES = 256


def hodge_parts(payoffs: npt.ArrayLike) -> tuple[Array, Array]:
    """
    Split antisymmetric payoffs into their transitive and their cyclic part.

    :param payoffs: (..., K, K), row player's payoff
    :return: transitive part, r_i - r_j with r_i = mean_j A_ij; and cyclic part, whose rows have mean zero
    :raises ValueError: if the matrices are not antisymmetric
    """
    matrix = _antisymmetric(payoffs)
    ratings = matrix.mean(axis=-1)
    transitive = ratings[..., :, None] - ratings[..., None, :]
    return transitive, matrix - transitive


def cyclic_share(payoffs: npt.ArrayLike) -> float:
    """
    Share of the cyclic part in antisymmetric payoffs: squared norm of the cyclic part by that of the whole.

    :param payoffs: (K, K) exact payoffs; for payoffs that were estimated by games see :func:`cyclicity`
    :return: 0 for transitive payoffs, 1 for fully cyclic ones such as rock, paper, scissors; NaN if all payoffs are zero
    :raises ValueError: if the matrix is not antisymmetric
    """
    matrix = _antisymmetric(payoffs)
    _, cyclic = hodge_parts(matrix)
    whole = float((matrix**2).sum())
    return float((cyclic**2).sum()) / whole if whole > 0.0 else math.nan


def cyclic_triples(payoffs: npt.ArrayLike) -> float:
    """
    Share of the triples of players in which each beats one of the others: i beats j, j beats k, k beats i.

    :param payoffs: (K, K) antisymmetric payoffs; two players with payoff 0 do not beat each other
    :return: share of all K (K - 1) (K - 2) / 6 triples; NaN for fewer than three players
    :raises ValueError: if the matrix is not antisymmetric
    """
    beats = _antisymmetric(payoffs) > 0.0
    return float(_is_cyclic(beats, _triples(len(beats))).mean()) if len(beats) > 2 else math.nan


@dataclass(frozen=True)
class Cyclicity:
    """
    How cyclic the order of players is, as far as their games tell.

    :param share: share of the cyclic part in the squared payoffs, from 0 to 1, without the part that noise adds; NaN if the
        payoffs cannot be told from zero
    :param share_interval: 95 % interval of ``share``
    :param triples: share of cyclic triples, by the signs of the mean payoffs
    :param triples_interval: 95 % interval of ``triples``
    :param decided: number of triples in which all three differences are significant at the 5 % level, with Bonferroni's
        correction for the number of pairs
    :param decided_cyclic: number of those that are cyclic
    :param n_triples: number of all triples
    :param noise: share of the squared mean payoffs that is noise of the games; near 1, the shares say little
    """

    share: float
    share_interval: tuple[float, float]
    triples: float
    triples_interval: tuple[float, float]
    decided: int
    decided_cyclic: int
    n_triples: int
    noise: float


def cyclicity(samples: Array, n_resamples: int = 2000, seed: int = 0) -> Cyclicity:
    """
    Estimate how cyclic payoffs are, with bootstrap intervals over the games.

    Games of nearly equal players, too, have differences, which would count mostly as a cyclic part. The share is therefore a
    ratio of unbiased estimates: products of different games instead of squares of their mean. Signs of such differences mean
    little: see how many triples are decided.

    :param samples: payoffs of the row players in each of G independent games, antisymmetric (G, K, K), such as
        :meth:`~sb3_matrl.evaluation.CrossPlayResult.margins_by_game`
    :param n_resamples: number of bootstrap samples
    :param seed: seed of the bootstrap
    :raises ValueError: if the matrices are not antisymmetric, or there are fewer than two games or three players
    """
    payoffs = _antisymmetric(samples)
    count, players = payoffs.shape[0], payoffs.shape[-1]
    if payoffs.ndim != 3 or count < 2 or players < 3:
        raise ValueError(f"cycles need at least three players and two games, got payoffs of shape {payoffs.shape}")
    triples, mean = _triples(players), payoffs.mean(axis=0)
    decided, decided_cyclic = _decided(payoffs, triples)
    # Means of groups of games are independent and unbiased, too.
    payoffs = np.array([group.mean(axis=0) for group in np.array_split(payoffs, min(count, _MAX_SAMPLES))])
    count = len(payoffs)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=n_resamples).astype(np.float64)
    transitive, cyclic = (_gram(part) for part in hodge_parts(payoffs))
    ones = np.ones((1, count))
    found = _shares(transitive, cyclic, ones)[0]
    shares = _shares(transitive, cyclic, draws)
    resampled = (draws / count) @ payoffs.reshape(count, -1)
    shares_of_triples = [float(_is_cyclic(matrix.reshape(players, players) > 0.0, triples).mean()) for matrix in resampled]
    whole, unbiased = float((mean**2).sum()), float(_energy(transitive + cyclic, ones)[0])
    return Cyclicity(
        share=float(found),
        share_interval=_interval(shares),
        triples=float(_is_cyclic(mean > 0.0, triples).mean()),
        triples_interval=_interval(np.array(shares_of_triples)),
        decided=decided,
        decided_cyclic=decided_cyclic,
        n_triples=len(triples),
        noise=float(np.clip(1.0 - unbiased / whole, 0.0, 1.0)) if whole > 0.0 else math.nan,
    )


def _gram(parts: Array) -> Array:
    """Inner products of the games' matrices, (G, G)."""
    flat = parts.reshape(len(parts), -1)
    return np.asarray(flat @ flat.T)


def _energy(gram: Array, weights: Array) -> Array:
    """
    Unbiased estimates of the squared norm of the mean: products of different games only.

    :param gram: (G, G)
    :param weights: (R, G) number of times that each game was drawn
    :return: (R,); NaN where one game was drawn alone
    """
    between = ((weights @ gram) * weights).sum(axis=1) - (weights**2) @ np.diag(gram)
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    return np.asarray(np.divide(between, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0.0))


def _shares(transitive: Array, cyclic: Array, weights: Array) -> Array:
    """Shares of the cyclic part, (R,), within [0, 1]; NaN where the payoffs cannot be told from zero."""
    parts = _energy(transitive, weights), _energy(cyclic, weights)
    whole = parts[0] + parts[1]
    # Rounding is no payoff.
    known = whole > 1e-12 * (np.trace(transitive) + np.trace(cyclic))
    return np.clip(np.divide(parts[1], whole, out=np.full_like(whole, np.nan), where=known), 0.0, 1.0)


def _interval(values: Array) -> tuple[float, float]:
    """Percentile interval of bootstrapped values; from 0 to 1 if a twentieth of the samples has none."""
    known = values[~np.isnan(values)]
    if len(known) < 0.95 * len(values):
        return 0.0, 1.0
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def _decided(payoffs: Array, triples: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Number of triples with three significant differences, and of the cyclic ones among them."""
    players = payoffs.shape[-1]
    mean = payoffs.mean(axis=0)
    half = margins(payoffs, level=1.0 - 0.05 / (players * (players - 1) / 2))
    significant = abs(mean) > half
    i, j, k = triples.T
    decided = significant[i, j] & significant[j, k] & significant[i, k]
    return int(decided.sum()), int((decided & _is_cyclic(mean > 0.0, triples)).sum())


def _triples(players: int) -> npt.NDArray[np.int64]:
    """All triples i < j < k, (T, 3)."""
    return np.array(list(combinations(range(players), 3)), dtype=np.int64).reshape(-1, 3)


def _is_cyclic(beats: npt.NDArray[np.bool_], triples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each triple is a cycle, (T,)."""
    i, j, k = triples.T
    return np.asarray((beats[i, j] & beats[j, k] & beats[k, i]) | (beats[j, i] & beats[k, j] & beats[i, k]))


def _antisymmetric(payoffs: npt.ArrayLike) -> Array:
    matrix = np.asarray(payoffs, dtype=np.float64)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"payoffs must be square matrices, got shape {matrix.shape}")
    scale = abs(matrix).max(initial=0.0)
    if not abs(matrix + np.swapaxes(matrix, -1, -2)).max(initial=0.0) <= 1e-9 * max(scale, 1e-300):
        raise ValueError("payoffs must be antisymmetric: what one player gains the other one loses")
    return matrix
