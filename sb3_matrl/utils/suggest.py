"""Messages for unknown names, with the closest known name as a suggestion."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """
    Suggest the closest known name.

    :param word: unknown name
    :param known: valid names
    :return: ``"; did you mean 'x'?"`` with the closest known name, or ``""`` if none is close
    """
    names = sorted(set(known))
    folded = {name.casefold(): name for name in reversed(names)}
    close = difflib.get_close_matches(str(word).casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """
    Build the message for an unknown name.

    :param kind: kind of the name, e.g. ``"env"``
    :param word: unknown name
    :param known: valid names, listed in this order
    :return: e.g. ``"env 'checkers_v1' is unknown; did you mean 'checkers_v0'? Known: checkers_v0, switch_v0"``
    """
    names = list(known)
    guess = did_you_mean(word, names) or "."
    return f"{kind} {word!r} is unknown{guess} Known: {', '.join(names) or 'none'}"
