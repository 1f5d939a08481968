"""One copy of an env: checks what the env returns, writes it into arrays, and starts the next episode automatically."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import numpy as np

from sb3_matrl.envs.snapshot import Snapshot, check_array, check_keys
from sb3_matrl.vec_env.answers import picklable
from sb3_matrl.vec_env.backend import AgentInfos
from sb3_matrl.vec_env.conform import (
    Life,
    acting_of,
    conforming_leaves,
    listed_agents,
    nonempty_infos,
    outcome_of,
    require_visible_turns,
    start_of,
)
from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.describe import EnvDescription, describe, same_space
from sb3_matrl.vec_env.env_access import EnvAccess
from sb3_matrl.vec_env.errors import CopyFailure, DataFault
from sb3_matrl.vec_env.mask_method import MASK_METHOD, MaskMethod
from sb3_matrl.vec_env.named import named_by_text, own_names
from sb3_matrl.vec_env.row_layout import RowLayout
from sb3_matrl.vec_env.value_checks import bounds_of

T = TypeVar("T")

_SEEDS_OF_31_BITS = 2**31


class EnvCopy:
    """
    One copy of an env, which writes its transitions into arrays.

    ``acting`` lists the agents that choose the next action; ``ended`` those that ended in the last step. Call
    :meth:`attach` before anything else.

    :param factory: function that makes the env, called once
    :param copy: index of the copy, for messages
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
        self.agents = list(self.description.agents)
        self._named = named_by_text(self.env)
        self._mask_method = MaskMethod.of(self.env)
        self._life = Life(self.agents)
        self._state = self.description.written_state
        self._layout: RowLayout | None = None
        self.acting: list[str] = []
        self.ended: list[str] = []

    def attach(self, arrays: CopyArrays, row: int) -> None:
        """
        Choose the arrays to write to.

        :param arrays: arrays for envs with this description
        :param row: index of this copy in them
        """
        self._arrays, self._row = arrays, row
        self._rewards = arrays.rewards[row]
        self._state_row, self._final_state_row = arrays.states[row], arrays.final_states[row]
        self._observations = {
            agent: _Slot(agent, arrays.leaves[agent], arrays.observations[agent], row) for agent in self.agents
        }
        self._final = {agent: _Slot(agent, arrays.leaves[agent], arrays.final[agent], row) for agent in self.agents}
        self._written = self.agents  # agents whose rows of observations may differ from zero
        self._flagged = True  # whether some of the flags about ends, or the reward of an absent agent, may be set

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a copy, and after pickle, the rows to which this env writes are no longer those of the arrays."""
        vars(self).update(state)
        if "_arrays" in state:
            self.attach(self._arrays, self._row)

    def begin(self, seed: int | None, options: dict[str, Any] | None) -> AgentInfos:
        """
        Start an episode.

        :param seed: seed of the env; ``None`` continues with its random generator
        :param options: reset options of the env
        :return: the env's infos, non-empty ones only
        :raises DataFault: if the env returns invalid data (:meth:`step` too)
        :raises CopyFailure: if the env raises an error (:meth:`step` too)
        """
        self._written, self.ended = self.agents, []
        self._clear_outcome()
        return self._guarded(self._begin, seed, options)

    def step(self, joint_action: dict[str, Any]) -> tuple[AgentInfos, AgentInfos]:
        """
        Step the env, and start a new episode if the current one is over.

        :param joint_action: agent -> action, for the agents in :attr:`acting`
        :return: the env's infos, and those of the automatic reset; non-empty ones only
        """
        return self._guarded(self._step, joint_action)

    def close(self) -> None:
        """Close the env."""
        self.env.close()

    def query(self, name: str, *arguments: Any) -> Any:
        """
        Call a method of :class:`~sb3_matrl.vec_env.env_access.EnvAccess`.

        :param name: name of the method
        :param arguments: its arguments after the env
        """
        return getattr(EnvAccess, name)(self.env, *arguments)

    def snapshot(self) -> Snapshot:
        """Complete state of this copy: of the env, of its agents' lives, and the last transition as rows."""
        with self._errors_named():
            rows = self._row_layout().encode(self._arrays, self._row)
            return {"env": self.env.snapshot(), "life": self._life.snapshot(), "rows": rows}

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot.

        :param snapshot: return value of :meth:`snapshot`
        :raises ValueError: if it does not fit; the copy must then be reset
        """
        with self._errors_named():
            layout = self._row_layout()
            check_keys("snapshot", snapshot, ["env", "life", "rows"])
            check_array("snapshot: 'rows'", snapshot["rows"], layout.blank_rows())
            self._life.restore(snapshot["life"])
            self.env.restore(snapshot["env"])
            self._written, self._flagged = self.agents, True
            layout.decode(snapshot["rows"], self._arrays, self._row)
            self.acting = acting_of(self._named, self._life.live, self.agents)
            self._mark(self._arrays.acting, self.acting)
            if self._state is not None:
                self._state_row[:] = self._state.row(self.env.state())

    def _row_layout(self) -> RowLayout:
        self._layout = self._layout or RowLayout(self.description)
        return self._layout

    def _begin(self, seed: int | None, options: dict[str, Any] | None) -> AgentInfos:
        try:
            result = self._reset(seed, options)
        except (Exception, SystemExit) as error:
            raise self._failure("reset", error) from error
        require_visible_turns(self.env)
        observations, infos = start_of(result)
        self._life.begin(list(self._named.possible_agents), listed_agents(self._named))
        self._require_same_spaces()
        self._show(observations)
        self._write_state(self._state_row)
        return self._with_masks(nonempty_infos(infos))

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> Any:
        """Reset the env. Programs in C++, such as Hanabi, refuse seeds of more than 31 bits, and get their lower 31 bits."""
        try:
            return self._named.reset(seed=seed, options=options)
        except (OverflowError, RuntimeError, TypeError, ValueError):
            if seed is None or seed < _SEEDS_OF_31_BITS:
                raise
            return self._named.reset(seed=seed % _SEEDS_OF_31_BITS, options=options)

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

    def _step(self, joint_action: dict[str, Any]) -> tuple[AgentInfos, AgentInfos]:
        try:
            result = self._named.step(joint_action)
        except (Exception, SystemExit) as error:
            raise self._failure("step", error) from error
        observations, rewards, terminations, truncations, infos = outcome_of(result)
        if self._flagged:
            self._clear_outcome()
        life = self._life
        before = life.live
        self.ended = life.advance(listed_agents(self._named), terminations, truncations)
        for agent in before:
            self._rewards[life.columns[agent]] = life.reward(agent, rewards)
        if self.ended:
            self._write_ends(observations, terminations, truncations)
        agent_infos = nonempty_infos(infos)
        if life.live:
            self._show(observations)
            self._write_state(self._state_row)
            return self._with_masks(agent_infos), {}
        self._write_state(self._final_state_row)
        reset_infos = self._begin(None, None)
        self._arrays.dones[self._row] = True
        return agent_infos, reset_infos

    def _clear_outcome(self) -> None:
        """Set the rewards and the flags about ends to zero."""
        arrays, row = self._arrays, self._row
        self._rewards[:] = 0.0
        arrays.terminated[row] = arrays.truncated[row] = False
        arrays.dones[row] = False
        self._flagged = False

    def _write_ends(
        self, observations: Mapping[str, Any], terminations: Mapping[str, Any], truncations: Mapping[str, Any]
    ) -> None:
        """Write flags and final observations of the agents that ended."""
        self._flagged = True
        for agent in self.ended:
            at = self._row, self._life.columns[agent]
            self._arrays.terminated[at], self._arrays.truncated[at] = self._life.flags(agent, terminations, truncations)
        for agent in self.ended:
            if agent in observations:
                self._final[agent].write(observations[agent])
            elif truncations[agent]:
                raise ValueError(
                    f"agent {agent!r}: no final observation, though it was truncated; return its last observation, whose "
                    "value stands for the rest of the episode, or terminate the agent instead"
                )
            else:  # an env may omit the observation after a termination, because nothing is bootstrapped there
                self._final[agent].write_any()

    def _show(self, observations: Mapping[str, Any]) -> None:
        """Write the observations of the live agents, and who is alive and acts."""
        live, before = self._life.live, self._written
        if live is not before:
            self._mark(self._arrays.alive, live)
            for agent in before:
                if agent not in live:
                    self._observations[agent].clear()
            # The reward of an agent that was alive stays in its place until it is cleared.
            self._flagged = True
        self._written = live
        for agent in live:
            if agent not in observations:
                raise ValueError(f"agent {agent!r}: no observation, though it is in env.agents; expected one per live agent")
            self._observations[agent].write(observations[agent])
        acting = self.acting
        self.acting = acting_of(self._named, live, self.agents)
        if self.acting is not acting:
            self._mark(self._arrays.acting, self.acting)

    def _write_state(self, row: np.ndarray) -> None:
        """Write the current state, if states are asked for."""
        if self._state is None:
            return
        try:
            state = self.env.state()
        except (Exception, SystemExit) as error:
            raise self._failure("state", error) from error
        row[:] = self._state.row(state)

    def _mark(self, flags: np.ndarray, agents: list[str]) -> None:
        """Set this copy's flags of some agents, and of no others."""
        row = flags[self._row]
        row[:] = False
        for agent in agents:
            row[self._life.columns[agent]] = True

    def _with_masks(self, infos: AgentInfos) -> AgentInfos:
        """Add the masks that the env's method returns to the infos of the acting agents."""
        if self._mask_method is None:
            return infos
        try:
            masks = self._mask_method.masks(own_names(self._named, self.acting))
        except (Exception, SystemExit) as error:
            raise self._failure(MASK_METHOD, error) from error
        for agent, mask in masks.items():
            infos.setdefault(agent, {}).setdefault(MASK_METHOD, mask)
        return infos

    def _failure(self, method: str, error: BaseException) -> CopyFailure:
        """Mark an error that the env raised, as opposed to faults in its results."""
        return CopyFailure(self.copy, method, self._for_parent(error))

    def _guarded(self, function: Callable[..., T], *arguments: Any) -> T:
        """Turn a ValueError about the env's results into a fault of this copy, and add the copy to other errors."""
        try:
            return function(*arguments)
        except (CopyFailure, DataFault):
            raise
        except ValueError as error:
            raise DataFault(self.copy, str(error)) from None
        except Exception as error:
            self._raise_named(error)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Add the copy to errors, and make them picklable in a worker process."""
        try:
            yield
        except Exception as error:
            self._raise_named(error)

    def _raise_named(self, error: Exception) -> NoReturn:
        _name_copy(error, self.copy)
        if not self.remote:
            raise error
        raise self._for_parent(error) from None

    def _for_parent(self, error: BaseException) -> BaseException:
        """In a worker process, make the error being handled picklable and add its traceback as a note."""
        if not self.remote:
            return error
        sent = picklable(error)
        sent.add_note(f"Traceback in the worker process:\n{traceback.format_exc()}")
        return sent


class _Slot:
    """
    Place of one agent's observation in the arrays of all copies.

    :param agent: name of the agent, for messages
    :param leaves: leaves of its observation space
    :param arrays: one array (num_envs, *leaf shape) per leaf
    :param row: index of the copy
    """

    def __init__(self, agent: str, leaves: list[Any], arrays: list[np.ndarray], row: int) -> None:
        self.agent = agent
        self.leaves = leaves
        self.rows = [array[row : row + 1] for array in arrays]
        self.plain = leaves[0].key is None
        self.shape, self.dtype = leaves[0].shape, leaves[0].dtype

    def write(self, observation: Any) -> None:
        """
        Write an observation.

        :param observation: observation that the env returned
        :raises ValueError: if it does not have the space's entries, shapes or dtypes
        """
        if (
            self.plain
            and type(observation) is np.ndarray
            and observation.dtype == self.dtype
            and observation.shape == self.shape
        ):
            self.rows[0][0] = observation
            return
        for row, value in zip(self.rows, conforming_leaves(self.agent, self.leaves, observation), strict=True):
            row[0] = value

    def write_any(self) -> None:
        """Write an observation of the space: the one nearest to zeros."""
        for row, leaf in zip(self.rows, self.leaves, strict=True):
            row[0] = np.clip(np.zeros((), dtype=leaf.dtype), *bounds_of(leaf))

    def clear(self) -> None:
        """Write zeros."""
        for row in self.rows:
            row[0] = 0


def _name_copy(error: Exception, copy: int) -> None:
    """Add the copy to an error: as a prefix of a plain message, otherwise as a note."""
    if type(error) in (ValueError, TypeError) and len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"env copy {copy}, {error.args[0]}",)
    else:
        error.add_note(f"in env copy {copy}")
