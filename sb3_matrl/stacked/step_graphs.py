"""
Gradient steps as CUDA graphs: a graph holds all operations of a step and is started by one call.

A step of small networks is many operations, and the start of each takes longer than its work.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch as th

from sb3_matrl.stacked.minibatches import Minibatch
from sb3_matrl.utils.one_line import one_line

#: Operations of a minibatch that read nothing back; returns a tensor.
Step = Callable[[Minibatch], th.Tensor]


class StepGraphs:
    """
    A step that is recorded as a graph for every shape of minibatch, and repeated from then on.

    The first minibatch of a shape takes the step as it is, so that libraries are loaded before the recording. If a recording
    fails, all further steps are taken as they are, with a warning.

    :param step: the step; reads and writes the same tensors in every call, besides the minibatch and its result
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._graphs: dict[Any, _Graph | None] = {}
        self._failed = False

    def __call__(self, minibatch: Minibatch) -> th.Tensor:
        """Take the step; the result is not changed by later steps."""
        kind = minibatch.kind
        if self._failed or kind not in self._graphs:
            self._graphs[kind] = None
            return self._step(minibatch)
        graph = self._graphs[kind] or self._record(minibatch)
        if graph is None:
            return self._step(minibatch)
        self._graphs[kind] = graph
        return graph.repeat(minibatch)

    def _record(self, minibatch: Minibatch) -> _Graph | None:
        try:
            return _Graph(self._step, minibatch)
        except RuntimeError as error:
            self._failed = True
            reason = one_line(error)
            warnings.warn(f"no CUDA graphs, so that updates of small networks are slower: {reason}", stacklevel=2)
            return None

    def clear(self) -> None:
        """Forget all recordings: a graph that is freed during a recording spoils it, so that none may be left to chance."""
        self._graphs.clear()


class _Graph:
    """
    A recorded step.

    :param step: the step
    :param minibatch: minibatch of the shape for which it is recorded
    """

    def __init__(self, step: Step, minibatch: Minibatch) -> None:
        self._inputs = minibatch.copy()
        self._places = self._inputs.tensors()
        self._replay, self._result = record(step, self._inputs)

    def repeat(self, minibatch: Minibatch) -> th.Tensor:
        """Take the step on another minibatch of this shape."""
        th._foreach_copy_(self._places, minibatch.tensors())
        self._replay()
        return self._result.clone()


def record(step: Step, minibatch: Minibatch) -> tuple[Callable[[], None], th.Tensor]:
    """
    Record a step as a CUDA graph; nothing is computed yet.

    :param step: the step
    :param minibatch: what the step reads, also when it is repeated
    :return: function that takes the step, and the tensor in which it leaves its result
    """
    device = minibatch.shares.device
    stream, current, graph = _recording_stream(device), th.cuda.current_stream(device), th.cuda.CUDAGraph()
    stream.wait_stream(current)
    with _nothing_is_freed(), th.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            result = step(minibatch)
        finally:
            graph.capture_end()
    current.wait_stream(stream)
    return graph.replay, result


@contextmanager
def _nothing_is_freed() -> Iterator[None]:
    """Inside, Python does not look for objects that refer to each other, among which may be other graphs."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _recording_stream(device: th.device) -> th.cuda.Stream:
    """One stream for all recordings: libraries keep memory for every stream that they have seen."""
    return th.cuda.Stream(device)  # type: ignore[no-untyped-call]
