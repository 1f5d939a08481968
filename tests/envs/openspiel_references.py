"""Slow references for OpenSpiel's games: pyspiel move by move, and Kuhn poker from its written rules."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np

from tests.envs.random_references import SplitMix


class Table:
    """One seat of games after each other, move by move, with the rewards that OpenSpiel reports for every move."""

    def __init__(self, game: Any, seed: int) -> None:
        self.game, self.random = game, SplitMix(seed)
        self.begin()

    def begin(self) -> None:
        self.state = self.game.new_initial_state()
        self.deal()

    def deal(self) -> np.ndarray:
        """Draw chance until a player acts; the sum of the rewards on the way."""
        paid = np.zeros(self.game.num_players())
        while self.state.is_chance_node():
            outcomes, probabilities = zip(*self.state.chance_outcomes(), strict=True)
            place = np.searchsorted(np.cumsum(probabilities), self.random.uniform(), side="right")
            self.state.apply_action(outcomes[place])
            paid += self.state.rewards()
        return paid

    def actors(self) -> list[int]:
        if self.state.is_terminal():
            return []
        if not self.state.is_simultaneous_node():
            return [self.state.current_player()]
        return [player for player in range(self.game.num_players()) if self.state.legal_actions(player)]

    def step(self, actions: list[int]) -> np.ndarray:
        """Rewards of the players."""
        if self.state.is_simultaneous_node():
            actors = self.actors()
            self.state.apply_actions([action if player in actors else 0 for player, action in enumerate(actions)])
        else:
            self.state.apply_action(actions[self.state.current_player()])
        paid = np.array(self.state.rewards())
        return paid + self.deal()

    def seen(self, player: int) -> np.ndarray:
        if self.state.is_terminal():
            return np.zeros(size_of(self.game), np.float32)
        tensors = self.game.get_type().provides_information_state_tensor
        tensor = self.state.information_state_tensor if tensors else self.state.observation_tensor
        return np.array(tensor(player), np.float32)


def size_of(game: Any) -> int:
    tensors = game.get_type().provides_information_state_tensor
    return game.information_state_tensor_size() if tensors else game.observation_tensor_size()


# ---------------------------------------------------------------- Kuhn poker, without OpenSpiel


def kuhn_winnings(history: str, cards: tuple[int, int]) -> int | None:
    """What the first player wins, or ``None`` if the game goes on: both ante 1, p passes, b bets 1."""
    best = 1 if cards[0] > cards[1] else -1
    ends = {"pp": best, "bp": 1, "pbp": -1, "bb": 2 * best, "pbb": 2 * best}
    return ends.get(history)


def kuhn_value(policies: tuple[dict[str, float], dict[str, float]]) -> float:
    """
    Expected winnings of the first player.

    :param policies: of each player, from its card and the history to the probability of a bet
    """

    def value(history: str, cards: tuple[int, int]) -> float:
        won = kuhn_winnings(history, cards)
        if won is not None:
            return won
        player = len(history) % 2
        bet = policies[player][f"{cards[player]}{history}"]
        return bet * value(history + "b", cards) + (1 - bet) * value(history + "p", cards)

    return float(np.mean([value("", cards) for cards in permutations(range(3), 2)]))


def kuhn_nash_conv(policies: tuple[dict[str, float], dict[str, float]]) -> float:
    """NashConv by trying all 64 pure strategies of each player."""
    first = max(kuhn_value((pure, policies[1])) for pure in pure_strategies(policies[0]))
    second = max(-kuhn_value((policies[0], pure)) for pure in pure_strategies(policies[1]))
    return first + second  # the values of the policies themselves cancel out


def pure_strategies(policy: dict[str, float]) -> list[dict[str, float]]:
    return [dict(zip(policy, bets, strict=True)) for bets in product((0.0, 1.0), repeat=len(policy))]


def kuhn_equilibrium(alpha: float) -> tuple[dict[str, float], dict[str, float]]:
    """The equilibria of Kuhn (1950), alpha from 0 to 1/3."""
    first = {"0": alpha, "1": 0.0, "2": 3 * alpha, "0pb": 0.0, "1pb": alpha + 1 / 3, "2pb": 1.0}
    return first, {"0b": 0.0, "1b": 1 / 3, "2b": 1.0, "0p": 1 / 3, "1p": 0.0, "2p": 1.0}
