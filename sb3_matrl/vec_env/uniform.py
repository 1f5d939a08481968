"""Wrapper that makes any ParallelEnv uniform for SuperSuit: equal spaces, agents that never leave, no episode ends.

SuperSuit's vectoriser requires that all agents have the same space and stay until the end, does not distinguish
termination from truncation, loses final infos in its automatic reset and seeds all copies alike.
:class:`UniformParallelEnv` works around this. Every agent always observes one ``uint8`` row that encodes its flags, its
reward and its observation; no agent is ever reported as done; the env resets itself; and ``reset(options={COMMAND: ...})``
executes any other command, also across process boundaries.
"""

from __future__ import annotations

from typing import Any

import cloudpickle
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from sb3_matrl.vec_env.answers import answer
from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.env_copy import EnvCopy
from sb3_matrl.vec_env.row_layout import RowLayout

# Key of the reset options for a command: a tuple (method of UniformParallelEnv, *arguments), or its cloudpickle.
COMMAND = "sb3_matrl command"


class UniformParallelEnv(ParallelEnv[str, np.ndarray, np.ndarray]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    One copy of an env with uniform agents.

    :param env_copy: copy of the env that is stepped
    """

    def __init__(self, env_copy: EnvCopy) -> None:
        self.env_copy = env_copy
        self.layout = RowLayout(env_copy.description, states=True)
        self._arrays = CopyArrays(env_copy.description, 1)
        env_copy.attach(self._arrays, 0)
        self.possible_agents = list(env_copy.agents)
        self.agents = list(self.possible_agents)
        self.metadata = env_copy.description.metadata
        self.render_mode = env_copy.description.render_mode
        self._nobody_done = dict.fromkeys(self.agents, False)
        self._no_reward = dict.fromkeys(self.agents, 0.0)

    def observation_space(self, agent: str) -> spaces.Box:
        """The same for every agent."""
        return self.layout.observation_space

    def action_space(self, agent: str) -> spaces.Box:
        """The same for every agent."""
        return self.layout.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """
        Execute the command in ``options``.

        :param seed: unused; the command holds the seed of each copy
        :param options: dict with the key :data:`COMMAND`
        :return: current rows, and the result in the first agent's info
        """
        command = (options or {})[COMMAND]
        name, *arguments = cloudpickle.loads(command) if isinstance(command, bytes) else command
        content = getattr(self, name)(*arguments)
        return self._by_agent(), self._info(content)

    def step(self, actions: dict[str, np.ndarray]) -> tuple[Any, Any, Any, Any, Any]:
        """
        Step the env with the actions of the acting agents; start a new episode if the current one is over.

        :param actions: agent -> row
        :return: rows, zero rewards, no terminations, no truncations, and in the first agent's info ``"agents"`` (the env's
            infos), ``"final"`` (rows of agents that ended), ``"final_state"`` (bytes of the state in which the episode ended)
            and ``"reset"`` (infos of the automatic reset)
        """
        joint_action = {agent: self.layout.actions[agent].read(actions[agent][None])[0] for agent in self.env_copy.acting}
        infos, reset_infos = self.env_copy.step(joint_action)
        final = {agent: self.layout.encode_final(self._arrays, 0, agent) for agent in self.env_copy.ended}
        content: dict[str, Any] = {"agents": infos, "final": final, "reset": reset_infos}
        if self._arrays.dones[0]:
            content["final_state"] = self._arrays.final_states[0].tobytes()
        content = {key: value for key, value in content.items() if value}
        return self._by_agent(), self._no_reward, self._nobody_done, self._nobody_done, self._info(content)

    def close(self) -> None:
        """Close the env."""
        self.env_copy.close()

    def begin(self, seeds: list[int | None], options: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Command: start an episode.

        :param seeds: seeds of all copies
        :param options: reset options of all copies; an empty dict means ``None``
        :return: the env's infos under ``"agents"``, if there are any
        """
        copy = self.env_copy.copy
        infos = self.env_copy.begin(seeds[copy], options[copy] or None)
        return {"agents": infos} if infos else {}

    def ask(self, name: str, arguments: dict[int, tuple[Any, ...]]) -> dict[str, Any]:
        """
        Command: call a method of :class:`~sb3_matrl.vec_env.env_copy.EnvCopy`, if this copy is selected.

        :param name: name of the method
        :param arguments: copy -> arguments of the method, for the selected copies
        :return: ``"answer"``: return value of :func:`~sb3_matrl.vec_env.answers.answer`
        """
        copy = self.env_copy.copy
        return {"answer": answer(getattr(self.env_copy, name), *arguments[copy])} if copy in arguments else {}

    def _by_agent(self) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, self.layout.encode(self._arrays, 0), strict=True))

    def _info(self, content: dict[str, Any]) -> dict[str, Any]:
        return {self.possible_agents[0]: {"copy": self.env_copy.copy, **content}} if content else {}
