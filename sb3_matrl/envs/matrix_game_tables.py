"""Normal-form games as tables of policies, for exact values and regrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sb3_matrl.games.one_shot_games import OneShotGame


class MatrixGameTables:
    """
    A normal-form game in the form of :class:`~sb3_matrl.evaluation.exact_nash_conv.ExactGame`: one observation for each agent.

    Rounds are alike and nobody remembers, so that a best response is the best single action in every round.

    :param agents: names of the n agents
    :param game: the game
    :param max_cycles: number of rounds of an episode
    :param team_reward: whether every agent gets the sum of all payoffs
    """

    def __init__(self, agents: Sequence[str], game: OneShotGame, max_cycles: int = 1, team_reward: bool = False) -> None:
        self.agents = list(agents)
        self.observations = {agent: np.ones((1, 1), dtype=np.float32) for agent in self.agents}
        self.masks = {agent: np.ones((1, count), dtype=bool) for agent, count in zip(self.agents, game.n_actions, strict=True)}
        self._game = game
        self._max_cycles = max_cycles
        self._team_reward = team_reward

    def values(self, policies: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """
        Exact values in an episode.

        :param policies: agent -> probabilities of its actions, (1, A_i)
        :return: expected returns (n,), and those of best responses to the others' policies (n,)
        """
        strategies = [policies[agent][0] for agent in self.agents]
        actions = self._team_values(strategies) if self._team_reward else self._game.action_payoffs(strategies)
        values = np.array([of_actions @ own for of_actions, own in zip(actions, strategies, strict=True)])
        best = np.array([of_actions.max() for of_actions in actions])
        return self._max_cycles * values, self._max_cycles * best

    def _team_values(self, strategies: list[np.ndarray]) -> list[np.ndarray]:
        """Expected sum of all payoffs for each action of each agent against the strategies of the others, n times (A_i,)."""
        values = []
        for place, own in enumerate(strategies):
            fixed = [[*strategies[:place], action, *strategies[place + 1 :]] for action in np.eye(len(own))]
            values.append(np.array([self._game.expected_payoffs(one).sum() for one in fixed]))
        return values
