"""
The joint replay buffer: transitions of all agents, one row per step and copy of the environment.

Observations are stored once: the next observation of a row is read from the row that follows. Where the episode of an agent
or of a copy ended, the final observations are stored apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import get_device

from sb3_matrl.common.joint_observations import JointObservations
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.observation_blocks import ObservationBlocks, part_of
from sb3_matrl.off_policy.stored_moments import FinalMoments, ObservationRows, StoredMoments
from sb3_matrl.off_policy.transitions import JointTransition, Moment
from sb3_matrl.utils.devices import to_device
from sb3_matrl.utils.image_planes import Stores
from sb3_matrl.utils.memory import memory_size
from sb3_matrl.vec_env.masks import options_of

# Flags of a row and agent.
_ALIVE, _NEXT_ALIVE, _TERMINATED, _TRUNCATED = range(4)
# The memory that images take is estimated when one row in so many is filled.
_CHECKED_SHARE = 100


class JointReplayBuffer:
    """
    Ring buffer of joint transitions.

    :param buffer_size: number of transitions over all copies; ``buffer_size // n_envs`` rows
    :param observation_spaces: agent -> space, in the model's order
    :param action_spaces: agent -> space, Discrete or Box
    :param device: device of the batches
    :param n_envs: number of copies of the environment
    :param state_size: number of entries of a state; 0 for none
    :param handle_timeout_termination: ``False`` takes a time limit for an end
    :param joint_observations: encoder of all observations as the states of batches; ``None`` for the env's states, or none
    :raises ValueError: if the memory of this machine cannot hold it, with at least one new plane of an image per row; nothing
        has been allocated then
    """

    def __init__(
        self,
        buffer_size: int,
        observation_spaces: Mapping[str, spaces.Space[Any]],
        action_spaces: Mapping[str, spaces.Space[Any]],
        device: th.device | str = "auto",
        n_envs: int = 1,
        state_size: int = 0,
        handle_timeout_termination: bool = True,
        joint_observations: JointObservations | None = None,
    ) -> None:
        self.joint_observations = joint_observations
        self.agents = list(observation_spaces)
        self.observation_spaces, self.action_spaces = dict(observation_spaces), dict(action_spaces)
        self.device = get_device(device)
        self.n_envs, self.state_size = n_envs, state_size
        self.handle_timeout_termination = handle_timeout_termination
        self.buffer_size = max(buffer_size // n_envs, 1)
        check_replay_memory(self.buffer_size * n_envs, observation_spaces, action_spaces, state_size)
        self._images = _image_places(observation_spaces)
        self.added = 0
        rows = (self.buffer_size, n_envs)
        # Moments: one row more than transitions, for the moment after the last one.
        self.planes: Stores = {}
        self.moments = StoredMoments(observation_spaces, state_size, (self.buffer_size + 1, n_envs), self.planes)
        self.actions = {
            agent: np.zeros((*rows, *_action_shape(space)), _action_dtype(space)) for agent, space in action_spaces.items()
        }
        self.rewards = np.zeros((*rows, len(self.agents)), np.float32)
        self.flags = np.zeros((*rows, 4, len(self.agents)), bool)
        self.dones = np.zeros(rows, bool)
        # Place of a row's final moment in the pool; -1 if the moment after it is the next row.
        self.final = np.full(rows, -1, np.int32)
        self.pool = FinalMoments(observation_spaces, state_size, self.planes)
        self._last: Moment | None = None

    @property
    def pos(self) -> int:
        """Row that is written next."""
        return self.added % self.buffer_size

    @property
    def full(self) -> bool:
        """Whether all rows hold transitions."""
        return self.added >= self.buffer_size

    def size(self) -> int:
        """:return: number of rows that hold transitions"""
        return min(self.added, self.buffer_size)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = [*self.actions.values(), self.rewards, self.flags, self.dones, self.final]
        return sum(array.nbytes for array in arrays) + self.moments.nbytes + self.pool.moments.nbytes + self._plane_bytes

    @property
    def _plane_bytes(self) -> int:
        return sum(store.nbytes for store in self.planes.values())

    # ------------------------------------------------------------------ writing

    def add(self, transition: JointTransition) -> None:
        """
        Store a joint step of all copies.

        :param transition: transition; its first moment is usually the last one of the transition before it
        """
        row, slot = self.pos, self.added % (self.buffer_size + 1)
        if self._last is not transition.before and not (self.added and self.moments.hold(slot, transition.before)):
            self._begin(slot, transition.before)
        self.pool.release(self.final[row])
        self.final[row] = -1
        for agent, stored in self.actions.items():
            stored[row] = transition.actions[agent]
        alive, next_alive = transition.before.alive, transition.next_alive
        self.rewards[row] = np.where(alive, transition.rewards, 0.0)
        for flag, values in (
            (_ALIVE, alive),
            (_NEXT_ALIVE, next_alive),
            (_TERMINATED, transition.terminated & alive),
            (_TRUNCATED, transition.truncated & alive),
        ):
            self.flags[row, :, flag] = values
        self.dones[row] = transition.dones
        self.moments.write((slot + 1) % (self.buffer_size + 1), transition.after)
        self._add_final(row, transition)
        self._last = transition.after
        self.added += 1
        if self.planes and self.added == max(self.buffer_size // _CHECKED_SHARE, 1):
            self._check_planes()

    def _check_planes(self) -> None:
        """
        Check that the memory of this machine can hold the images of the whole buffer, if as many planes differ as so far.

        :raises ValueError: if it cannot
        """
        needed, present = self._plane_bytes * self.buffer_size // self.added, memory_size()
        if present is not None and needed > present:
            raise ValueError(
                f"judging by the first {self.added * self.n_envs:,} joint transitions, the images of a replay buffer of "
                f"{self.buffer_size * self.n_envs:,} take {needed / 2**30:,.1f} GiB, and this machine has "
                f"{present / 2**30:,.1f} GiB of memory: choose a smaller buffer_size"
            )

    def _begin(self, slot: int, moment: Moment) -> None:
        """Continue from another moment than the one after the last transition, whose own next moment is stored apart."""
        if self.added:
            row = (self.added - 1) % self.buffer_size
            copies = np.flatnonzero(self.final[row] < 0)
            self.final[row, copies] = self.pool.add(self.moments, slot, copies)
        self.moments.write(slot, moment)

    def _add_final(self, row: int, transition: JointTransition) -> None:
        if transition.final is None:
            return
        ended = transition.terminated | transition.truncated
        copies = np.flatnonzero(ended.any(axis=1) | transition.dones)
        slot = self.added % (self.buffer_size + 1)
        places = self.pool.add(self.moments, (slot + 1) % (self.buffer_size + 1), copies)
        self.final[row, copies] = places
        self.pool.overwrite(places, copies, transition)

    # ------------------------------------------------------------------ files

    def final_places(self) -> np.ndarray:
        """:return: int (k,), places in the pool of final moments that rows refer to, row by row"""
        used: np.ndarray = self.final[self.final >= 0]
        return used

    def stored_arrays(self) -> list[Any]:
        """:return: arrays that hold the transitions, with the final moments in the order of the rows that refer to them"""
        places = self.final_places()
        final = self.final[: self.size()].copy()
        final[final >= 0] = np.arange(len(places))
        pool = [part_of(array, places) for array in self.pool.moments.arrays(self.moments.masks)]
        return [*self._arrays_of_rows(), final, *pool]

    def _arrays_of_rows(self) -> list[Any]:
        rows, slots = self.size(), min(self.added, self.buffer_size) + 1
        moments = [part_of(array, slice(slots)) for array in self.moments.arrays(self.moments.masks)]
        own = [*self.actions.values(), self.rewards, self.flags, self.dones]
        return [*moments, *(array[:rows] for array in own)]

    def prepare(self, added: int, masks: Mapping[str, int], final_rows: int) -> list[Any]:
        """
        Prepare an empty buffer for the content of a file.

        :param added: steps that were added since the buffer was made
        :param masks: agent -> number of actions, for agents that have masks
        :param final_rows: number of final moments
        :return: arrays like those of :meth:`stored_arrays`, into which the content is written
        """
        self.added, self._last = added, None
        for agent, size in masks.items():
            self.moments.require_mask(agent, size)
        self.pool.reserve(final_rows, masks)
        pool = [part_of(array, slice(final_rows)) for array in self.pool.moments.arrays(masks)]
        return [*self._arrays_of_rows(), self.final[: self.size()], *pool]

    # ------------------------------------------------------------------ reading

    def sample(self, batch_size: int) -> JointBatch:
        """
        Draw transitions uniformly, from NumPy's global generator as SB3's ``ReplayBuffer``.

        :param batch_size: number of transitions
        """
        rows = np.random.randint(0, self.size(), size=batch_size)
        return self.batch(rows, np.random.randint(0, high=self.n_envs, size=(len(rows),)))

    def batch(self, rows: np.ndarray, copies: np.ndarray) -> JointBatch:
        """
        Read transitions.

        :param rows: int (B,), rows
        :param copies: int (B,), copies of the environment
        """
        # Number of the transition since the buffer was made; moments are in a longer ring than transitions.
        numbers = rows if not self.full else self.added - self.buffer_size + (rows - self.pos) % self.buffer_size
        slots = numbers % (self.buffer_size + 1)
        final = self.final[rows, copies]
        ended = np.flatnonzero(final >= 0)
        now = self.moments.read(slots, copies)
        after = self.moments.read((slots + 1) % (self.buffer_size + 1), copies)
        if len(ended):
            after.replace(ended, self.pool.moments.read(final[ended]))
        stored_flags = self.flags[rows, copies]
        flags = self._tensor(stored_flags)
        batch = JointBatch(
            observations=self._observations(now),
            next_observations=self._observations(after),
            actions={agent: self._actions(agent, stored[rows, copies]) for agent, stored in self.actions.items()},
            rewards=self._tensor(self.rewards[rows, copies]),
            alive=flags[:, _ALIVE],
            acted=self._acted(stored_flags[:, _ALIVE]),
            next_alive=flags[:, _NEXT_ALIVE],
            terminated=flags[:, _TERMINATED],
            truncated=flags[:, _TRUNCATED],
            done=self._tensor(self.dones[rows, copies]),
            masks={agent: self._tensor(mask) for agent, mask in now.masks.items()},
            next_masks={agent: self._tensor(mask) for agent, mask in after.masks.items()},
            states=None if now.states is None else self._tensor(now.states),
            next_states=None if after.states is None else self._tensor(after.states),
            handle_timeout_termination=self.handle_timeout_termination,
        )
        return batch if self.joint_observations is None else self._with_observations(batch, stored_flags, now, after)

    def _with_observations(
        self, batch: JointBatch, flags: np.ndarray, now: ObservationRows, after: ObservationRows
    ) -> JointBatch:
        """The batch with all observations as its states; zeros for agents that have no part in them."""
        encode, blocks = self.joint_observations.encode, self.moments.blocks  # type: ignore[union-attr]
        # From the stored flags, which are here.
        cut = flags[:, _TRUNCATED] & ~flags[:, _TERMINATED] & self.handle_timeout_termination
        present = dict(zip(self.agents, flags[:, _ALIVE].T, strict=True))
        following = dict(zip(self.agents, (flags[:, _NEXT_ALIVE] | cut).T, strict=True))
        states, next_states = encode(blocks.by_agent(now.arrays), present), encode(blocks.by_agent(after.arrays), following)
        return replace(batch, states=self._tensor(states), next_states=self._tensor(next_states))

    def _acted(self, alive: np.ndarray) -> dict[str, th.Tensor | None]:
        """Rows in which the agents acted, found here: another device would have to be waited for."""
        columns = zip(self.agents, alive.T, strict=True)
        return {agent: None if column.all() else self._tensor(np.flatnonzero(column)) for agent, column in columns}

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return to_device(array, self.device)

    def _actions(self, agent: str, array: np.ndarray) -> th.Tensor:
        return self._tensor(array.astype(np.int64) if isinstance(self.action_spaces[agent], spaces.Discrete) else array)

    def _observations(self, rows: ObservationRows) -> dict[str, Any]:
        observations = self.moments.blocks.by_agent([self._tensor(array) for array in rows.arrays])
        for agent, key in self._images:
            if key is None:
                observations[agent] = self._channels_first(observations[agent])
            else:
                observations[agent][key] = self._channels_first(observations[agent][key])
        return observations

    def _channels_first(self, images: th.Tensor) -> th.Tensor:
        """
        Images with their channels first. Those of a single agent lie in memory as in SB3, which decides about the last bit of
        a convolution; the layout of teams is faster.
        """
        first = images.permute(0, 3, 1, 2)
        return first.contiguous() if len(self.agents) == 1 else first


def check_replay_memory(
    transitions: int,
    observation_spaces: Mapping[str, spaces.Space[Any]],
    action_spaces: Mapping[str, spaces.Space[Any]],
    state_size: int,
) -> None:
    """
    Check that the memory of this machine can hold a replay buffer.

    :param transitions: number of joint transitions
    :param observation_spaces: agent -> space
    :param action_spaces: agent -> space
    :param state_size: number of entries of a state
    :raises ValueError: if it cannot; says how large the buffer would be
    """
    row_bytes = ObservationBlocks.row_bytes(observation_spaces) + 4 * state_size
    row_bytes += sum(_action_dtype(space).itemsize * int(np.prod(_action_shape(space))) for space in action_spaces.values())
    row_bytes += sum(int(options_of(space).sum()) for space in action_spaces.values())  # masks
    row_bytes += 8 * len(action_spaces) + 5  # rewards, flags, end of the episode, place of the final moment
    needed, present = transitions * row_bytes, memory_size()
    if present is not None and needed > present:
        raise ValueError(
            f"a replay buffer of {transitions:,} joint transitions takes {needed / 2**30:,.1f} GiB, and this machine has "
            f"{present / 2**30:,.1f} GiB of memory: choose a smaller buffer_size"
        )


def _action_shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    return () if isinstance(space, spaces.Discrete) else (int(np.prod(space.shape or ())),)


def _action_dtype(space: spaces.Space[Any]) -> np.dtype[Any]:
    return np.min_scalar_type(int(space.n) - 1) if isinstance(space, spaces.Discrete) else np.dtype(np.float32)


def _image_places(observation_spaces: Mapping[str, spaces.Space[Any]]) -> list[tuple[str, str | None]]:
    """Images with channels last, which SB3's networks take with channels first."""
    places: list[tuple[str, str | None]] = []
    for agent, space in observation_spaces.items():
        entries = space.spaces.items() if isinstance(space, spaces.Dict) else [(None, space)]
        places += [
            (agent, key)
            for key, entry in entries
            if is_image_space(entry) and not is_image_space_channels_first(entry)  # type: ignore[arg-type]
        ]
    return places
