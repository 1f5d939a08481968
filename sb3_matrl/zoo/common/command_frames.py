"""What the main functions of commands share: mistakes of the user in one line, interruption, work that can be continued."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from sb3_matrl.zoo.common.cli import user_errors
from sb3_matrl.zoo.common.signals import exit_code

FAILURE = 1
_Work = TypeVar("_Work")


def run_to_answer(answer: Callable[[Sequence[str]], str], arguments: Sequence[str] | None) -> int:
    """
    Run a command that prints one text when it is done.

    :param answer: function of the words of the command line that does the work and returns the text
    :param arguments: words of the command line; those of the process if ``None``
    :return: exit code: 0; 130 or 143 if a signal ended the command
    :raises SystemExit: with code 2 on a mistake of the user
    """
    try:
        with user_errors():
            print(answer(_words(arguments)))
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return exit_code(error)
    return 0


def run_resumable(
    prepare: Callable[[Sequence[str]], AbstractContextManager[_Work]],
    work: Callable[[_Work], None],
    arguments: Sequence[str] | None,
    kept: str,
) -> int:
    """
    Run a command that keeps what it has finished, and continues when it is given again.

    :param prepare: function of the words of the command line; its errors are mistakes of the user. The context that it returns
        stays open during the work, and holds the file of finished parts
    :param work: function that does the work and prints its results
    :param arguments: words of the command line; those of the process if ``None``
    :param kept: sentence on what is kept and how to continue, without a full stop
    :return: exit code: 0; 1 if the work failed; 130 or 143 if a signal ended it
    :raises SystemExit: with code 2 on a mistake of the user
    """
    try:
        with ExitStack() as stack:
            with user_errors():
                prepared = stack.enter_context(prepare(_words(arguments)))
            return _work_or_say(work, prepared, kept)
    except KeyboardInterrupt as error:
        print(f"interrupted. {kept}", file=sys.stderr)
        return exit_code(error)


def _work_or_say(work: Callable[[_Work], None], prepared: _Work, kept: str) -> int:
    from concurrent.futures.process import BrokenProcessPool

    from sb3_matrl.common.finite import NonFiniteError  # heavy: after the words are understood
    from sb3_matrl.vec_env import EnvError

    try:
        work(prepared)
    except BrokenProcessPool:
        print(f"a process of this command was ended, perhaps for lack of memory; try fewer --jobs. {kept}", file=sys.stderr)
        return FAILURE
    except (EnvError, NonFiniteError, OSError) as error:
        print(f"error: {error}\n{kept}", file=sys.stderr)
        return FAILURE
    return 0


def _words(arguments: Sequence[str] | None) -> Sequence[str]:
    return list(sys.argv[1:] if arguments is None else arguments)
