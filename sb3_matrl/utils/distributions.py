"""Types of action distributions; batches of them, cut and joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from torch.distributions import Bernoulli, Categorical, Normal

#: What SB3's action distributions hold: a list stands for MultiDiscrete actions, one Categorical per component.
ActionDistribution = Categorical | Bernoulli | Normal | Sequence[Categorical]


def join_distributions(parts: Sequence[ActionDistribution]) -> ActionDistribution:
    """
    One batch of distributions from several.

    :param parts: distributions of one kind, over batches of states
    :return: the distribution over all states, in the order of the parts; the same object if there is one part
    """
    first: Any = parts[0]
    if len(parts) == 1:
        return parts[0]
    if isinstance(first, (list, tuple)):
        components: list[Any] = [join_distributions(of_component) for of_component in zip(*parts, strict=True)]
        return components
    if isinstance(first, Normal):
        loc, scale = (th.cat([getattr(part, name) for part in parts]) for name in ("loc", "scale"))
        return Normal(loc, scale)
    return _of_logits(first, th.cat([part.logits for part in parts]))  # type: ignore[union-attr]


def rows_of_distribution(distribution: ActionDistribution, rows: Any) -> ActionDistribution:
    """
    Distributions of some states of a batch.

    :param distribution: distribution over a batch of states
    :param rows: slice or indices of the states
    :return: the distribution over these states; the same object for ``slice(None)``
    """
    if isinstance(rows, slice) and rows == slice(None):
        return distribution
    if isinstance(distribution, (list, tuple)):
        components: list[Any] = [rows_of_distribution(component, rows) for component in distribution]
        return components
    if isinstance(distribution, Normal):
        return Normal(distribution.loc[rows], distribution.scale[rows])
    return _of_logits(distribution, distribution.logits[rows])  # type: ignore[union-attr]


def _of_logits(like: Any, logits: th.Tensor) -> Categorical | Bernoulli:
    if isinstance(like, Bernoulli):
        return Bernoulli(logits=logits)
    joined = Categorical(logits=logits)
    joined.logits = logits  # normalised already: once more would change the last bits
    return joined
