"""Slow, obvious implementations to compare with, and generators of random games."""

import itertools

import numpy as np

from sb3_matrl.metagame import MetaGame


def slow_payoffs(ratios, advantages, clip_range=None, mask=None):
    """Loop over agents, profiles and samples, straight from the definition; ratios of shape (B, n) or (B, n, K-1)."""
    ratios = ratios.reshape(*advantages.shape, -1)
    n_samples, n, k = ratios.shape
    mask = np.ones((n_samples, n), dtype=bool) if mask is None else mask
    table = np.zeros((n, *(k + 1,) * n))
    for i in range(n):
        live = [b for b in range(n_samples) if mask[b, i]]
        if not live:
            continue
        mean = sum(advantages[b, i] for b in live) / len(live)
        for profile in itertools.product(range(k + 1), repeat=n):
            total = 0.0
            for b in live:
                product = 1.0
                for j in range(n):
                    if profile[j] > 0 and mask[b, j]:
                        ratio = ratios[b, j, profile[j] - 1]
                        if clip_range is not None:
                            ratio = min(max(ratio, 1 - clip_range), 1 + clip_range)
                        product *= ratio
                total += (advantages[b, i] - mean) * product
            table[(i, *profile)] = total / len(live)
    return table


def as_sigma(profile):
    """(n, K) distributions, from themselves or from (n,) weights on current."""
    profile = np.asarray(profile, dtype=float)
    return np.stack([profile, 1.0 - profile], axis=1) if profile.ndim == 1 else profile


def slow_expected(table, profile):
    """Expectation over all pure profiles, one at a time."""
    n, sigma = len(table), as_sigma(profile)
    expected = np.zeros(n)
    for pure in itertools.product(range(table.shape[1]), repeat=n):
        probability = np.prod([sigma[j, pure[j]] for j in range(n)])
        expected += probability * np.array([table[(i, *pure)] for i in range(n)])
    return expected


def slow_strategy_payoffs(table, profile):
    """(n, K): replace an agent's distribution by each pure strategy."""
    n, k = table.shape[:2]
    result = np.zeros((n, k))
    for i in range(n):
        for strategy in range(k):
            changed = as_sigma(profile).copy()
            changed[i] = np.arange(k) == strategy
            result[i, strategy] = slow_expected(table, changed)[i]
    return result


def slow_nash_conv(table, profile):
    """Sum of the best deviations."""
    return float((slow_strategy_payoffs(table, profile).max(axis=1) - slow_expected(table, profile)).sum())


def random_samples(rng, n, n_samples=30, spread=0.3, k=2):
    """Ratios and advantages of one rollout; ratios (B, n) for two strategies, else (B, n, K-1)."""
    shape = (n_samples, n) if k == 2 else (n_samples, n, k - 1)
    return np.exp(spread * rng.standard_normal(shape)), rng.standard_normal((n_samples, n)) + 1.0


def random_profile(rng, n, k):
    """Distributions (n, K), or for two strategies weights (n,) on current."""
    return rng.uniform(size=n) if k == 2 else rng.dirichlet(np.ones(k), size=n)


def random_game(kind, n, rng, k=2):
    """A game of a named kind."""
    shape = (n, *(k,) * n)
    if kind == "samples":
        ratios, advantages = random_samples(rng, n, 100, k=k)
        return MetaGame(ratios, advantages, 0.2)
    if kind == "integer":
        return MetaGame.from_payoffs(rng.integers(-1, 2, shape))
    if kind == "zero":
        return MetaGame.from_payoffs(np.zeros(shape))
    table = rng.standard_normal(shape)
    if kind == "sparse":
        table *= rng.random(shape) < 0.3
    elif kind == "zero-sum":
        table -= table.mean(axis=0)
    elif kind == "identical":
        table[:] = table[0]
    return MetaGame.from_payoffs(table)


KINDS = ("normal", "integer", "sparse", "zero-sum", "identical", "zero", "samples")
