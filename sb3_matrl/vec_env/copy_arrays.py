"""Arrays that hold one transition of several copies, in one block of memory that processes can share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sb3_matrl.vec_env.describe import EnvDescription
from sb3_matrl.vec_env.spaces import Leaf, leaves_of
from sb3_matrl.vec_env.step import JointObservation

_ALIGNMENT = 64  # bytes

Shape = tuple[int, ...]


class CopyArrays:
    """
    Joint action and transition of ``num_envs`` copies, in arrays that are overwritten in every step.

    - ``actions``: agent -> (num_envs, *action shape)
    - ``observations``, ``final``: agent -> one array (num_envs, *leaf shape) per leaf of the observation space
    - ``rewards``: float64 (num_envs, n_agents)
    - ``flags``: bool (4, num_envs, n_agents), of which ``alive``, ``acting``, ``terminated`` and ``truncated`` are views
    - ``dones``: bool (num_envs,)
    - ``states``, ``final_states``: float32 (num_envs, state size); of size 0 if the copies write no states

    :param description: agents and spaces of the env
    :param num_envs: number of copies
    :param buffer: writable memory of :meth:`nbytes` bytes, zeros at the start; ``None`` allocates it
    """

    def __init__(self, description: EnvDescription, num_envs: int, buffer: Any = None) -> None:
        self.agents = description.agents
        self.leaves = {agent: leaves_of(space) for agent, space in description.observation_spaces.items()}
        shapes = _shapes(description, self.leaves, num_envs)
        memory = np.zeros(_size(shapes), np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)
        arrays = _carved(memory, shapes)
        self.rewards = next(arrays)
        self.flags = next(arrays)
        self._name_flags()
        self.dones = next(arrays)
        self.states, self.final_states = next(arrays), next(arrays)
        self.actions = {agent: next(arrays) for agent in self.agents}
        self.observations = {agent: [next(arrays) for _ in leaves] for agent, leaves in self.leaves.items()}
        self.final = {agent: [next(arrays) for _ in leaves] for agent, leaves in self.leaves.items()}

    def _name_flags(self) -> None:
        self.alive, self.acting, self.terminated, self.truncated = self.flags

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a copy, and after pickle, views are arrays of their own."""
        vars(self).update(state)
        self._name_flags()

    @staticmethod
    def nbytes(description: EnvDescription, num_envs: int) -> int:
        """
        Number of bytes that the arrays need.

        :param description: agents and spaces of the env
        :param num_envs: number of copies
        """
        leaves = {agent: leaves_of(space) for agent, space in description.observation_spaces.items()}
        return _size(_shapes(description, leaves, num_envs))

    def copied(self, observations: dict[str, list[np.ndarray]]) -> JointObservation:
        """
        Copy the observations of all agents.

        :param observations: :attr:`observations` or :attr:`final`
        :return: agent -> new array (num_envs, *shape), or a dict of such arrays for a Dict space
        """
        return {agent: _joined(self.leaves[agent], arrays) for agent, arrays in observations.items()}


def _joined(leaves: list[Leaf], arrays: list[np.ndarray]) -> Any:
    if leaves[0].key is None:
        return arrays[0].copy()
    return {leaf.key: array.copy() for leaf, array in zip(leaves, arrays, strict=True)}


def _shapes(description: EnvDescription, leaves: dict[str, list[Leaf]], num_envs: int) -> list[tuple[Shape, np.dtype[Any]]]:
    """Shape and dtype of every array, in the order in which the constructor takes them."""
    grid = (num_envs, len(description.agents))
    boolean, state = np.dtype(bool), description.written_state
    states = ((num_envs, state.size if state else 0), np.dtype(np.float32))
    actions: list[tuple[Shape, np.dtype[Any]]] = [
        ((num_envs, *(space.shape or ())), np.dtype(space.dtype)) for space in description.action_spaces.values()
    ]
    observations = [((num_envs, *leaf.shape), leaf.dtype) for agent in leaves for leaf in leaves[agent]]
    head: list[tuple[Shape, np.dtype[Any]]] = [
        (grid, np.dtype(np.float64)),
        ((4, *grid), boolean),
        ((num_envs,), boolean),
        states,
        states,
    ]
    return [*head, *actions, *observations, *observations]


def _bytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _size(shapes: list[tuple[Shape, np.dtype[Any]]]) -> int:
    return sum(-(-_bytes(*one) // _ALIGNMENT) * _ALIGNMENT for one in shapes)


def _carved(memory: np.ndarray, shapes: list[tuple[Shape, np.dtype[Any]]]) -> Iterator[np.ndarray]:
    """Divide the memory into arrays."""
    start = 0
    for shape, dtype in shapes:
        size = _bytes(shape, dtype)
        yield memory[start : start + size].view(dtype).reshape(shape)
        start += -(-size // _ALIGNMENT) * _ALIGNMENT
