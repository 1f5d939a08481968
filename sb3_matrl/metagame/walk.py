"""Pure profiles that change one agent at a time, with the gradient kept up to date."""

from collections.abc import Callable

import numpy as np

from sb3_matrl.metagame.incentives import Array


class Walk:
    """
    A pure profile and the gradient there, computed from scratch after every change.

    :param gradient_at: function from a pure profile (n,) to the gradient (n,)
    :param profile: (n,) weights on current, zeros and ones; the start
    """

    def __init__(self, gradient_at: Callable[[Array], Array], profile: Array) -> None:
        self._gradient_at = gradient_at
        self.profile = profile.copy()
        self.gradient = gradient_at(self.profile)

    def flip(self, agent: int) -> None:
        """Change the strategy of one agent; updates ``profile`` and ``gradient``."""
        self.profile[agent] = 1.0 - self.profile[agent]
        self.gradient = self._gradient_at(self.profile)


class DividingWalk(Walk):
    """
    A walk over samples whose ratios are safe divisors: a flip costs one matrix-vector product.

    gradient = M @ joint ratios, where row i of M is -w_i (r_i - 1) / m_i and a flip changes only the flipped agent's row.

    :param ratios: (n, B) clipped ratios, none near zero
    :param weights: (n, B) centred advantages over the number of samples
    :param profile: (n,) weights on current, zeros and ones; the start
    """

    def __init__(self, ratios: Array, weights: Array, profile: Array) -> None:
        mixed = np.where(profile[:, None] == 1.0, 1.0, ratios)
        rows, joint = -weights * (ratios - 1.0) / mixed, mixed.prod(axis=0)
        super().__init__(lambda _: rows @ joint, profile)
        self._ratios = ratios
        # flip changes both arrays in place.
        self._rows, self._joint = rows, joint

    def flip(self, agent: int) -> None:
        """Change the strategy of one agent; updates ``profile`` and ``gradient``."""
        ratio = self._ratios[agent]
        factor = ratio if self.profile[agent] == 1.0 else 1.0 / ratio
        self._joint *= factor
        self._rows[agent] /= factor
        super().flip(agent)
