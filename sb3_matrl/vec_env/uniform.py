"""Wrapper that makes any ParallelEnv uniform for SuperSuit: equal spaces, agents that never leave, no episode ends.

SuperSuit's vectoriser requires that all agents have the same space and stay until the end, does not distinguish
termination from truncation, loses final infos in its automatic reset and seeds all copies alike.
:class:`UniformParallelEnv` works around this. Every agent always observes one ``uint8`` row that encodes its flags, its
reward and its observation; no agent is ever reported as done; the env resets itself; and ``reset(options={COMMAND: ...})``
executes any other command, also across process boundaries.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cloudpickle
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from sb3_matrl.envs.snapshot import Snapshot, check_array, check_keys
from sb3_matrl.vec_env.conform import (
    Life,
    acting_of,
    conforming_leaves,
    listed_agents,
    nonempty_infos,
    outcome_of,
    start_of,
)
from sb3_matrl.vec_env.describe import EnvDescription, describe, same_space
from sb3_matrl.vec_env.errors import CopyFailure, DataFault
from sb3_matrl.vec_env.mask_method import MASK_METHOD, MaskMethod
from sb3_matrl.vec_env.named import named_by_text, own_names
from sb3_matrl.vec_env.spaces import ByteCodec

# Key of the reset options for a command: a tuple (method of UniformParallelEnv, *arguments), or its cloudpickle.
COMMAND = "sb3_matrl command"

# A row starts with one byte per flag, padded to eight bytes, and the reward as float64.
ALIVE, TERMINATED, TRUNCATED, RESET, ACTING = range(5)
REWARD = slice(8, 16)
HEADER = 16


class Layout:
    """
    Layout of the rows that encode observations and actions.

    :param description: agents and spaces of the env
    """

    def __init__(self, description: EnvDescription) -> None:
        self.agents = description.agents
        self.observations = {agent: ByteCodec(space) for agent, space in description.observation_spaces.items()}
        self.actions = {agent: ByteCodec(space) for agent, space in description.action_spaces.items()}
        self.observation_size = HEADER + max(codec.size for codec in self.observations.values())
        self.action_size = max(1, *(codec.size for codec in self.actions.values()))
        self.observation_space = _bytes_space(self.observation_size)
        self.action_space = _bytes_space(self.action_size)


def _bytes_space(size: int) -> spaces.Box:
    return spaces.Box(0, 255, (size,), np.uint8)


class UniformParallelEnv(ParallelEnv[str, np.ndarray, np.ndarray]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    One copy of an env with uniform agents.

    :param factory: function that makes the env, called once
    :param copy: index of the copy, for seeds and messages
    :param remote: whether this is a worker process; errors are then made picklable
    :param expected: description of copy 0, which decides the order of the agents; ``None`` for a single copy
    """

    def __init__(
        self, factory: Callable[[], Any], copy: int, remote: bool = False, expected: EnvDescription | None = None
    ) -> None:
        self.copy = copy
        self.remote = remote
        with self._errors_named():
            self.env = factory()
            self._own = describe(self.env)
            if expected is not None:
                expected.require_same(self._own)
        self.description = expected or self._own
        self._named = named_by_text(self.env)
        self._mask_method = MaskMethod.of(self.env)
        self.layout = Layout(self.description)
        self.possible_agents = list(self.description.agents)
        self.agents = list(self.possible_agents)
        self.metadata = self.description.metadata
        self.render_mode = self.description.render_mode
        self._life = Life(self.possible_agents)
        self._acting: list[str] = []
        self._rows = self._blank_rows()
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
        with self._errors_named():
            content = getattr(self, name)(*arguments)
        return self._by_agent(), self._info(content)

    def step(self, actions: dict[str, np.ndarray]) -> tuple[Any, Any, Any, Any, Any]:
        """
        Step the env with the actions of the acting agents; start a new episode if the current one is over.

        :param actions: agent -> row
        :return: rows, zero rewards, no terminations, no truncations, and in the first agent's info ``"agents"`` (the env's
            infos), ``"final"`` (rows of agents that ended) and ``"reset"`` (infos of the automatic reset)
        """
        with self._errors_named(), self._faults_named():
            content = self._step(actions)
        return self._by_agent(), self._no_reward, self._nobody_done, self._nobody_done, self._info(content)

    def close(self) -> None:
        """Close the env."""
        self.env.close()

    def begin(self, seeds: list[int | None], options: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Command: start an episode.

        :param seeds: seeds of all copies
        :param options: reset options of all copies; an empty dict means ``None``
        :return: the env's infos under ``"agents"``, if there are any
        """
        self._rows = self._blank_rows()
        with self._faults_named():
            infos = self._begin(seeds[self.copy], options[self.copy] or None)
        return {"agents": infos} if infos else {}

    def query(self, copies: list[int], name: str, *arguments: Any) -> dict[str, Any]:
        """
        Command: call a method of :class:`EnvAccess`, if this copy is selected.

        :param copies: selected copies
        :param name: method of :class:`EnvAccess`
        :param arguments: arguments of the method
        :return: ``"answer"``: whether the call succeeded, and the result or the error
        """
        return self._answer(getattr(EnvAccess, name), self.env, *arguments) if self.copy in copies else {}

    def save(self) -> dict[str, Any]:
        """Command: return a snapshot of this copy."""
        return self._answer(self._snapshot)

    def restore(self, snapshots: list[Snapshot]) -> dict[str, Any]:
        """
        Command: restore a snapshot, and return whether it succeeded.

        :param snapshots: snapshots of all copies
        """
        return self._answer(self._restore, snapshots[self.copy])

    def _answer(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return whether the call succeeded, and the result or the error; an error must not end a worker process."""
        try:
            return {"answer": cloudpickle.dumps((True, function(*arguments)))}
        except (Exception, SystemExit) as error:
            return {"answer": cloudpickle.dumps((False, _picklable(error)))}

    def _snapshot(self) -> Snapshot:
        with self._errors_named():
            return {"env": self.env.snapshot(), "life": self._life.snapshot(), "rows": self._rows.copy()}

    def _restore(self, snapshot: Snapshot) -> None:
        with self._errors_named():
            check_keys("snapshot", snapshot, ["env", "life", "rows"])
            check_array("snapshot: 'rows'", snapshot["rows"], self._rows)
            self._life.restore(snapshot["life"])
            self.env.restore(snapshot["env"])
            self._rows = snapshot["rows"].copy()
            self._mark_acting()

    def _begin(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
        with self._failures_of("reset"):
            result = self._named.reset(seed=seed, options=options)
        observations, infos = start_of(result)
        self._life.begin(list(self._named.possible_agents), listed_agents(self._named))
        self._require_same_spaces()
        for agent in self._life.live:
            self._write(self._rows[self._column(agent)], agent, observations)
        self._mark_acting()
        return self._with_masks(nonempty_infos(infos))

    def _require_same_spaces(self) -> None:
        """Check that no space changed with the reset; an env that returns the same objects pays next to nothing."""
        for kind, known, current in (
            ("observation", self._own.observation_spaces, self._named.observation_space),
            ("action", self._own.action_spaces, self._named.action_space),
        ):
            for agent, space in known.items():
                now = current(agent)
                if not same_space(space, now):
                    raise ValueError(
                        f"{kind} space of agent {agent!r} changed from {space} to {now}; spaces must never change"
                    )

    def _step(self, actions: dict[str, np.ndarray]) -> dict[str, Any]:
        before = self._life.live
        joint_action = {agent: self.layout.actions[agent].read(actions[agent][None])[0] for agent in self._acting}
        with self._failures_of("step"):
            result = self._named.step(joint_action)
        observations, rewards, terminations, truncations, infos = outcome_of(result)
        ended = self._life.advance(listed_agents(self._named), terminations, truncations)
        rows = self._rows = self._blank_rows()
        for agent in before:
            header = rows[self._column(agent)]
            header[TERMINATED], header[TRUNCATED] = self._life.flags(agent, terminations, truncations)
            header[REWARD] = np.array([self._life.reward(agent, rewards)]).view(np.uint8)
        content: dict[str, Any] = {}
        if ended:
            content["final"] = {agent: self._final_row(agent, observations, truncations) for agent in ended}
        agent_infos = nonempty_infos(infos)
        if self._life.live:
            for agent in self._life.live:
                self._write(rows[self._column(agent)], agent, observations)
            self._mark_acting()
            agent_infos = self._with_masks(agent_infos)
        else:
            self._restart(content)
        if agent_infos:
            content["agents"] = agent_infos
        return content

    def _with_masks(self, infos: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Add the masks that the env's method returns to the infos of the acting agents."""
        if self._mask_method is None:
            return infos
        with self._failures_of(MASK_METHOD):
            masks = self._mask_method.masks(own_names(self._named, self._acting))
        for agent, mask in masks.items():
            infos.setdefault(agent, {}).setdefault(MASK_METHOD, mask)
        return infos

    def _mark_acting(self) -> None:
        """Set the flag of the agents that choose the next action."""
        self._acting = acting_of(self._named, self._life.live, self.possible_agents)
        self._rows[:, ACTING] = 0
        for agent in self._acting:
            self._rows[self._column(agent), ACTING] = 1

    def _restart(self, content: dict[str, Any]) -> None:
        """Start the next episode without a seed; its infos are kept apart from those of the last step."""
        if reset_infos := self._begin(None, None):
            content["reset"] = reset_infos
        self._rows[:, RESET] = 1

    def _final_row(self, agent: str, observations: Mapping[str, Any], truncations: Mapping[str, Any]) -> bytes:
        row = np.zeros(self.layout.observation_size, np.uint8)
        # An env may omit the observation after a termination, because nothing is bootstrapped there.
        if agent not in observations and truncations[agent]:
            raise ValueError(
                f"agent {agent!r}: no final observation, though it was truncated; return its last observation, whose value "
                "stands for the rest of the episode, or terminate the agent instead"
            )
        if agent in observations:
            self._write(row, agent, observations)
        return row.tobytes()

    def _write(self, row: np.ndarray, agent: str, observations: Mapping[str, Any]) -> None:
        """Write a live agent's observation into its row."""
        codec = self.layout.observations[agent]
        if agent not in observations:
            raise ValueError(f"agent {agent!r}: no observation, though it is in env.agents; expected one per live agent")
        arrays = conforming_leaves(agent, codec.leaves, observations[agent])
        codec.write(arrays, row[None, HEADER:])
        row[ALIVE] = 1

    def _column(self, agent: str) -> int:
        return self._life.columns[agent]

    def _blank_rows(self) -> np.ndarray:
        return np.zeros((len(self.possible_agents), self.layout.observation_size), np.uint8)

    def _by_agent(self) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, self._rows, strict=True))

    def _info(self, content: dict[str, Any]) -> dict[str, Any]:
        return {self.possible_agents[0]: {"copy": self.copy, **content}} if content else {}

    @contextmanager
    def _failures_of(self, method: str) -> Iterator[None]:
        """Mark errors that the env raises, as opposed to faults in its results."""
        try:
            yield
        except (Exception, SystemExit) as error:
            raise CopyFailure(self.copy, method, self._for_parent(error)) from error

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        """Turn a ValueError about the env's results into a fault of this copy."""
        try:
            yield
        except ValueError as error:
            raise DataFault(self.copy, str(error)) from None

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Add the copy to errors, and make them picklable in a worker process."""
        try:
            yield
        except (CopyFailure, DataFault):
            raise
        except Exception as error:
            _name_copy(error, self.copy)
            if not self.remote:
                raise
            raise self._for_parent(error) from None

    def _for_parent(self, error: BaseException) -> BaseException:
        """In a worker process, make the error being handled picklable and add its traceback as a note."""
        if not self.remote:
            return error
        picklable = _picklable(error)
        picklable.add_note(f"Traceback in the worker process:\n{traceback.format_exc()}")
        return picklable


class EnvAccess:
    """Attribute and method access of SB3's VecEnvs, for PettingZoo envs and their wrappers."""

    @staticmethod
    def get_attr(env: Any, name: str) -> Any:
        """Read an attribute."""
        return getattr(env, name)

    @staticmethod
    def set_attr(env: Any, name: str, value: Any) -> None:
        """Set an attribute in the outermost layer that has it, otherwise in the innermost."""
        layer = env
        while not (name in vars(layer) or hasattr(type(layer), name)) and "env" in vars(layer):
            layer = layer.env
        setattr(layer, name, value)

    @staticmethod
    def env_method(env: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method."""
        return getattr(env, name)(*args, **kwargs)

    @staticmethod
    def env_is_wrapped(env: Any, wrapper_class: type[Any]) -> bool:
        """Whether a layer is an instance of that class."""
        layer = env
        while not isinstance(layer, wrapper_class):
            if "env" not in vars(layer):
                return False
            layer = layer.env
        return True


def _name_copy(error: Exception, copy: int) -> None:
    """Add the copy to an error: as a prefix of a plain message, otherwise as a note."""
    if type(error) in (ValueError, TypeError) and len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"env copy {copy}, {error.args[0]}",)
    else:
        error.add_note(f"in env copy {copy}")


def _picklable(error: BaseException) -> BaseException:
    """Return the error itself if it can be pickled, otherwise a RuntimeError with its message."""
    try:
        return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else RuntimeError(repr(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
