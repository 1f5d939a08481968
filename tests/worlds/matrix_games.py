"""One-step games with discrete actions as matrix_game_v0: QTRAN's (Son et al. 2019), and a coordination game."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sb3_matrl.envs import CoreParallelEnv, matrix_game_v0

# Rows: agent_0's action. In both, neither a sum nor a monotone function of utilities fits all payoffs.
G1 = np.array([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])
G2 = np.array([[8.0, -12.0, -12.0], [-12.0, 6.0, 6.0], [-12.0, 6.0, 6.0]])
COORDINATION = np.array([[1.0, 0.0], [0.0, 2.0]])


def team_game(payoffs: ArrayLike, everybody: bool = False, max_cycles: int = 1) -> CoreParallelEnv:
    """
    Make a game of two agents in which the team is paid.

    :param payoffs: the team's payoff of every joint action, rows: agent_0's action
    :param everybody: whether both agents get the payoff, or ``agent_0`` alone, so that the sum is right
    :param max_cycles: number of rounds
    """
    table = np.asarray(payoffs, np.float64)
    return matrix_game_v0.parallel_env(payoffs=[table, table if everybody else np.zeros_like(table)], max_cycles=max_cycles)
