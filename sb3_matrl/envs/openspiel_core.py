"""OpenSpiel's games as batched environments: turns, simultaneous moves and chance, with the rules in OpenSpiel's states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from sb3_matrl.envs.core import CopyInfos, CoreParallelEnv, CoreStep, discrete_actions
from sb3_matrl.envs.openspiel_tables import OpenSpielTables
from sb3_matrl.envs.option_checks import check_integer, check_turns
from sb3_matrl.envs.random_streams import SeededCore
from sb3_matrl.envs.snapshot import Snapshot

# Values of pyspiel.PlayerId, as State.current_player() returns them.
_SIMULTANEOUS = -2
# Number of different masks that are kept.
_MOST_MASKS = 1000


class OpenSpielCore(SeededCore):
    """
    ``num_envs`` copies of a game of OpenSpiel; :func:`~sb3_matrl.envs.openspiel_ids.parallel_env` describes it.

    All agents are alive until the game is over. A snapshot holds the histories of the copies, from which the games are
    replayed.

    :param num_envs: number of copies
    :param game: ``pyspiel.Game`` with at least two players, tensors and explicit chance
    """

    changing: ClassVar[tuple[str, ...]] = ("alive", "streams", "histories")

    def __init__(self, num_envs: int, game: Any) -> None:
        check_integer("num_envs", num_envs, low=1)
        self.num_envs, self.game = num_envs, game
        n_agents = game.num_players()
        self.metadata = {
            "name": f"openspiel:{_short(str(game))}",
            "render_modes": ["ansi"],
            "is_parallelizable": True,
            "render_fps": 1,
        }
        self.possible_agents = [f"player_{player}" for player in range(n_agents)]
        size, n_actions = tensor_size(game), int(game.num_distinct_actions())
        self._by_information = bool(game.get_type().provides_information_state_tensor)
        self.observation_spaces = {agent: spaces.Box(-np.inf, np.inf, (size,), np.float32) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(n_actions) for agent in self.possible_agents}
        self.state_space = spaces.Box(-np.inf, np.inf, (n_agents * size,), np.float32)
        self._counts = np.full(n_agents, n_actions)
        self.alive = np.zeros((num_envs, n_agents), dtype=bool)
        self._open_streams(num_envs)
        self._states = [game.new_initial_state() for _ in range(num_envs)]
        self.histories = [""] * num_envs  # up to date in snapshots only
        self._acting = np.zeros((num_envs, n_agents), dtype=bool)
        self._masks: list[dict[int, np.ndarray]] = [{} for _ in range(num_envs)]  # legal actions of the acting players
        self._known_masks: dict[tuple[int, ...], np.ndarray] = {}
        self._returns = np.zeros((num_envs, n_agents))
        self._tensors = np.zeros((n_agents, num_envs, size), dtype=np.float32)
        self._stale = np.ones(num_envs, dtype=bool)  # copies whose tensors are not those of their states

    @property
    def acting(self) -> np.ndarray:
        """Bool (num_envs, n_agents), agents that choose the next action."""
        return self._acting

    def replicate(self, num_envs: int) -> OpenSpielCore:
        """
        Create a new core of the same game.

        :param num_envs: number of copies of the new core
        """
        return type(self)(num_envs, self.game)

    # ------------------------------------------------------------------ playing

    def reset(self, copies: np.ndarray | None = None) -> None:
        """
        Start a new game.

        :param copies: bool (num_envs,), copies to reset; ``None`` for all
        """
        chosen = np.ones(self.num_envs, dtype=bool) if copies is None else np.asarray(copies, dtype=bool)
        for copy in np.flatnonzero(chosen).tolist():
            self._states[copy] = self.game.new_initial_state()
        self._draw_chance(chosen)
        self.alive = self.alive.copy()
        for copy in np.flatnonzero(chosen).tolist():
            self._returns[copy] = self._states[copy].returns()
            self._look(copy)

    def step(self, actions: np.ndarray) -> CoreStep:
        """
        Play one turn in every copy whose game is not over.

        :param actions: (num_envs, n_agents), integers; entries of agents that do not act are ignored
        :raises ValueError: if the action of an acting agent is no action of the game or not legal now; names agent and value
        """
        chosen = discrete_actions(actions, self._counts, self._acting, self.possible_agents)
        self._require_legal(chosen)
        alive = self.alive
        playing = alive[:, 0].copy()
        for copy in np.flatnonzero(playing).tolist():
            self._play(copy, chosen[copy].tolist())
        self._draw_chance(playing)
        rewards = np.zeros(alive.shape)
        self.alive = alive.copy()
        for copy in np.flatnonzero(playing).tolist():
            returns = np.array(self._states[copy].returns())
            rewards[copy] = returns - self._returns[copy]
            self._returns[copy] = returns
            self._look(copy)
        ended = alive & ~self.alive
        return CoreStep(rewards, ended, np.zeros_like(ended), self.start_infos(playing))

    def start_infos(self, copies: np.ndarray) -> CopyInfos:
        """
        Masks of the acting agents of some copies.

        :param copies: bool (num_envs,)
        :return: copy -> agent -> ``{"action_mask": bool (n_actions,)}``
        """
        return {
            copy: {self.possible_agents[player]: {"action_mask": mask} for player, mask in masks.items()}
            for copy in np.flatnonzero(copies).tolist()
            if (masks := self._masks[copy])
        }

    def _require_legal(self, actions: np.ndarray) -> None:
        for copy, masks in enumerate(self._masks):
            for player, mask in masks.items():
                action = int(actions[copy, player])
                if not mask[action]:
                    raise ValueError(
                        f"{self.possible_agents[player]}: action {action} is not legal now; legal are "
                        f"{np.flatnonzero(mask).tolist()}. Learners need action masks for this game: learner_class MaskablePPO"
                    )

    def _play(self, copy: int, actions: list[int]) -> None:
        """Apply the actions of the acting players; a player without a legal action at a simultaneous move does 0."""
        state = self._states[copy]
        player = state.current_player()
        if player == _SIMULTANEOUS:
            state.apply_actions(actions)
        else:
            state.apply_action(actions[player])

    def _draw_chance(self, copies: np.ndarray) -> None:
        """Draw the outcomes of chance in some copies until it is a player's turn or the game is over."""
        waiting = copies.copy()
        while True:
            for copy in np.flatnonzero(waiting).tolist():
                waiting[copy] = self._states[copy].is_chance_node()
            drawing = np.flatnonzero(waiting).tolist()
            if not drawing:
                return
            numbers = self._uniform(1, waiting)[:, 0]
            for copy in drawing:
                state = self._states[copy]
                state.apply_action(_outcome(state.chance_outcomes(), float(numbers[copy])))

    def _look(self, copy: int) -> None:
        """Find out who acts in a copy, and with which legal actions."""
        state, masks = self._states[copy], {}
        if not state.is_terminal():
            player = state.current_player()
            players = range(len(self.possible_agents)) if player == _SIMULTANEOUS else [player]
            for one in players:
                legal = state.legal_actions(one)
                if legal:
                    masks[one] = self._mask(tuple(legal))
        self._masks[copy] = masks
        acting = self._acting[copy]
        acting[:] = False
        for one in masks:
            acting[one] = True
        self.alive[copy] = not state.is_terminal()
        self._stale[copy] = True

    def _mask(self, legal: tuple[int, ...]) -> np.ndarray:
        """Mask of legal actions, which nobody changes; those of games with few actions are made once."""
        mask = self._known_masks.get(legal)
        if mask is None:
            if max(legal) >= self._counts[0]:
                raise ValueError(
                    f"{self.metadata['name']}: action {max(legal)} is legal, but the game has {self._counts[0]} actions"
                )
            mask = np.zeros(int(self._counts[0]), dtype=bool)
            mask[list(legal)] = True
            mask.flags.writeable = False
            if len(self._known_masks) < _MOST_MASKS:
                self._known_masks[legal] = mask
        return mask

    # ------------------------------------------------------------------ observing

    def observations(self) -> dict[str, np.ndarray]:
        """Information states or observations, float32 (num_envs, size); zeros where the game is over."""
        self._refresh()
        return {agent: self._tensors[player].copy() for player, agent in enumerate(self.possible_agents)}

    def state(self) -> np.ndarray:
        """Global state, all agents' observations: float32 (num_envs, n_agents * size)."""
        self._refresh()
        return np.concatenate(list(self._tensors), axis=1)

    def _refresh(self) -> None:
        for copy in np.flatnonzero(self._stale).tolist():
            state = self._states[copy]
            for player, tensors in enumerate(self._tensors):
                # Not every game has tensors of its final states; no learner uses the observation after a termination.
                tensors[copy] = 0.0 if not self.alive[copy, 0] else self.tensor(state, player)
        self._stale[:] = False

    def tensor(self, state: Any, player: int) -> list[float]:
        """
        Observation of a player.

        :param state: ``pyspiel.State`` in which players act
        :param player: index of the player
        """
        tensor: list[float] = (state.information_state_tensor if self._by_information else state.observation_tensor)(player)
        return tensor

    def render(self, mode: str) -> np.ndarray | str:
        """
        Describe copy 0 as OpenSpiel does.

        :param mode: ``"ansi"``
        """
        return str(self._states[0]) if mode == "ansi" else super().render(mode)

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> Snapshot:
        """See :class:`~sb3_matrl.envs.core.BatchedCore`."""
        self.histories = [" ".join(map(str, state.history())) for state in self._states]
        return super().snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """See :class:`~sb3_matrl.envs.core.BatchedCore`."""
        states = self._replayed_states(snapshot)
        super().restore(snapshot)
        if states is None:
            return
        self._states = states
        for copy, state in enumerate(states):
            self._returns[copy] = state.returns()
            if self.alive[copy, 0]:
                self._look(copy)
            else:
                self._masks[copy], self._acting[copy], self._stale[copy] = {}, False, True

    def _replayed_states(self, snapshot: Any) -> list[Any] | None:
        """The states of a snapshot; ``None`` if it does not have the form of one, which the base class explains."""
        histories = snapshot.get("histories") if isinstance(snapshot, Mapping) else None
        if not isinstance(histories, list) or not all(isinstance(history, str) for history in histories):
            return None
        states = [_replayed(self.game, history) for history in histories]
        alive = np.asarray(snapshot.get("alive"))
        if alive.shape != self.alive.shape or len(states) != self.num_envs:
            return None
        for history, state, row in zip(histories, states, alive, strict=True):
            acts = not (state.is_terminal() or state.is_chance_node())
            # No agent is alive after the end of a game, and before the first one.
            if row.any() != row.all() or not (acts if row.all() else state.is_terminal() or not history):
                what = f"snapshot of {self.metadata['name']}"
                raise ValueError(f"{what}: 'alive' is {row.tolist()}, which does not fit the history {history!r}")
        return states


