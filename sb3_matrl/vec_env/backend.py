"""Interface between :class:`~sb3_matrl.vec_env.joint.JointVecEnv` and the backends that step the copies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from sb3_matrl.envs.snapshot import Snapshot, check_keys
from sb3_matrl.vec_env.spaces import AgentSpaces
from sb3_matrl.vec_env.step import JointObservation, Transition

# agent -> the env's info
AgentInfos = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Start:
    """
    State of all copies at the start of their episodes.

    :param observations: agent -> (num_envs, *shape); zeros where not ``alive``
    :param alive: bool (num_envs, n_agents), agents that are present
    :param acting: bool (num_envs, n_agents), agents that choose the next action
    :param infos: copy -> agent -> the env's info, non-empty ones only
    :param states: float32 (num_envs, state size), if the backend gives states
    """

    observations: JointObservation
    alive: np.ndarray
    acting: np.ndarray
    infos: dict[int, AgentInfos]
    states: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class BackendStep(Transition):
    """
    Transition of a :class:`Backend`; rewards are float64.

    :param infos: copy -> agent -> the env's info of this step, non-empty ones only
    :param reset_infos: copy -> agent -> the env's info of the reset that followed, for copies whose episode is over
    """

    infos: dict[int, AgentInfos]
    reset_infos: dict[int, AgentInfos]


class Backend(ABC):
    """
    ``num_envs`` copies of one multi-agent env with automatic reset.

    ``layout`` is the layout of snapshots, ``"batched"`` or ``"separate"``; ``snapshot_obstacle`` is the reason why the
    copies cannot save their state, or ``None`` if they can. ``renamed`` tells whether the envs name agents by something
    else than strings; ``agents`` and all dicts use their text. ``one_mask`` tells whether they have sb3-contrib's method
    ``action_masks()``, which does not name an agent. ``state_space`` is the space of a copy's flattened global state, ``None``
    if there is none; ``with_states`` tells whether every :class:`Start` and :class:`BackendStep` has states.
    """

    layout: ClassVar[str]
    snapshot_obstacle: str | None
    num_envs: int
    agents: list[str]
    observation_spaces: AgentSpaces
    action_spaces: AgentSpaces
    render_mode: str | None
    renamed: bool = False
    one_mask: bool = False
    state_space: spaces.Box | None = None
    with_states: bool = False

    @property
    def readable_layouts(self) -> tuple[str, ...]:
        """Layouts of the snapshots that :meth:`restore` accepts."""
        return (self.layout,)

    @abstractmethod
    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Start:
        """
        Start a new episode in every copy.

        :param seeds: one seed per copy; ``None`` continues with the copy's random generator
        :param options: one dict per copy; an empty dict passes ``options=None`` to the env
        :raises DataFault: if an env returns invalid data (:meth:`step_wait` too)
        :raises CopyFailure: if an env raises an error (:meth:`step_wait` too)
        :raises WorkerLost: if a worker process dies (all other methods too)
        """

    @abstractmethod
    def step_async(self, actions: dict[str, np.ndarray]) -> None:
        """
        Start a joint step.

        :param actions: agent -> (num_envs, *action shape), with the action space's dtype; rows of agents that do not act
            are ignored
        :raises ValueError: if an action is outside its space
        """

    @abstractmethod
    def step_wait(self) -> BackendStep:
        """Finish the joint step."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Complete state of the copies; only valid between steps, and if ``snapshot_obstacle`` is ``None``."""

    @abstractmethod
    def restore(self, snapshot: Snapshot) -> Start:
        """
        Restore a snapshot with one of the :attr:`readable_layouts`.

        :param snapshot: return value of :meth:`snapshot`
        :return: state at the time of the snapshot, without infos
        :raises ValueError: if the snapshot does not fit; the copies must then be reset
        """

    @abstractmethod
    def close(self) -> None:
        """Close every copy's env; further calls do nothing."""

    @abstractmethod
    def get_attr(self, name: str, copies: Sequence[int]) -> list[Any]:
        """Attribute ``name`` of each of the copies' envs."""

    @abstractmethod
    def set_attr(self, name: str, value: Any, copies: Sequence[int]) -> None:
        """Set attribute ``name`` of each of the copies' envs."""

    @abstractmethod
    def env_method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], copies: Sequence[int]) -> list[Any]:
        """Call method ``name`` of each of the copies' envs."""

    @abstractmethod
    def env_is_wrapped(self, wrapper_class: type[Any], copies: Sequence[int]) -> list[bool]:
        """Whether each of the copies' envs has a wrapper of that class."""

    @abstractmethod
    def render(self, mode: str | None) -> Any:
        """Render copy 0."""


def separate_copies(snapshot: Snapshot, num_envs: int) -> list[Snapshot]:
    """
    Snapshots of the single copies in a snapshot with the layout ``"separate"``.

    :param snapshot: return value of :meth:`Backend.snapshot`
    :param num_envs: number of copies that it must have
    :raises ValueError: if it does not hold one snapshot per copy
    """
    check_keys("snapshot of the env copies", snapshot, ["copies"])
    copies = snapshot["copies"]
    if not isinstance(copies, list) or len(copies) != num_envs:
        raise ValueError(f"snapshot of the env copies: 'copies' must be a list of {num_envs}, one per copy")
    return copies
