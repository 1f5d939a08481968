"""Rows of bytes that encode a copy's state: in snapshots, and for SuperSuit, which needs the same space for every agent."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from sb3_matrl.vec_env.copy_arrays import CopyArrays
from sb3_matrl.vec_env.describe import EnvDescription
from sb3_matrl.vec_env.spaces import ByteCodec

# A row starts with one byte per flag, padded to eight bytes, and the reward as float64.
ALIVE, TERMINATED, TRUNCATED, RESET, ACTING = range(5)
REWARD = slice(8, 16)
HEADER = 16


class RowLayout:
    """
    Layout of the rows that encode observations and actions.

    :param description: agents and spaces of the env
    :param states: whether the first agent's row ends with the global state, if the copies write states. Snapshots do not
        need it, because the restored env has it
    """

    def __init__(self, description: EnvDescription, states: bool = False) -> None:
        state = description.written_state if states else None
        self.agents = description.agents
        self.observations = {agent: ByteCodec(space) for agent, space in description.observation_spaces.items()}
        self.actions = {agent: ByteCodec(space) for agent, space in description.action_spaces.items()}
        end = HEADER + max(codec.size for codec in self.observations.values())
        self.observation_size = end + (4 * state.size if state else 0)
        self._state = slice(end, self.observation_size)
        self.action_size = max(1, *(codec.size for codec in self.actions.values()))
        self.observation_space = _bytes_space(self.observation_size)
        self.action_space = _bytes_space(self.action_size)

    def blank_rows(self) -> np.ndarray:
        """Rows of zeros, uint8 (n_agents, observation_size)."""
        return np.zeros((len(self.agents), self.observation_size), np.uint8)

    def encode(self, arrays: CopyArrays, copy: int) -> np.ndarray:
        """
        Encode flags, rewards and observations of one copy.

        :param arrays: arrays of the copies
        :param copy: index of the copy in them
        :return: uint8 (n_agents, observation_size)
        """
        rows = self.blank_rows()
        rows[:, ALIVE], rows[:, ACTING] = arrays.alive[copy], arrays.acting[copy]
        rows[:, TERMINATED], rows[:, TRUNCATED] = arrays.terminated[copy], arrays.truncated[copy]
        rows[:, RESET] = arrays.dones[copy]
        rows[:, REWARD] = arrays.rewards[copy][:, None].view(np.uint8)
        for row, (agent, codec) in zip(rows, self.observations.items(), strict=True):
            codec.write([array[copy, None] for array in arrays.observations[agent]], row[None, HEADER:])
        if self._state.start < self._state.stop:
            rows[0, self._state] = arrays.states[copy].view(np.uint8)
        return rows

    def states(self, rows: np.ndarray) -> np.ndarray:
        """
        Read the global states.

        :param rows: uint8 (num_envs, n_agents, observation_size)
        :return: float32 (num_envs, state size)
        """
        return rows[:, 0, self._state].copy().view(np.float32)

    def encode_final(self, arrays: CopyArrays, copy: int, agent: str) -> bytes:
        """
        Encode the final observation of one agent.

        :param arrays: arrays of the copies
        :param copy: index of the copy in them
        :param agent: name of the agent
        :return: ``observation_size`` bytes
        """
        row = np.zeros((1, self.observation_size), np.uint8)
        self.observations[agent].write([array[copy, None] for array in arrays.final[agent]], row[:, HEADER:])
        return row.tobytes()

    def decode(self, rows: np.ndarray, arrays: CopyArrays, copy: int) -> None:
        """
        Write what rows encode into the arrays of one copy.

        :param rows: return value of :meth:`encode`
        :param arrays: arrays of the copies
        :param copy: index of the copy in them
        """
        arrays.alive[copy], arrays.acting[copy] = rows[:, ALIVE], rows[:, ACTING]
        arrays.terminated[copy], arrays.truncated[copy] = rows[:, TERMINATED], rows[:, TRUNCATED]
        arrays.dones[copy] = rows[0, RESET]
        arrays.rewards[copy] = rows[:, REWARD].copy().view(np.float64)[:, 0]
        for row, (agent, codec) in zip(rows, self.observations.items(), strict=True):
            value = codec.read(row[None, HEADER:])
            for leaf, array in zip(codec.leaves, arrays.observations[agent], strict=True):
                array[copy] = (value if leaf.key is None else value[leaf.key])[0]


def _bytes_space(size: int) -> spaces.Box:
    return spaces.Box(0, 255, (size,), np.uint8)