class OpenSpielParallelEnv(CoreParallelEnv):
    """
    PettingZoo view of a game of OpenSpiel, in which only the agents in :attr:`acting_agents` have an action.

    :param core: core with ``num_envs`` 1
    :param render_mode: ``"ansi"`` or ``None``
    :raises ValueError: if the render mode is unknown
    """

    _core: OpenSpielCore

    def __init__(self, core: OpenSpielCore, render_mode: str | None = None) -> None:
        super().__init__(core, render_mode)

    @property
    def acting_agents(self) -> list[str]:
        """Agents that choose the next action; empty if the game is over."""
        return [agent for agent, acts in zip(self.possible_agents, self._core.acting[0], strict=True) if acts and self.agents]

    def exact_game(self, max_histories: int) -> OpenSpielTables:
        """
        Information states of the game, with which policies are evaluated exactly.

        :param max_histories: largest number of histories of a game that is still traversed
        :raises ValueError: if the game has more histories, or no information states
        """
        return OpenSpielTables(self._core.game, self._core.tensor, max_histories)

    def _check_actions(self, actions: dict[str, Any]) -> None:
        check_turns(self, self.acting_agents, self._started, actions)
        for agent, action in actions.items():
            if not self.action_spaces[agent].contains(action):
                space = self.action_spaces[agent]
                raise ValueError(f"{agent}: action {action!r} is not valid; expected an element of {space}")


