"""Base class of the backends whose copies are separate envs, as opposed to one batched world."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sb3_matrl.envs.snapshot import Snapshot
from sb3_matrl.vec_env.backend import AgentInfos, Backend, Start, separate_copies
from sb3_matrl.vec_env.describe import EnvDescription
from sb3_matrl.vec_env.value_checks import ActionRangeCheck

EnvFactory = Callable[[], Any]


class SeparateBackend(Backend):
    """
    Copies that are separate envs, each in an :class:`~sb3_matrl.vec_env.env_copy.EnvCopy`.

    :param description: agents and spaces of the env
    :param num_envs: number of copies
    """

    layout = "separate"

    def __init__(self, description: EnvDescription, num_envs: int) -> None:
        self.num_envs = num_envs
        self.agents = description.agents
        self.renamed = description.renamed
        self.one_mask = description.one_mask
        self.observation_spaces = description.observation_spaces
        self.action_spaces = description.action_spaces
        self.render_mode = description.render_mode
        self.state_space = None if description.state is None else description.state.space
        self.with_states = description.with_states
        self.snapshot_obstacle = description.snapshot_obstacle
        self._check_range = ActionRangeCheck(self.action_spaces)

    @abstractmethod
    def _ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """
        Call a method of copies.

        :param name: method of :class:`~sb3_matrl.vec_env.env_copy.EnvCopy`
        :param arguments: copy -> arguments of the method
        :return: copy -> result
        :raises Exception: if a call fails: its error
        """

    @abstractmethod
    def _start(self, infos: dict[int, AgentInfos]) -> Start:
        """
        Current state of all copies.

        :param infos: copy -> agent -> the env's info
        """

    def snapshot(self) -> Snapshot:
        snapshots = self._ask("snapshot", {copy: () for copy in range(self.num_envs)})
        return {"copies": [snapshots[copy] for copy in range(self.num_envs)]}

    def restore(self, snapshot: Snapshot) -> Start:
        copies = separate_copies(snapshot, self.num_envs)
        self._ask("restore", {copy: (saved,) for copy, saved in enumerate(copies)})
        return self._start({})

    def get_attr(self, name: str, copies: Sequence[int]) -> list[Any]:
        return self._query(copies, "get_attr", name)

    def set_attr(self, name: str, value: Any, copies: Sequence[int]) -> None:
        self._query(copies, "set_attr", name, value)

    def env_method(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], copies: Sequence[int]) -> list[Any]:
        return self._query(copies, "env_method", name, args, kwargs)

    def env_is_wrapped(self, wrapper_class: type[Any], copies: Sequence[int]) -> list[bool]:
        return self._query(copies, "env_is_wrapped", wrapper_class)

    def _query(self, copies: Sequence[int], *arguments: Any) -> list[Any]:
        """Call a method of :class:`~sb3_matrl.vec_env.env_access.EnvAccess` for each of the copies."""
        results = self._ask("query", dict.fromkeys(copies, arguments))
        return [results[copy] for copy in copies]

    def render(self, mode: str | None) -> Any:
        if mode is None or mode != self.render_mode:
            warnings.warn(
                f"nothing is drawn in mode {mode!r}: the env was made with render_mode={self.render_mode!r}; "
                "choose the mode when the env is made",
                stacklevel=3,
            )
            return None
        return self.env_method("render", (), {}, [0])[0]
