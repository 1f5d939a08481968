"""The multi-step matrix game of MAVEN (Mahajan et al. 2019), on which Q-DPP (Yang et al. 2020) is compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from tests.worlds.team_game import TeamGame, one_hot

N_STEPS = 10
LAST_PAYOFFS = np.array([[1.0, 1.0], [1.0, 4.0]])
NO_BRANCH = -1


class MultiStepGame(TeamGame):
    """
    Two agents with two actions each. The first joint action, (0, 0) or (1, 1), pays 1 and opens a branch; repeating it pays 1
    in every step, for ten steps. Anything else ends the game without a reward, except in the last step of branch (0, 0),
    where (1, 1) pays 4 and the others 1. So branch (0, 0) is worth 9 + 4 = 13, the other one 10.

    Observation and state: the step and the branch, one-hot.
    """

    metadata = {"name": "multi_step_game", "render_modes": []}  # noqa: RUF012

    def __init__(self, everybody: bool = False) -> None:
        super().__init__([spaces.Discrete(2)] * 2, N_STEPS + 1 + 2, everybody)

    def start(self) -> list[int]:
        return [0, NO_BRANCH]

    def play(self, actions: list[Any]) -> tuple[float, bool]:
        step, branch = self.place
        one, other = (int(action) for action in actions)
        if step == 0 and one == other:
            branch = one
        reward = float(one == other == branch)
        if step == N_STEPS - 1 and branch == 0:
            reward = float(LAST_PAYOFFS[one, other])
        self.place = [step + 1, branch]
        return reward, reward == 0.0 or step + 1 == N_STEPS

    def state(self) -> np.ndarray:
        step, branch = self.place
        return one_hot(N_STEPS + 1 + 2, step, *([] if branch == NO_BRANCH else [N_STEPS + 1 + branch]))
