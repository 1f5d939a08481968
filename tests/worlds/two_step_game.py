"""The two-step game of the QMIX paper (Rashid et al. 2018, Section 5): the first agent chooses which matrix is played."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from tests.worlds.team_game import TeamGame, one_hot

# Payoffs of state 2A and 2B; rows: agent_0's action.
PAYOFFS = np.array([[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])
FIRST, AFTER_A, AFTER_B, OVER = range(4)


class TwoStepGame(TeamGame):
    """
    Two agents with two actions each. In the first step agent_0's action leads to state 2A or 2B, without a reward; in the
    second step their matrix pays the team, which ends the game. The best return is 8; a sum of utilities learns 7.

    Observation and state: which of the three states it is, one-hot; zeros after the end.
    """

    metadata = {"name": "two_step_game", "render_modes": []}  # noqa: RUF012

    def __init__(self, everybody: bool = False) -> None:
        super().__init__([spaces.Discrete(2)] * 2, 3, everybody)

    def start(self) -> list[int]:
        return [FIRST]

    def play(self, actions: list[Any]) -> tuple[float, bool]:
        if self.place == [FIRST]:
            self.place = [AFTER_B if actions[0] else AFTER_A]
            return 0.0, False
        reward = float(PAYOFFS[self.place[0] - AFTER_A, actions[0], actions[1]])
        self.place = [OVER]
        return reward, True

    def state(self) -> np.ndarray:
        return one_hot(3, *(place for place in self.place if place != OVER))
