"""Exact evaluation of policies in OpenSpiel's games: information states by traversal, best responses by OpenSpiel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sb3_matrl.envs.optional import import_optional

# (player, row of its information state, action)
_Choice = tuple[int, int, int]


class OpenSpielTables:
    """
    Information states of a game, in which players act, and values of tabular policies.

    Simultaneous moves are converted to turns in which no player sees the others' choices. Agents are named ``player_0``,
    ``player_1``, ...

    - ``agents``: names of the n agents
    - ``names``: agent -> OpenSpiel's names of its m information states
    - ``observations``: agent -> float32 (m, size), observations in them
    - ``masks``: agent -> bool (m, n_actions), legal actions there

    :param game: ``pyspiel.Game``
    :param tensor: function of a ``pyspiel.State`` and a player that returns the player's observation
    :param max_histories: largest number of histories of a game that is still traversed
    :raises ValueError: if the game has more histories, its information states have no names, or two players' have the same
    """

    def __init__(self, game: Any, tensor: Callable[[Any, int], list[float]], max_histories: int) -> None:
        pyspiel = import_optional("pyspiel", f"exact evaluation of {game}", "openspiel")
        if not game.get_type().provides_information_state_string:
            raise ValueError(f"{game} cannot be evaluated exactly: OpenSpiel has no information states of it")
        self.game, self._tensor = game, tensor
        self._converted = game.get_type().dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS
        self._turns = pyspiel.convert_to_turn_based(game) if self._converted else game
        self._responder_class = pyspiel.TabularBestResponse
        self._responders: list[Any] = []
        self.agents = [f"player_{player}" for player in range(game.num_players())]
        self._players = [_Player() for _ in self.agents]
        self._tree = self._traversed(max_histories)
        players = dict(zip(self.agents, self._players, strict=True))
        self.names = {agent: list(player.rows) for agent, player in players.items()}
        if len(set().union(*self.names.values())) < sum(map(len, self.names.values())):
            raise ValueError(f"{game} cannot be evaluated exactly: information states of two players have the same name")
        self.observations = {agent: np.array(player.observations) for agent, player in players.items()}
        self.masks = {agent: player.masks(game.num_distinct_actions()) for agent, player in players.items()}

    def _traversed(self, max_histories: int) -> _Tree:
        """All histories, depth first, each before those that continue it."""
        tree = _Tree(len(self.agents))
        waiting: list[tuple[Any, int, float | _Choice]] = [(self._turns.new_initial_state(), -1, 1.0)]
        while waiting:
            state, parent, factor = waiting.pop()
            if tree.size == max_histories:
                raise ValueError(f"{self.game} has more than {max_histories} histories, too many to evaluate policies exactly")
            node = tree.add(parent, factor)
            if state.is_terminal():
                tree.end(node, state.returns())
            else:
                waiting.extend((state.child(action), node, factor) for action, factor in reversed(self._choices(state)))
        tree.freeze()
        return tree

    def _choices(self, state: Any) -> list[tuple[int, float | _Choice]]:
        """What can happen in a state that is not final, with its probability, or the place of its probability in a policy."""
        if state.is_chance_node():
            return [(outcome, probability) for outcome, probability in state.chance_outcomes() if probability > 0]
        index, actions = state.current_player(), list(state.legal_actions())
        player, name = self._players[index], state.information_state_string(state.current_player())
        if name not in player.rows:
            own = state.simultaneous_game_state() if self._converted else state
            player.add(name, actions, self._tensor(own, index))
        return [(action, (index, player.rows[name], action)) for action in actions]

    def values(self, policies: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """
        Expected returns of policies, and of best responses to them.

        :param policies: agent -> probabilities (m, n_actions) in the agent's information states
        :return: expected return (n,) of each agent; its best expected return (n,) against the policies of the others
        """
        tables = [np.asarray(policies[agent], dtype=np.float64) for agent in self.agents]
        by_name: dict[str, list[tuple[int, float]]] = {}
        for player, table in zip(self._players, tables, strict=True):
            by_name |= player.named(table)
        root = self._turns.new_initial_state()
        best = [responder.value_from_state(root) for responder in self._responders_to(by_name)]
        return self._tree.expected_returns(tables), np.array(best)

    def _responders_to(self, table: Mapping[str, list[tuple[int, float]]]) -> list[Any]:
        """A best responder of each player; those of an earlier call keep the game tree."""
        for responder in self._responders:
            responder.set_policy(table)
        if not self._responders:
            self._responders = [self._responder_class(self._turns, index, table) for index in range(len(self.agents))]
        return self._responders


class _Player:
    """Information states of one player, in the order of their rows."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.actions: list[list[int]] = []
        self.observations: list[np.ndarray] = []

    def add(self, name: str, actions: list[int], observation: Sequence[float]) -> None:
        self.rows[name] = len(self.rows)
        self.actions.append(actions)
        self.observations.append(np.array(observation, dtype=np.float32))

    def masks(self, n_actions: int) -> np.ndarray:
        """Bool (m, n_actions), legal actions."""
        masks = np.zeros((len(self.actions), n_actions), dtype=bool)
        for mask, actions in zip(masks, self.actions, strict=True):
            mask[actions] = True
        return masks

    def named(self, table: np.ndarray) -> dict[str, list[tuple[int, float]]]:
        """Name of the information state -> legal actions and their probabilities in a policy (m, n_actions)."""
        return {name: [(action, float(table[row, action])) for action in self.actions[row]] for name, row in self.rows.items()}


