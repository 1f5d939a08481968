"""Slow, obvious implementations to compare with, and generators of random games."""

import itertools

import numpy as np

from sb3_matrl.metagame import MetaGame


def slow_payoffs(ratios, advantages, clip_range=None, mask=None):
    """Loop over agents, profiles and samples, straight from the definition."""
    n_samples, n = ratios.shape
    mask = np.ones((n_samples, n), dtype=bool) if mask is None else mask
    table = np.zeros((n, *(2,) * n))
    for i in range(n):
        live = [b for b in range(n_samples) if mask[b, i]]
        if not live:
            continue
        mean = sum(advantages[b, i] for b in live) / len(live)
        for profile in itertools.product((0, 1), repeat=n):
            total = 0.0
            for b in live:
                product = 1.0
                for j in range(n):
                    if profile[j] == 1 and mask[b, j]:
                        ratio = ratios[b, j]
                        if clip_range is not None:
                            ratio = min(max(ratio, 1 - clip_range), 1 + clip_range)
                        product *= ratio
                total += (advantages[b, i] - mean) * product
            table[(i, *profile)] = total / len(live)
    return table


def slow_expected(table, rho):
    """Expectation over all pure profiles, one at a time."""
    n = len(table)
    expected = np.zeros(n)
    for profile in itertools.product((0, 1), repeat=n):
        probability = np.prod([rho[j] if profile[j] == 0 else 1 - rho[j] for j in range(n)])
        expected += probability * np.array([table[(i, *profile)] for i in range(n)])
    return expected


def slow_strategy_payoffs(table, rho):
    """(n, 2): replace an agent's weight by 1 and by 0."""
    result = np.zeros((len(table), 2))
    for i in range(len(table)):
        for column, weight in enumerate((1.0, 0.0)):
            changed = np.array(rho, dtype=float)
            changed[i] = weight
            result[i, column] = slow_expected(table, changed)[i]
    return result


def slow_nash_conv(table, rho):
    """Sum of the best deviations."""
    return float((slow_strategy_payoffs(table, rho).max(axis=1) - slow_expected(table, rho)).sum())


def random_samples(rng, n, n_samples=30, spread=0.3):
    """Ratios and advantages of one rollout."""
    return np.exp(spread * rng.standard_normal((n_samples, n))), rng.standard_normal((n_samples, n)) + 1.0


def random_game(kind, n, rng):
    """A game of a named kind."""
    shape = (n, *(2,) * n)
    if kind == "samples":
        ratios, advantages = random_samples(rng, n, 100)
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
