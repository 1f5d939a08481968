"""Batched environments: rules written once, over arrays with a leading batch axis.

A :class:`BatchedCore` steps ``num_envs`` independent copies of an environment at once. :class:`CoreParallelEnv` is the
PettingZoo view of a core with one copy; the vectorised environment steps a core with many copies directly. Both
give identical trajectories.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from sb3_matrl.envs.option_checks import check_choice, check_turns
from sb3_matrl.envs.rendering import Window
from sb3_matrl.envs.snapshot import Snapshot, check_keys, check_range, check_saved, restored, saved

# copy -> agent -> info
CopyInfos = dict[int, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class CoreStep:
    """
    Result of one joint step in every copy.

    :param rewards: float64 (num_envs, n_agents); 0 for agents that were not alive before the step
    :param terminated: bool (num_envs, n_agents); the agent's episode ended by the rules in this step
    :param truncated: bool (num_envs, n_agents); the agent's episode was cut off by the time limit in this step
    :param infos: copy -> agent -> info of this step, non-empty ones only
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: CopyInfos = field(default_factory=dict)


class BatchedCore(ABC):
    """
    ``num_envs`` copies of an environment, stepped together.

    ``alive`` (num_envs, n_agents) marks the agents that act in the next step. A copy whose agents have all ended must be
    :meth:`reset` before its next step; there is no automatic reset. A core returns new arrays, which the caller may keep.

    ``changing`` names all attributes that change during an episode: they are the content of a snapshot. Each is an array,
    a ``numpy.random.Generator``, a bool, an int, a float or a str, or a list of these with a fixed length (for example one
    generator per copy). Options and lookup tables are not included. A core with an empty ``changing`` cannot save its
    state. ``reads_separate`` tells whether :meth:`restore_separate` is supported.
    """

    changing: ClassVar[tuple[str, ...]] = ()
    reads_separate: ClassVar[bool] = False
    metadata: dict[str, Any]
    num_envs: int
    possible_agents: list[str]
    observation_spaces: dict[str, spaces.Space[Any]]
    action_spaces: dict[str, spaces.Space[Any]]
    state_space: spaces.Space[Any]
    alive: np.ndarray

    @property
    def acting(self) -> np.ndarray:
        """Bool (num_envs, n_agents), agents that choose the next action: all that are alive, unless agents take turns."""
        return self.alive

    @abstractmethod
    def seed(self, seeds: Sequence[int | None]) -> None:
        """Seed copy ``k`` with ``seeds[k]``; a deterministic environment ignores it."""

    @abstractmethod
    def reset(self, copies: np.ndarray | None = None) -> None:
        """
        Start a new episode.

        :param copies: bool (num_envs,), copies to reset; ``None`` for all
        """

    @abstractmethod
    def step(self, actions: np.ndarray) -> CoreStep:
        """
        Play one joint step in every copy.

        :param actions: shape (num_envs, n_agents, ...); rows of agents that are not alive are ignored
        :raises ValueError: if the action of a live agent is outside its space; names the agent and the value
        """

    @abstractmethod
    def observations(self) -> dict[str, np.ndarray]:
        """Current observation of every agent, alive or not: shape (num_envs, *observation shape)."""

    @abstractmethod
    def state(self) -> np.ndarray:
        """Global state, shape (num_envs, state size)."""

    def start_infos(self, copies: np.ndarray) -> CopyInfos:
        """
        Infos of the reset of copies that have just been reset.

        :param copies: bool (num_envs,)
        :return: copy -> agent -> info, non-empty ones only
        """
        return {}

    @property
    def best_team_return(self) -> float | None:
        """Largest possible mean of the team return (sum over agents and steps) with these options; ``None`` if unknown."""
        return None

    @property
    def can_snapshot(self) -> bool:
        """Whether :meth:`snapshot` is supported."""
        return bool(self.changing)

    def highest_values(self) -> dict[str, int]:
        """
        Highest valid values of integer arrays in :attr:`changing`, whose lowest is 0; :meth:`restore` refuses other values.

        A core names the arrays that it uses as indices: a damaged file would otherwise cause an error in a later step.
        """
        return {}

    def snapshot(self) -> Snapshot:
        """
        Save the complete state of all copies.

        :return: dict that shares no memory with this object and holds only arrays, numbers, strings, and lists and dicts
            of these
        :raises TypeError: if this core cannot save its state
        """
        if not self.can_snapshot:
            raise TypeError(f"{type(self).__name__} cannot save its state: it names no attributes in 'changing'")
        return {name: saved(f"{type(self).__name__}.{name}", getattr(self, name)) for name in self.changing}

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot of a core with the same options and number of copies.

        :param snapshot: return value of :meth:`snapshot`; it is copied
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        what = f"snapshot of {type(self).__name__}"
        check_keys(what, snapshot, self.changing)
        for name in self.changing:
            check_saved(f"{what}: {name!r}", getattr(self, name), snapshot[name])
        for name, high in self.highest_values().items():
            check_range(f"{what}: {name!r}", snapshot[name], high)
        for name in self.changing:
            setattr(self, name, restored(getattr(self, name), snapshot[name]))

    def restore_separate(self, snapshots: Sequence[Snapshot]) -> None:
        """
        Restore snapshots of environments that were stepped one by one, if ``reads_separate``.

        :param snapshots: return values of the environments' own ``snapshot()``, one per copy; they are copied
        :raises ValueError: if a snapshot does not fit; nothing is changed then
        """
        raise NotImplementedError(f"{type(self).__name__} cannot read snapshots of separate environments")

    def close(self) -> None:  # noqa: B027 - most cores have nothing to free
        """Free resources such as a renderer; further calls do nothing."""

    def render(self, mode: str) -> np.ndarray | str:
        """
        Render copy 0.

        :param mode: ``"rgb_array"`` or ``"ansi"``
        :return: uint8 (height, width, 3) for ``"rgb_array"``, text for ``"ansi"``
        """
        raise NotImplementedError(f"{type(self).__name__} cannot draw itself as {mode!r}")

    def replicate(self, num_envs: int) -> BatchedCore:
        """
        Create a new core with the same options.

        :param num_envs: number of copies of the new core
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be replicated")


def discrete_actions(
    actions: np.ndarray, counts: np.ndarray, alive: np.ndarray, agents: Sequence[str], idle: int = 0
) -> np.ndarray:
    """
    Check the actions of agents whose action spaces are ``Discrete(count)``.

    :param actions: shape (num_envs, n_agents); entries of agents that are not alive are ignored
    :param counts: number of actions of each agent, int (n_agents,)
    :param alive: bool (num_envs, n_agents)
    :param agents: names of the agents, for the message
    :param idle: action of agents that are not alive
    :return: actions, int64; the array itself if nothing is to be changed
    :raises ValueError: if the shape is wrong, or the action of a live agent is no integer from 0 to count - 1
    """
    actions = np.asarray(actions)
    if actions.shape != alive.shape:
        raise ValueError(f"actions have shape {actions.shape}, expected (num_envs, n_agents) = {alive.shape}")
    are_integers = actions.dtype.kind in "iu"
    if not are_integers or np.count_nonzero(alive) < alive.size:
        chosen = np.where(alive, actions if are_integers else -1, idle).astype(np.int64, copy=False)
    else:
        chosen = actions.astype(np.int64, copy=False)
    wrong = chosen.view(np.uint64) >= counts.view(np.uint64)  # as unsigned numbers, negative ones are large
    if np.count_nonzero(wrong):
        copy, agent = np.argwhere(wrong)[0]
        value, last = actions[copy, agent], counts[agent] - 1
        raise ValueError(f"{agents[agent]}: action {value} is not valid; expected an integer from 0 to {last}")
    return chosen


class BatchableEnv(ABC):
    """Base class of environments whose rules also exist as a core, which a vectorised environment steps instead of copies."""

    @property
    def core_obstacle(self) -> str | None:
        """Reason why this environment, with its options, has no core; ``None`` if it has one."""
        return None

    @abstractmethod
    def make_core(self, num_envs: int) -> BatchedCore:
        """
        Create a new core with this environment's options.

        :param num_envs: number of copies
        """


class CoreParallelEnv(ParallelEnv[str, np.ndarray, Any], BatchableEnv):  # type: ignore[misc]  # PettingZoo ships no types
    """
    PettingZoo view of a core with one copy.

    :meth:`make_core` creates a core with the same options and many copies, which a vectorised environment steps directly.
    This also works for pickled and deep copies of this environment.

    :param core: core with ``num_envs`` 1
    :param render_mode: one of ``core.metadata["render_modes"]``, or ``None``
    :raises ValueError: if the render mode is unknown or the core has several copies
    """

    def __init__(self, core: BatchedCore, render_mode: str | None = None) -> None:
        if core.num_envs != 1:
            raise ValueError(f"CoreParallelEnv needs a core with one copy, got one with num_envs={core.num_envs}")
        if render_mode is not None:
            check_choice("render_mode", render_mode, core.metadata["render_modes"])
        self._core = core
        self._window: Window | None = None
        self._started = False
        self.render_mode = render_mode
        self.metadata = core.metadata
        self.possible_agents = list(core.possible_agents)
        self.agents: list[str] = []
        self.observation_spaces = core.observation_spaces
        self.action_spaces = core.action_spaces
        self.state_space = core.state_space

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Observation space of ``agent``, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Action space of ``agent``, the same object at every call."""
        return self.action_spaces[agent]

    def make_core(self, num_envs: int) -> BatchedCore:
        """
        Create a new core with this environment's options.

        :param num_envs: number of copies
        """
        return self._core.replicate(num_envs)

    def state(self) -> np.ndarray:
        """Global state, shape (state size,)."""
        return np.asarray(self._core.state()[0])

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """
        Start a new episode.

        :param seed: seed of the environment; ``None`` continues with the current generator
        :param options: ignored, part of PettingZoo's signature
        :return: observations and infos of all agents
        """
        if seed is not None:
            self._core.seed([seed])
        self._core.reset()
        self._started = True
        self.agents = list(self.possible_agents)
        infos = self._core.start_infos(np.ones(1, dtype=bool)).get(0, {})
        return self._observations(self.agents), {agent: infos.get(agent, {}) for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """
        Play one joint step. Agents that end in it are in the returned dicts, but no longer in ``agents``.

        :param actions: agent -> action, for every agent in ``agents``
        :return: observations, rewards, terminations, truncations and infos of the agents that acted
        :raises RuntimeError: before the first reset and after the end of the episode
        :raises ValueError: if an agent's action is missing or invalid, or another agent has one
        """
        self._check_actions(actions)
        acted = self.agents
        outcome = self._core.step(self._action_row(actions))
        rewards = self._by_agent(outcome.rewards, acted)
        terminated = self._by_agent(outcome.terminated, acted)
        truncated = self._by_agent(outcome.truncated, acted)
        self.agents = [agent for agent in acted if not (terminated[agent] or truncated[agent])]
        infos = outcome.infos.get(0, {})
        return self._observations(acted), rewards, terminated, truncated, {agent: infos.get(agent, {}) for agent in acted}

    @property
    def best_team_return(self) -> float | None:
        """Largest possible mean of the team return with this environment's options; ``None`` if unknown."""
        return self._core.best_team_return

    @property
    def can_snapshot(self) -> bool:
        """Whether :meth:`snapshot` is supported."""
        return self._core.can_snapshot

    def snapshot(self) -> Snapshot:
        """
        Save the complete state of the environment.

        :return: ``"core"``: :meth:`BatchedCore.snapshot`, ``"agents"``: live agents, ``"started"``: whether an episode
            has ever begun
        :raises TypeError: if the core cannot save its state
        """
        return {"core": self._core.snapshot(), "agents": list(self.agents), "started": self._started}

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot of an environment with the same options.

        :param snapshot: return value of :meth:`snapshot`; it is copied
        :raises ValueError: if the snapshot does not fit; nothing is changed then
        """
        what = f"snapshot of {self}"
        check_keys(what, snapshot, ["core", "agents", "started"])
        agents, started = snapshot["agents"], snapshot["started"]
        if not isinstance(agents, list) or agents != [agent for agent in self.possible_agents if agent in agents]:
            raise ValueError(f"{what}: 'agents' must list some of {self.possible_agents} in that order, got {agents!r}")
        check_saved(f"{what}: 'started'", self._started, started)
        self._core.restore(snapshot["core"])
        self.agents, self._started = list(agents), started

    def render(self) -> np.ndarray | str | None:
        """
        Render the current state.

        :return: uint8 (height, width, 3) in mode ``"rgb_array"``, text in mode ``"ansi"``, otherwise ``None``
        :raises ImportError: if the mode needs pygame and it is not installed
        """
        if self.render_mode is None:
            modes = ", ".join(self.metadata["render_modes"])
            gymnasium.logger.warn(f"{self} was made without a render_mode, so nothing is drawn; choose from {modes}")
            return None
        if self.render_mode != "human":
            return self._core.render(self.render_mode)
        self._window = self._window or Window(str(self), self.metadata["render_fps"])
        self._window.show(np.asarray(self._core.render("rgb_array")))
        return None

    def close(self) -> None:
        """Close the window, if there is one; further calls do nothing."""
        self._core.close()
        if self._window is not None:
            self._window.close()
            self._window = None

    def __getstate__(self) -> dict[str, Any]:
        # A window belongs to one process: copies open their own window.
        return {**self.__dict__, "_window": None}

    def _observations(self, agents: Sequence[str]) -> dict[str, np.ndarray]:
        observations = self._core.observations()
        return {agent: observations[agent][0] for agent in agents}

    def _by_agent(self, values: np.ndarray, agents: Sequence[str]) -> dict[str, Any]:
        everyone = dict(zip(self.possible_agents, values[0].tolist(), strict=True))
        return {agent: everyone[agent] for agent in agents}

    def _action_row(self, actions: dict[str, Any]) -> np.ndarray:
        idle = {agent: np.zeros(space.shape or (), space.dtype) for agent, space in self.action_spaces.items()}
        return np.stack([np.asarray(actions.get(agent, idle[agent])) for agent in self.possible_agents])[None]

    def _check_actions(self, actions: dict[str, Any]) -> None:
        check_turns(self, self.agents, self._started, actions)
        for agent, action in actions.items():
            space = self.action_spaces[agent]
            if not space.contains(action):
                raise ValueError(f"{agent}: action {action!r} is not valid; expected an element of {space}")
