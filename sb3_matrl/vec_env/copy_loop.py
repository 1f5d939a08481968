"""Loop over copies of an env that share arrays; in this process, or over one share of the copies in each worker process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sb3_matrl.vec_env.answers import answer
from sb3_matrl.vec_env.backend import AgentInfos
from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.env_copy import EnvCopy

# copy -> agent -> info, of the step and of the automatic reset; non-empty ones only
StepInfos = tuple[dict[int, AgentInfos], dict[int, AgentInfos]]


class CopyLoop:
    """
    Steps copies one after the other.

    :param copies: consecutive copies of the env
    :param arrays: arrays of all copies, also of those that others step; copies write into the rows given by their index
    """

    def __init__(self, copies: Sequence[EnvCopy], arrays: CopyArrays) -> None:
        self.copies = copies
        self._first = copies[0].copy
        self._rows = slice(self._first, self._first + len(copies))
        self._arrays = arrays
        for copy in copies:
            copy.attach(arrays, copy.copy)

    def begin(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> dict[int, AgentInfos]:
        """
        Start an episode in every copy of this loop.

        :param seeds: seeds of all copies
        :param options: reset options of all copies; an empty dict means ``None``
        :return: copy -> agent -> the env's info, non-empty ones only
        """
        infos = {copy.copy: copy.begin(seeds[copy.copy], options[copy.copy] or None) for copy in self.copies}
        return {copy: agent_infos for copy, agent_infos in infos.items() if agent_infos}

    def step(self) -> StepInfos:
        """Step every copy of this loop with the actions in the arrays."""
        # Envs may change and keep their actions.
        actions = {agent: array[self._rows].copy() for agent, array in self._arrays.actions.items()}
        infos: dict[int, AgentInfos] = {}
        reset_infos: dict[int, AgentInfos] = {}
        for row, copy in enumerate(self.copies):
            step_infos, begin_infos = copy.step({agent: actions[agent][row] for agent in copy.acting})
            if step_infos:
                infos[copy.copy] = step_infos
            if begin_infos:
                reset_infos[copy.copy] = begin_infos
        return infos, reset_infos

    def call(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """
        Call a method of copies.

        :param name: method of :class:`~sb3_matrl.vec_env.env_copy.EnvCopy`
        :param arguments: copy -> arguments of the method
        :return: copy -> result
        """
        return {copy: getattr(self.copies[copy - self._first], name)(*given) for copy, given in arguments.items()}

    def ask(self, name: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, bytes]:
        """Call a method of copies, as :meth:`call`, and answer with results or errors in bytes."""
        methods = {copy: getattr(self.copies[copy - self._first], name) for copy in arguments}
        return {copy: answer(methods[copy], *given) for copy, given in arguments.items()}

    def close(self) -> None:
        """
        Close the envs.

        :raises Exception: first error of an env, after all were closed
        """
        errors = [error for copy in self.copies if (error := _error_of_closing(copy)) is not None]
        if errors:
            raise errors[0]


def _error_of_closing(copy: EnvCopy) -> Exception | None:
    try:
        copy.close()
    except Exception as error:
        return error
    return None
