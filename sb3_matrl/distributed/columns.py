"""Arrays of rollout buffers, taken from those of workers and put into the columns of a learner's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.on_policy.buffers import LSTM_STATES
from sb3_matrl.on_policy.joint_updates import LearnerStack
from sb3_matrl.utils.image_planes import ImageRows

# Name of an attribute of a rollout buffer -> array, or dict of arrays
BufferArrays = dict[str, Any]


def member_columns(n_members: int, n_envs: int, copies: range) -> np.ndarray:
    """
    Columns of a worker's copies in a learner's buffer, which has the copies of its first agent first, then those of the next.

    :param n_members: number of agents that share the learner
    :param n_envs: number of copies in the whole training
    :param copies: copies of the worker
    :return: indices (n_members * n_copies,), in the order of the worker's own columns
    """
    first = np.arange(n_members)[:, None] * n_envs
    return np.ravel(first + np.asarray(copies))


def buffer_arrays(buffer: Any) -> BufferArrays:
    """
    All arrays of a full rollout buffer that have one column per copy and agent.

    :param buffer: rollout buffer that has not been flattened; arrays of subclasses are found, too
    :return: the arrays themselves, (n_steps, n_columns, ...); recurrent states have their layers before the columns
    """
    return {name: value for name, value in vars(buffer).items() if _has_columns(buffer, name, value)}


def _has_columns(buffer: Any, name: str, value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(_has_columns(buffer, name, one) for one in value.values())
    axis = _axis(name)
    if not isinstance(value, np.ndarray | ImageRows) or value.ndim <= axis:
        return False
    return bool(value.shape[0] == buffer.buffer_size and value.shape[axis] == buffer.n_envs)


def _axis(name: str) -> int:
    """Axis of the columns."""
    return 2 if name in LSTM_STATES else 1


def fill_buffer(buffer: Any, parts: Sequence[BufferArrays], columns: Sequence[np.ndarray]) -> None:
    """
    Fill a rollout buffer with the rollouts of all workers.

    :param buffer: rollout buffer of the learner
    :param parts: :func:`buffer_arrays` of each worker
    :param columns: :func:`member_columns` of each worker
    """
    buffer.reset()
    for part, places in zip(parts, columns, strict=True):
        for name, value in part.items():
            for own, array in _pairs(getattr(buffer, name), value):
                own[(*[slice(None)] * _axis(name), _as_slice(places))] = array
    buffer.pos, buffer.full = buffer.buffer_size, True


def _pairs(own: Any, value: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if isinstance(value, dict):
        yield from ((own[key], array) for key, array in value.items())
    else:
        yield own, value


def _as_slice(places: np.ndarray) -> np.ndarray | slice:
    """Indices that follow one another as a slice, which copies faster."""
    first = int(places[0])
    return slice(first, first + len(places)) if np.array_equal(places, np.arange(first, first + len(places))) else places


def stack_arrays(stack: LearnerStack) -> tuple[np.ndarray, np.ndarray]:
    """
    What the actors of a worker's stack computed in a rollout.

    :param stack: stack that has just acted
    :return: outputs of the actors (n, n_columns, n_steps, n_outputs), and log-densities of the actions (n, n_columns, n_steps)
    """
    kept = stack._rollout
    assert kept is not None
    n_columns = stack.learners[0].n_envs
    outputs, log_probs = (th.unflatten(one, 1, (n_columns, -1)).numpy() for one in (kept.outputs, kept.log_probs))
    return outputs, log_probs


def fill_stack(stack: LearnerStack, parts: Sequence[tuple[np.ndarray, np.ndarray]], columns: Sequence[np.ndarray]) -> None:
    """
    Give a stack what the actors of all workers computed, so that the update need not evaluate the policies again.

    :param stack: the learner's own stack, with the parameters that the workers acted with
    :param parts: :func:`stack_arrays` of each worker
    :param columns: :func:`member_columns` of each worker
    """
    parameters, n_columns = stack.stack.parameters(), stack.learners[0].n_envs
    merged = []
    for arrays in zip(*parts, strict=True):
        whole = np.empty((len(arrays[0]), n_columns, *arrays[0].shape[2:]), dtype=arrays[0].dtype)
        for array, places in zip(arrays, columns, strict=True):
            whole[:, places] = array
        merged.append(th.from_numpy(whole).flatten(1, 2).to(parameters.device))
    stack.keep_rollout(parameters, *merged)
