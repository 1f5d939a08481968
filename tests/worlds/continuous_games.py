"""One-step games with continuous actions, whose best joint actions are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from tests.worlds.team_game import TeamGame


def coordination(one: float, other: float) -> float:
    """The best actions depend on each other: 0 at (0.2, 0.8), less elsewhere."""
    return -((one + other - 1) ** 2) - (one - 0.2) ** 2


def separate(one: float, other: float) -> float:
    """Every agent has its own target: 0 at (0.3, -0.6), less elsewhere."""
    return -((one - 0.3) ** 2) - (other + 0.6) ** 2


class ContinuousGame(TeamGame):
    """
    Two agents with actions in [-high, high] play once. They observe the constant 1.

    :param payoff: function of both actions
    :param everybody: whether both agents get the payoff
    :param high: largest action
    """

    metadata = {"name": "continuous_game", "render_modes": []}  # noqa: RUF012

    def __init__(
        self, payoff: Callable[[float, float], float] = coordination, everybody: bool = True, high: float = 1.0
    ) -> None:
        super().__init__([spaces.Box(-high, high, (1,), np.float32)] * 2, 1, everybody)
        self.payoff = payoff

    def start(self) -> list[int]:
        return []

    def play(self, actions: list[Any]) -> tuple[float, bool]:
        return float(self.payoff(*(float(action[0]) for action in actions))), True

    def state(self) -> np.ndarray:
        return np.ones(1, np.float32)
