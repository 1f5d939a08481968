"""What :class:`~sb3_matrl.vec_env.joint.JointVecEnv` asks of whatever steps the copies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sb3_matrl.envs.snapshot import Snapshot
from sb3_matrl.vec_env.spaces import AgentSpaces
from sb3_matrl.vec_env.step import JointObservation, Transition

# agent -> the env's own info
AgentInfos = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Start:
    """
    The beginning of an episode in every copy.

    :param observations: agent -> (num_envs, *shape); zeros where not ``alive``
    :param alive: bool (num_envs, n_agents)
    :param acting: bool (num_envs, n_agents), who chooses the next action; the same array as ``alive`` where all do
    :param infos: copy -> agent -> the env's own info, nonempty ones only
    """

    observations: JointObservation
    alive: np.ndarray
    acting: np.ndarray
    infos: dict[int, AgentInfos]


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
    ``num_envs`` copies of one multi-agent env that reset themselves.

    ``layout`` says how snapshots are laid out, ``"batched"`` or ``"separate"``; ``snapshot_obstacle`` says why there are
    none, ``None`` where there are.
    """

    layout: ClassVar[str]
    snapshot_obstacle: str | None
    num_envs: int
    agents: list[str]
    observation_spaces: AgentSpaces
    action_spaces: AgentSpaces
    render_mode: str | None

    @abstractmethod
    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Start:
        """
        Start a new episode in every copy.

        :param seeds: per copy; ``None`` lets the copy's own random generator go on
        :param options: per copy; an empty dict passes ``options=None`` to the env
        :raises DataFault: when what an env returns is wrong (so does :meth:`step_wait`)
        :raises CopyFailure: when an env raises an error (so does :meth:`step_wait`)
        :raises WorkerLost: when a worker process dies (so do all other methods)
        """

    @abstractmethod
    def step_async(self, actions: dict[str, np.ndarray]) -> None:
        """
        Begin a joint step.

        :param actions: agent -> (num_envs, *action shape) of the action space's dtype; rows of agents that do not act are
            ignored
        :raises ValueError: on an action outside its space
        """

    @abstractmethod
    def step_wait(self) -> BackendStep:
        """Finish the joint step."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Everything that decides the copies' future; only between steps, and where there is no ``snapshot_obstacle``."""

    @abstractmethod
    def restore(self, snapshot: Snapshot) -> Start:
        """
        Go on from a snapshot of the same layout.

        :return: the situation in which it was taken, without infos
        :raises ValueError: when it does not fit; the copies must then be reset
        """

    @abstractmethod
    def close(self) -> None:
        """Close every copy's env; may be called again."""

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
        """Draw copy 0."""
