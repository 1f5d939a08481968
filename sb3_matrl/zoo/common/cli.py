"""What the command lines share: a strict argument parser, and errors as one line instead of a traceback."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sb3_matrl.utils.suggest import did_you_mean, unknown

USER_ERROR = 2


class StrictParser(argparse.ArgumentParser):
    """
    Argument parser that takes no abbreviations, shows defaults, and guesses what a misspelt flag meant.

    :param description: what the command does
    :param examples: shown below the flags
    """

    def __init__(self, description: str, examples: str) -> None:
        super().__init__(
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        :param arguments: words of the command line, without the program's name
        :raises ValueError: on an unknown flag or a word that belongs to no flag
        """
        for word in arguments:
            if self._is_abbreviation(word):
                raise self._unknown_flag(word)
        namespace, rest = self.parse_known_args(arguments)
        for word in rest:
            if word.startswith("-"):
                raise self._unknown_flag(word)
        if rest:
            raise ValueError(f"argument {rest[0]!r} belongs to no flag. See --help.")
        return namespace

    @property
    def flags(self) -> list[str]:
        """All flags, with their dashes."""
        return list(self._option_string_actions)

    def default_of(self, flag: str) -> Any:
        """Value of a flag that is not given."""
        return self._option_string_actions[flag].default

    def _is_abbreviation(self, word: str) -> bool:
        """Whether argparse would complete it; ``allow_abbrev=False`` does not stop that after a single dash."""
        flags = self.flags
        single = len(word) > 1 and word[0] == "-" and word[1].isalpha()
        return single and word not in flags and any(flag.startswith(word) for flag in flags)

    def _unknown_flag(self, word: str) -> ValueError:
        flag = word.split("=")[0]
        return ValueError(f"flag {flag} is unknown{did_you_mean(flag, self.flags) or '.'} See --help.")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. See --help.")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind every flag, examples as they are."""


@contextmanager
def user_errors() -> Iterator[None]:
    """
    Around everything that checks what the user gave: report it in one line and exit with code 2.

    SB3 reports bad hyper-parameters with assertions, JointVecEnv an unsuitable environment with ``TypeError``.
    """
    try:
        yield
    except (ValueError, TypeError, AssertionError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


def count(text: str) -> int:
    """A whole number; ``1e5`` is one too."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(number)


def positive_count(text: str) -> int:
    """A whole number of at least 1."""
    number = count(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def non_negative_count(text: str) -> int:
    """A whole number of at least 0."""
    number = count(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return number


def thread_count(text: str) -> int:
    """A whole number of at least 1, or -1."""
    number = count(text)
    if number < 1 and number != -1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, or -1, got {text!r}")
    return number


def log_interval(text: str) -> int:
    """A whole number of at least 1, or -1 or -2."""
    number = count(text)
    if number < 1 and number not in (-1, -2):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, or -1 or -2, got {text!r}")
    return number


def boolean(text: str) -> bool:
    """``true`` or ``false``, in any spelling of their letters."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def seed(text: str) -> int:
    """A seed: a whole number from 0 to 2**32 - 1, what every generator accepts."""
    number = count(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**32 - 1, got {text!r}")
    return number


def device(text: str) -> str:
    """A device of PyTorch, or ``auto``."""
    import torch as th  # here and below: commands without such flags start without it

    try:
        return text if text == "auto" else str(th.device(text))
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:<index>, got {text!r}") from None


def algorithm(text: str) -> str:
    """Name of an algorithm."""
    from sb3_matrl.zoo.common.hyperparameters import ALGORITHMS

    if text not in ALGORITHMS:
        raise argparse.ArgumentTypeError(unknown("algorithm", text, ALGORITHMS))
    return text
