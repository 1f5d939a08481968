"""Checks of actions, observations and rewards; errors name the copy, the agent, the expected value and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.utils.agent_names import keyed_by_text
from sb3_matrl.vec_env.errors import DataFault
from sb3_matrl.vec_env.spaces import AgentSpaces, Leaf, leaves_of
from sb3_matrl.vec_env.step import JointObservation

_RELATIVE_TOLERANCE = 1e-5
_LARGEST = float(np.finfo(np.float32).max)

# copy -> time in its episode, e.g. "after step 3"; only called for messages
When = Callable[[int], str]


def bounds_of(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
    """
    Smallest and largest value of a leaf.

    :param leaf: leaf of an observation or action space
    :return: arrays that broadcast against a value; infinite where a Box is unbounded
    """
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
    if isinstance(space, spaces.MultiBinary):
        return np.asarray(0), np.asarray(1)
    assert isinstance(space, spaces.Box)
    return space.low, space.high


def _accepted_range(leaf: Leaf, check_bounds: bool) -> tuple[Any, Any]:
    """
    Bounds with a tolerance for rounding; infinite bounds are replaced by the largest finite numbers.

    :return: one number each if all elements of the leaf have the same bound, otherwise arrays
    """
    low, high = _bounds_with_tolerance(leaf, check_bounds)
    return _scalar_if_uniform(low), _scalar_if_uniform(high)


def _bounds_with_tolerance(leaf: Leaf, check_bounds: bool) -> tuple[np.ndarray, np.ndarray]:
    low, high = bounds_of(leaf)
    if leaf.dtype.kind == "b":
        return np.asarray(0), np.asarray(1)
    if leaf.dtype.kind != "f":
        info = np.iinfo(leaf.dtype)
        return (low, high) if check_bounds else (np.asarray(info.min), np.asarray(info.max))
    largest = float(np.finfo(leaf.dtype).max)
    if not check_bounds:
        return np.asarray(-largest), np.asarray(largest)
    low, high = low.astype(np.float64), high.astype(np.float64)
    low = low - _RELATIVE_TOLERANCE * np.maximum(1.0, abs(low))
    high = high + _RELATIVE_TOLERANCE * np.maximum(1.0, abs(high))
    return np.clip(low, -largest, largest), np.clip(high, -largest, largest)


def _scalar_if_uniform(bound: np.ndarray) -> Any:
    return bound.flat[0].item() if bound.size and (bound == bound.flat[0]).all() else bound


class QuickCheck:
    """
    Finds out with few operations whether all values of several arrays are within bounds.

    Arrays of the same dtype and with the same uniform bounds are checked together.

    :param ranges: dtype, lowest and highest value of each array: numbers, or arrays that broadcast against its rows
    """

    def __init__(self, ranges: Sequence[tuple[np.dtype[Any], Any, Any]]) -> None:
        together: dict[tuple[np.dtype[Any], Any, Any], list[int]] = {}
        self._others: list[tuple[int, Any, Any]] = []
        for position, (dtype, low, high) in enumerate(ranges):
            if isinstance(low, np.ndarray) or isinstance(high, np.ndarray):
                self._others.append((position, low, high))
            elif not _covers(dtype, low, high):
                together.setdefault((dtype, low, high), []).append(position)
        self._together = [(low, high, positions) for (_, low, high), positions in together.items()]

    def __call__(self, arrays: Sequence[np.ndarray]) -> bool:
        """
        Check all arrays.

        :param arrays: one array per range
        :return: whether no value is NaN or out of bounds
        """
        for low, high, positions in self._together:
            if not _within([arrays[position] for position in positions], low, high):
                return False
        for position, low, high in self._others:
            values = arrays[position]
            if not ((values >= low) & (values <= high)).all():
                return False
        return True


_JOINED_BYTES = 2**16  # larger arrays are not copied for a common check


def _covers(dtype: np.dtype[Any], low: Any, high: Any) -> bool:
    """Whether bounds exclude no value of an integer dtype."""
    if dtype.kind not in "iu":
        return False
    info = np.iinfo(dtype)
    return bool(low <= info.min and info.max <= high)


def _within(arrays: list[np.ndarray], low: Any, high: Any) -> bool:
    if len(arrays) > 1 and len(arrays) * arrays[0].nbytes <= _JOINED_BYTES:
        arrays = [np.concatenate(arrays, axis=None)]
    # NaN is the minimum and fails the comparison.
    return all(
        values.size == 0 or (low <= np.minimum.reduce(values, axis=None) and np.maximum.reduce(values, axis=None) <= high)
        for values in arrays
    )


class ValueCheck:
    """
    Checks that one leaf of one agent's observations is finite and within its bounds, in all copies at once.

    :param agent: name of the agent, for messages
    :param leaf: leaf of the agent's observation space
    :param check_bounds: whether bounds are checked in addition to finiteness
    """

    def __init__(self, agent: str, leaf: Leaf, check_bounds: bool) -> None:
        self.agent = agent
        self.leaf = leaf
        self.low, self.high = _accepted_range(leaf, check_bounds)

    def __call__(self, values: np.ndarray, rows: np.ndarray, when: When) -> None:
        """
        Raise if a value is invalid.

        :param values: (num_envs, *leaf shape)
        :param rows: bool (num_envs,), copies in which the agent's values are valid
        :param when: time of each copy, for the message
        :raises DataFault: on an invalid value; names copy, agent, index and value
        """
        bad = ~((values >= self.low) & (values <= self.high)) & rows.reshape(-1, *[1] * (values.ndim - 1))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise DataFault(where[0], self._message(values, where, when))

    def _message(self, values: np.ndarray, where: tuple[int, ...], when: When) -> str:
        value = values[where].item()
        element = f" at index {list(where[1:])}" if where[1:] else ""
        start = f"agent {self.agent!r}: observation {when(where[0])} has {value}{element}"
        if not np.isfinite(value):
            return f"{start}; observations must be finite. Look for a division by zero or an overflow in the env"
        return (
            f"{start}, outside its space {self.leaf}. Correct the observation or widen the env's observation_space "
            "(or pass check_bounds=False to make_joint_vec_env)"
        )


class ObservationCheck:
    """
    Checks the joint observation of all copies.

    :param observation_spaces: agent -> space
    :param check_bounds: whether bounds are checked in addition to finiteness
    """

    def __init__(self, observation_spaces: AgentSpaces, check_bounds: bool) -> None:
        self._checks = [
            (column, agent, leaf.key, ValueCheck(agent, leaf, check_bounds))
            for column, (agent, space) in enumerate(observation_spaces.items())
            for leaf in leaves_of(space)
            if check_bounds or leaf.dtype.kind == "f"
        ]
        self._passes = QuickCheck([(check.leaf.dtype, check.low, check.high) for *_, check in self._checks])

    def __call__(self, observations: JointObservation, rows: np.ndarray, when: When) -> None:
        """
        Raise on the first invalid value.

        :param observations: agent -> (num_envs, *shape)
        :param rows: bool (num_envs, n_agents), copies and agents whose observations are valid
        :param when: time of each copy, for the message
        :raises DataFault: on an invalid value; names copy, agent, index and value
        """
        arrays = [observations[agent] if key is None else observations[agent][key] for _, agent, key, _ in self._checks]
        if self._passes(arrays):
            return
        for (column, _, _, check), values in zip(self._checks, arrays, strict=True):
            check(values, rows[:, column], when)


def check_rewards(rewards: np.ndarray, agents: list[str], when: When) -> None:
    """
    Check that all rewards are finite as float32.

    :param rewards: (num_envs, n_agents)
    :param agents: names of the columns
    :param when: time of each copy, for the message
    :raises DataFault: on NaN, infinity, or a number that float32 cannot hold; names copy and agent
    """
    if -_LARGEST <= np.minimum.reduce(rewards, axis=None) and np.maximum.reduce(rewards, axis=None) <= _LARGEST:
        return
    copy, column = np.argwhere(~(abs(rewards) <= _LARGEST))[0].tolist()
    raise DataFault(
        copy,
        f"agent {agents[column]!r}: reward {when(copy)} is {rewards[copy, column]}; it must be finite as float32. "
        "Look for a division by zero or an overflow in the env's reward",
    )


class ActionCheck:
    """
    Checks a joint action and converts it for the backends.

    :param action_spaces: agent -> space
    :param num_envs: number of copies
    """

    def __init__(self, action_spaces: AgentSpaces, num_envs: int) -> None:
        self._expected = {
            agent: (space, (num_envs, *(space.shape or ())), np.dtype(space.dtype)) for agent, space in action_spaces.items()
        }

    def __call__(self, actions: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """
        Check and convert.

        :param actions: agent, by its text or the env's own name -> (num_envs, *action shape)
        :return: arrays with the action spaces' dtypes, in the agents' order
        :raises ValueError: if agents are missing or unknown, a shape is wrong, or values for a discrete space are fractional
        """
        if not isinstance(actions, Mapping):
            raise ValueError(f"actions must be a dict keyed by agent {list(self._expected)}, not a {type(actions).__name__}")
        if actions.keys() != self._expected.keys():
            actions = keyed_by_text(actions)
        if actions.keys() != self._expected.keys():
            raise ValueError(self._wrong_agents(actions))
        return {agent: self._converted(agent, actions[agent]) for agent in self._expected}

    def _wrong_agents(self, actions: Mapping[str, Any]) -> str:
        missing = [agent for agent in self._expected if agent not in actions]
        extra = [agent for agent in actions if agent not in self._expected]
        parts = [f"missing for {missing}"] * bool(missing) + [f"given for unknown agents {extra}"] * bool(extra)
        return (
            f"actions are {' and '.join(parts)}; give one array per possible agent {list(self._expected)} "
            "(rows of agents that do not act are ignored, but required)"
        )

    def _converted(self, agent: str, action: Any) -> np.ndarray:
        space, shape, dtype = self._expected[agent]
        array = np.asarray(action)
        if array.shape != shape:
            raise ValueError(
                f"actions of agent {agent!r} have shape {array.shape}, expected {shape}: one action of {space} per env copy"
            )
        if array.dtype == dtype:
            return array
        if dtype.kind != "f" and array.dtype.kind not in "biu":
            raise ValueError(f"actions of agent {agent!r} have dtype {array.dtype}, expected integers: the space is {space}")
        return array.astype(dtype)


class ActionRangeCheck:
    """
    Rejects actions that are outside a discrete space or not finite; Box actions may exceed their bounds, as in SB3's VecEnvs.

    :param action_spaces: agent -> space
    """

    def __init__(self, action_spaces: AgentSpaces) -> None:
        self._spaces = action_spaces
        self._ranges = {}
        for agent, space in action_spaces.items():
            leaf = leaves_of(space)[0]
            self._ranges[agent] = _accepted_range(leaf, check_bounds=leaf.dtype.kind != "f")
        dtypes = [np.dtype(space.dtype) for space in action_spaces.values()]
        self._passes = QuickCheck([(dtype, *bounds) for dtype, bounds in zip(dtypes, self._ranges.values(), strict=True)])

    def __call__(self, actions: dict[str, np.ndarray], acting: np.ndarray) -> None:
        """
        Check the actions of the agents that act.

        :param actions: agent -> (num_envs, *action shape)
        :param acting: bool (num_envs, n_agents)
        :raises ValueError: on an invalid action; names copy, agent and action
        """
        if self._passes([actions[agent] for agent in self._ranges]):
            return
        for column, (agent, (low, high)) in enumerate(self._ranges.items()):
            values = actions[agent]
            good = (values >= low) & (values <= high)
            if good.all():
                continue
            bad = ~good.reshape(len(values), -1).all(axis=1) & acting[:, column]
            if bad.any():
                copy = int(bad.argmax())
                raise ValueError(
                    f"env copy {copy}, agent {agent!r}: action {values[copy].tolist()} is not in {self._spaces[agent]}"
                )
