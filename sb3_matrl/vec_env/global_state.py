"""Global states of envs: their space, found out when the copies are made, and checks of every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from stable_baselines3.common.preprocessing import is_image_space

from sb3_matrl.vec_env.errors import DataFault

_NUMBERS = "biuf"
_ADVICE = (
    "Without a state, centralised critics and mixers can take the agents' observations instead (state='observations'); "
    "make_joint_vec_env then needs no states"
)

# True, False, or "auto": if the env has a state
States = bool | str


class NoState(ValueError):
    """
    An env has no state that can be used.

    :param env: the env
    :param reason: reason, a sentence without a full stop
    """

    def __init__(self, env: Any, reason: str) -> None:
        super().__init__(f"{env} has no state that can be used: {reason.rstrip('.')}. {_ADVICE}")


@dataclass(frozen=True)
class StateFormat:
    """
    Format of an env's states.

    :param shape: shape of the return value of ``state()``
    :param space: space of the flattened state, float32 (size,)
    """

    shape: tuple[int, ...]
    space: spaces.Box

    @property
    def size(self) -> int:
        """Number of elements of a state."""
        return int(self.space.shape[0])

    def row(self, state: Any) -> np.ndarray:
        """
        Convert the state of one copy.

        :param state: return value of ``state()``
        :return: float32 (size,)
        :raises ValueError: if it is no array of numbers with the expected shape
        """
        return self._flattened(state, self.shape).reshape(self.size)

    def rows(self, states: Any, num_envs: int) -> np.ndarray:
        """
        Convert the states of all copies of a batched core.

        :param states: return value of the core's ``state()``
        :param num_envs: number of copies
        :return: float32 (num_envs, size)
        :raises ValueError: if it is no array of numbers with the expected shape
        """
        return self._flattened(states, (num_envs, *self.shape)).reshape(num_envs, self.size)

    @staticmethod
    def _flattened(state: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = _numbers(state)
        if array.shape != shape:
            raise ValueError(f"state() has shape {array.shape}, expected {shape}; the shape must never change")
        with np.errstate(over="ignore"):  # infinity is found by check_states
            return array.astype(np.float32, copy=False)


def _numbers(state: Any) -> np.ndarray:
    try:
        array = np.asarray(state)
    except ValueError as error:
        raise ValueError(f"state() is no array of numbers: {error}") from None
    if array.dtype.kind not in _NUMBERS:
        raise ValueError(f"state() has dtype {array.dtype}, expected an array of numbers")
    return array


def check_choice_of_states(states: Any) -> None:
    """
    Check the argument ``states`` of :func:`~sb3_matrl.vec_env.make_joint_vec_env`.

    :param states: value of the argument
    :raises ValueError: unless it is True, False or ``"auto"``
    """
    if not (isinstance(states, bool) or states == "auto"):
        raise ValueError(f"states must be True, False or 'auto', not {states!r}")


def declared_format(env: Any) -> StateFormat | None:
    """
    Format of the states according to ``env.state_space``; :func:`probed_format` finds out whether it holds.

    :param env: a ParallelEnv, or a batched core
    :return: format; ``None`` if there is no such attribute
    :raises NoState: if it is no Box, empty, or the space of an image
    """
    space = getattr(env, "state_space", None)
    if space is None:
        return None
    if not isinstance(space, spaces.Box):
        raise NoState(env, f"its state_space is {space}, expected a Box")
    if 0 in space.shape:
        raise NoState(env, f"its state_space {space} has no elements")
    if is_image_space(space):
        raise NoState(env, f"its state is an image of shape {space.shape}, which is too large to be taken as a vector")
    with np.errstate(over="ignore"):
        low, high = (space.low.astype(np.float32).reshape(-1), space.high.astype(np.float32).reshape(-1))
    return StateFormat(tuple(space.shape), spaces.Box(low, high, dtype=np.float32))


def probed_format(env: Any) -> StateFormat:
    """
    Reset an env and find out whether it has a state, and which.

    :param env: a ParallelEnv
    :raises NoState: if the env has none, or one that its ``state_space`` does not allow or that cannot be used
    """
    if getattr(type(env), "state", None) is ParallelEnv.state:
        raise NoState(env, "it does not define state()")
    declared = declared_format(env)
    env.reset(seed=0)
    try:
        state = _numbers(env.state())
    except ValueError as error:
        raise NoState(env, str(error)) from None
    except (Exception, SystemExit) as error:
        raise NoState(env, f"its method state() raised {type(error).__name__}: {error}") from None
    if state.size == 0:
        raise NoState(env, "its state is empty")
    if declared is None:
        return _format_of(env, state)
    if state.shape != declared.shape:
        raise NoState(env, f"state() has shape {state.shape}, but its state_space has shape {declared.shape}")
    return declared


def _format_of(env: Any, state: np.ndarray) -> StateFormat:
    """Format of the states of an env without ``state_space``, from the first of them."""
    if state.dtype == np.uint8 and state.ndim == 3:
        raise NoState(env, f"its state is an image of shape {state.shape}, which is too large to be taken as a vector")
    return StateFormat(state.shape, spaces.Box(-np.inf, np.inf, (state.size,), np.float32))


def check_states(states: np.ndarray, when: Callable[[int], str]) -> None:
    """
    Check that all states are finite.

    :param states: float32 (num_envs, size)
    :param when: copy -> time in its episode, for the message
    :raises DataFault: on NaN or infinity; names copy, index and value
    """
    finite = np.isfinite(states)
    if not finite.all():
        copy, index = np.argwhere(~finite)[0].tolist()
        raise DataFault(
            copy,
            f"the state {when(copy)} has {states[copy, index]} at index {index}; states must be finite as float32. "
            "Look for a division by zero or an overflow in the env's state()",
        )
