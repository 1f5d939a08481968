"""What goes wrong inside a copy's env or worker process, and what the user is told about it."""

from __future__ import annotations

from collections.abc import Sequence


class EnvError(RuntimeError):
    """An env failed or its worker process died: the message says in which copy, when and after which actions."""


class EnvDataError(EnvError, ValueError):
    """What an env returned breaks PettingZoo's rules or its own spaces, or is not finite."""


class DataFault(ValueError):
    """
    What the env of one copy returned is wrong. (Travels from worker processes, so its arguments are all it has.)

    :param copy: the copy's index
    :param message: what is wrong, what is expected and what to do
    """

    def __init__(self, copy: int, message: str) -> None:
        super().__init__(copy, message)
        self.copy = copy
        self.message = message

    def __str__(self) -> str:
        return f"env copy {self.copy}, {self.message}"


class CopyFailure(Exception):
    """
    The env of one copy raised an error. (Travels from worker processes, so its arguments are all it has.)

    :param copy: the copy's index
    :param method: of the env, e.g. ``"step"``
    :param error: what it raised
    """

    def __init__(self, copy: int, method: str, error: Exception) -> None:
        super().__init__(copy, method, error)
        self.copy = copy
        self.method = method
        self.error = error

    def __str__(self) -> str:
        return f"{self.method}() raised {type(self.error).__name__}: {self.error}"


class WorkerLost(EnvError):
    """
    A worker process ended without a message.

    :param copies: the copies that it held; empty when it is not known which worker it was
    :param exit_code: of the process, negative for a signal; ``None`` when it is not known
    """

    def __init__(self, copies: Sequence[int], exit_code: int | None) -> None:
        self.copies = list(copies)
        of_whom = f" (env copies {', '.join(map(str, copies))})" if copies else ""
        super().__init__(
            f"a worker process of the env{of_whom} ended without a message: {_cause(exit_code)}. "
            "vec_env='dummy' runs the env in this process, where the cause may show"
        )


def _cause(exit_code: int | None) -> str:
    if exit_code is None:
        return "it was killed (out of memory?) or crashed"
    if exit_code < 0:
        return f"it was killed by signal {-exit_code} (out of memory?) or crashed"
    return f"it exited with code {exit_code}"
