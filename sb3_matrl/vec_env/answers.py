"""Results and errors of calls in worker processes, as bytes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle


def answer(function: Callable[..., Any], *arguments: Any) -> bytes:
    """
    Call a function whose error must not end the process.

    :param function: function to call
    :param arguments: its arguments
    :return: cloudpickle of whether the call succeeded, and the result or the error
    """
    try:
        return bytes(cloudpickle.dumps((True, function(*arguments))))
    except (Exception, SystemExit) as error:
        return bytes(cloudpickle.dumps((False, picklable(error))))


def results(answers: Mapping[int, bytes]) -> dict[int, Any]:
    """
    Read answers.

    :param answers: copy -> return value of :func:`answer`
    :return: copy -> result
    :raises Exception: first error among the answers
    """
    outcomes = {copy: cloudpickle.loads(content) for copy, content in answers.items()}
    for succeeded, result in outcomes.values():
        if not succeeded:
            raise result
    return {copy: result for copy, (_, result) in outcomes.items()}


def picklable(error: BaseException) -> BaseException:
    """Return the error itself if it can be pickled, otherwise a RuntimeError with its message."""
    try:
        return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else RuntimeError(repr(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
