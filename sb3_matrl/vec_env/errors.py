"""Errors of environment copies and worker processes."""

from __future__ import annotations

from collections.abc import Sequence


class EnvError(RuntimeError):
    """An env raised an error or its worker process died; the message names the copy, the time and the last actions."""


class EnvDataError(EnvError, ValueError):
    """An env returned data that breaks PettingZoo's rules or its own spaces, or is not finite."""


class DataFault(ValueError):
    """
    The env of one copy returned invalid data. (Sent between processes, so ``args`` must hold everything.)

    :param copy: index of the copy
    :param message: description of the fault, with the expected value and the remedy
    """

    def __init__(self, copy: int, message: str) -> None:
        super().__init__(copy, message)
        self.copy = copy
        self.message = message

    def __str__(self) -> str:
        return f"env copy {self.copy}, {self.message}"


class CopyFailure(Exception):
    """
    The env of one copy raised an error. (Sent between processes, so ``args`` must hold everything.)

    :param copy: index of the copy
    :param method: method that raised, e.g. ``"step"``
    :param error: error that was raised
    """

    def __init__(self, copy: int, method: str, error: BaseException) -> None:
        super().__init__(copy, method, error)
        self.copy = copy
        self.method = method
        self.error = error

    def __str__(self) -> str:
        return f"{self.method}() raised {type(self.error).__name__}: {self.error}"


class WorkerLost(EnvError):
    """
    A worker process ended without a message.

    :param copies: copies that the worker held; empty if the worker is unknown
    :param exit_code: exit code of the process, negative for a signal; ``None`` if unknown
    """

    def __init__(self, copies: Sequence[int], exit_code: int | None) -> None:
        self.copies = list(copies)
        held = f" (env copies {', '.join(map(str, copies))})" if copies else ""
        super().__init__(
            f"a worker process of the env{held} ended without a message: {exit_cause(exit_code)}. "
            "vec_env='dummy' runs the env in this process, where the cause may show"
        )


class WorkerStuck(WorkerLost):
    """
    Worker processes did not answer in time, and were killed.

    :param copies: copies that the workers held
    :param seconds: time that they had
    """

    def __init__(self, copies: Sequence[int], seconds: float) -> None:
        self.copies = list(copies)
        EnvError.__init__(
            self,
            f"a worker process of the env (env copies {', '.join(map(str, copies))}) did not answer within {seconds:g} s "
            "(env_timeout) and was ended. vec_env='dummy' runs the env in this process, where Ctrl-C shows where it is stuck",
        )


def exit_cause(exit_code: int | None) -> str:
    """
    What is known about the end of a process.

    :param exit_code: exit code as :mod:`multiprocessing` gives it; ``None`` if it is not known
    """
    if exit_code is None:
        return "it was killed (out of memory?) or crashed"
    if exit_code < 0:
        return f"it was killed by signal {-exit_code} (out of memory?) or crashed"
    return f"it exited with code {exit_code}"
