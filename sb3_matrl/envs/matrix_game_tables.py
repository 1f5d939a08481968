"""Normal-form games as tables of policies, for exact values and regrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_matrl.envs.core import CoreParallelEnv
from sb3_matrl.envs.matrix_game_v0 import MatrixGameCore


class MatrixGameTables:
    """
    A normal-form game in the form of :class:`~sb3_matrl.evaluation.exact_nash_conv.ExactGame`: one observation for each agent.

    Rounds are alike and nobody remembers, so that a best response is the best single action in every round.

    :param game: rules of the game
    """

    def __init__(self, game: MatrixGameCore) -> None:
        self.agents = list(game.possible_agents)
        self.observations = {agent: np.ones((1, 1), dtype=np.float32) for agent in self.agents}
        counts = game.options.game.n_actions
        self.masks = {agent: np.ones((1, count), dtype=bool) for agent, count in zip(self.agents, counts, strict=True)}
        self._options = game.options

    @classmethod
    def of(cls, env: Any) -> MatrixGameTables | None:
        """
        :param env: a ParallelEnv
        :return: the game that it plays; ``None`` if it is no normal-form game, or has wrappers
        """
        core = env.make_core(1) if isinstance(env, CoreParallelEnv) else None
        return cls(core) if isinstance(core, MatrixGameCore) else None

    def values(self, policies: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """
        Exact values in an episode.

        :param policies: agent -> probabilities of its actions, (1, A_i)
        :return: expected returns (n,), and those of best responses to the others' policies (n,)
        """
        strategies = [policies[agent][0] for agent in self.agents]
        actions = [self._action_values(strategies, place) for place in range(len(strategies))]
        values = np.array([of_actions @ own for of_actions, own in zip(actions, strategies, strict=True)])
        best = np.array([of_actions.max() for of_actions in actions])
        return self._options.max_cycles * values, self._options.max_cycles * best

    def _action_values(self, strategies: list[np.ndarray], place: int) -> np.ndarray:
        """Expected reward of each action of one agent against the strategies of the others, (A_i,)."""
        game = self._options.game
        if not self._options.team_reward:
            return np.asarray(game.action_payoffs(strategies)[place])
        count = len(strategies[place])
        fixed = [[*strategies[:place], np.eye(count)[action], *strategies[place + 1 :]] for action in range(count)]
        return np.array([game.expected_payoffs(one).sum() for one in fixed])