class _Tree:
    """
    Histories of a game as arrays: the parent of each, and the probability of its last action.

    :param n_players: number of players
    """

    def __init__(self, n_players: int) -> None:
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._chance: list[float] = []  # 1 where a player acted
        self._acted: list[list[tuple[int, int, int]]] = [[] for _ in range(n_players)]  # player -> (node, row, action)
        self._ends: list[int] = []
        self._returns: list[list[float]] = []

    @property
    def size(self) -> int:
        """Number of histories."""
        return len(self._parents)

    def add(self, parent: int, factor: float | _Choice) -> int:
        """Add a history: its parent, -1 for none, and the probability of its last action, or its place in a policy."""
        node = self.size
        self._parents.append(parent)
        self._depths.append(self._depths[parent] + 1 if parent >= 0 else 0)
        if isinstance(factor, tuple):
            player, row, action = factor
            self._acted[player].append((node, row, action))
            factor = 1.0
        self._chance.append(factor)
        return node

    def end(self, node: int, returns: Sequence[float]) -> None:
        """The history is final, with these returns of the players."""
        self._ends.append(node)
        self._returns.append(list(returns))

    def freeze(self) -> None:
        """Make the arrays, after the last history."""
        self._parent_of, self._factors = np.array(self._parents), np.array(self._chance)
        depths = np.array(self._depths)
        order = np.argsort(depths, kind="stable")
        self._levels = np.split(order, np.flatnonzero(np.diff(depths[order])) + 1)[1:]
        self._places = [np.array(acted, dtype=np.int64).reshape(-1, 3).T for acted in self._acted]
        self._final, self._final_returns = np.array(self._ends), np.array(self._returns)

    def expected_returns(self, tables: Sequence[np.ndarray]) -> np.ndarray:
        """
        Expected returns (n,): sum over final histories of the product of all probabilities, times their returns.

        :param tables: probabilities (m, n_actions) of each player's actions in its information states
        """
        factors, reach = self._factors.copy(), np.ones(self.size)
        for (nodes, rows, actions), table in zip(self._places, tables, strict=True):
            factors[nodes] = table[rows, actions]
        for nodes in self._levels:
            reach[nodes] = reach[self._parent_of[nodes]] * factors[nodes]
        return np.asarray(reach[self._final] @ self._final_returns)