def tensor_size(game: Any) -> int:
    """
    Number of elements of an agent's observation.

    :param game: ``pyspiel.Game`` with tensors
    """
    informed = game.get_type().provides_information_state_tensor
    return int(game.information_state_tensor_size() if informed else game.observation_tensor_size())


def _short(text: str) -> str:
    """A game without its empty parentheses."""
    return text.removesuffix("()")


def _outcome(outcomes: list[tuple[int, float]], number: float) -> int:
    """
    Outcome of chance.

    :param outcomes: outcomes and their probabilities
    :param number: uniform in [0, 1)
    """
    possible = [(outcome, probability) for outcome, probability in outcomes if probability > 0]
    for outcome, probability in possible:
        number -= probability
        if number < 0:
            return outcome
    return possible[-1][0]  # probabilities that sum to a little less than 1


def _replayed(game: Any, history: str) -> Any:
    """
    Replay a history; OpenSpiel itself does not check that actions are legal.

    :param game: ``pyspiel.Game``
    :param history: actions and outcomes of chance, separated by spaces
    :return: ``pyspiel.State``
    :raises ValueError: if it is no history of the game
    """
    state, players = game.new_initial_state(), range(game.num_players())
    try:
        words = iter(map(int, history.split()))
        for action in words:
            if state.is_simultaneous_node():
                joint = [action, *(next(words, -1) for _ in players[1:])]
                _require(all(one in (state.legal_actions(player) or [0]) for player, one in zip(players, joint, strict=True)))
                state.apply_actions(joint)
            else:
                _require(action in _choices(state))
                state.apply_action(action)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{history!r} is no history of the game {game}; was it taken from another environment?") from error
    return state


def _choices(state: Any) -> list[int]:
    """What can happen next where not several players move at once; nothing in a final state."""
    if state.is_chance_node():
        return [outcome for outcome, probability in state.chance_outcomes() if probability > 0]
    return [] if state.is_terminal() else list(state.legal_actions())


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("not a legal action")
