"""Types of action distributions."""

from __future__ import annotations

from collections.abc import Sequence

from torch.distributions import Bernoulli, Categorical, Normal

#: What SB3's action distributions hold: a list stands for MultiDiscrete actions, one Categorical per component.
ActionDistribution = Categorical | Bernoulli | Normal | Sequence[Categorical]
