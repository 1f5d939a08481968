"""What the meta-game did in a run, in words, from the run's log."""

from __future__ import annotations

import numpy as np

from sb3_matrl.zoo.reporting.run_loading import Progress

# Smaller weights on the current policy count as 0: solvers that search are not exact.
ZERO = 1e-3
# An effective sample size below this share, or a share of clipped ratios above it, is worth a remark.
_FEW_SAMPLES, _MANY_CLIPPED = 0.5, 0.3
_MOST_AGENTS = 8


def verdict(progress: Progress) -> tuple[str, ...]:
    """
    Say what the meta-game did in a run.

    :param progress: log of the run
    :return: sentences on how often it restricted an agent, and on clipping and effective sample sizes; none if the run has no
        meta-game, or it is switched off
    """
    _, equilibria = progress.curve("metagame/n_equilibria")
    agents = progress.agents_with("metagame/rho")
    rho = progress.of_agents("metagame/rho")
    if not len(rho) or (len(equilibria) and (equilibria == -1).all()):
        return ()
    restriction = _restriction(rho, agents, _iterations(progress, agents), _equal_to(progress))
    return (restriction, *_chosen(progress), *_samples(progress))


def _equal_to(progress: Progress) -> str | None:
    """Algorithm whose steps MATRL takes where rho is 0; ``None`` where there are other strategies than the usual two."""
    if progress.has_strategies:
        return None
    return "il-la" if progress.agents_with("br/n_updates") else "ippo"


def _iterations(progress: Progress, agents: list[str]) -> str:
    """
    Word for the rows of the log, which may be fewer than there were iterations.

    None is missing if every row has its number and the numbers rise by one. A run that continues a model begins with a later
    number than 1, so that of a single row only a first iteration is known to be all.
    """
    keys = [f"{agent}/metagame/rho" for agent in agents]
    counted = progress.table(["time/iterations", *keys])[:, 0]
    is_all = len(counted) == len(progress.table(keys)) and (np.diff(counted) <= 1).all()
    return "iterations" if is_all and (len(counted) > 1 or counted[0] == 1) else "logged iterations"


def _restriction(rho: np.ndarray, agents: list[str], iterations: str, other: str | None) -> str:
    """
    How often an agent was kept at its current policy.

    :param rho: weights on the current policies, shape (iterations, agents)
    :param other: see :func:`_equal_to`
    """
    count, is_held = len(rho), rho > ZERO
    n_held = int(is_held.any(axis=1).sum())
    if n_held == 0:
        taken = "" if other is None else f", and this run took the steps of {other}; see 'Which method' in the documentation"
        return f"rho was 0 in {count} of {count} {iterations}: the game kept no agent at its current policy{taken}."
    most = np.argsort(-is_held.sum(axis=0), kind="stable")[:_MOST_AGENTS]
    held = ", ".join(f"{agents[i]} in {is_held[:, i].sum()}" for i in sorted(most) if is_held[:, i].any())
    n_still = int((rho >= 1 - ZERO).all(axis=1).sum())
    still = f" In {n_still}, all agents kept their current policies." if n_still else ""
    rest = (
        ""
        if other is None or n_held == count
        else f" The other {count - n_held} were steps of {other}; see 'Which method' in the documentation."
    )
    return (
        f"The game restricted an agent (rho > 0) in {n_held} of {count} {iterations}, {_share(n_held / count)}: {held}; "
        f"mean rho {rho.mean():.2f}.{still}{rest}"
    )


def _chosen(progress: Progress) -> list[str]:
    """A sentence on the strategies that were chosen, where there are others than the usual two."""
    if not progress.has_strategies:
        return []
    weights = {name: progress.of_agents(f"metagame/sigma_{name}") for name in progress.strategies}
    shown = ", ".join(f"{name} {weight.mean():.2f}" for name, weight in weights.items() if len(weight))
    return [f"Mean weights of the strategies: {shown}."]


def _samples(progress: Progress) -> list[str]:
    """Sentences on clipping and effective sample sizes."""
    clipped, weights, sizes = (
        _mean(progress, key) for key in ("clip_fraction", "weight_clip_fraction", "effective_sample_size")
    )
    if clipped is None:
        return []
    parts = [f"{_share(clipped)} of the ratios in the payoffs were clipped"]
    if weights is not None and sizes is not None:
        parts += [f"{_share(weights)} of the best-response weights", f"the effective sample size was {_share(sizes)}"]
    sentences = [f"On average {', '.join(parts)}."]
    if clipped > _MANY_CLIPPED:
        sentences.append("So many clipped ratios bias the payoffs: try smaller steps, or a wider payoff_clip_range.")
    if sizes is not None and sizes < _FEW_SAMPLES:
        sentences.append("The best responses rest on few samples: try smaller steps (learning_rate, n_epochs).")
    return sentences


def _mean(progress: Progress, key: str) -> float | None:
    """Mean of a meta-game's number over agents and iterations; ``None`` if it was never logged."""
    table = progress.of_agents(f"metagame/{key}")
    return float(table.mean()) if table.size else None


def _share(value: float) -> str:
    return f"{value:.0%}" if value == 0 or value >= 0.1 else f"{value:.1%}"
