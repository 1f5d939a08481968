"""Levels of parametrised tests: the marker `cases`."""

from collections import defaultdict
from collections.abc import Iterable

import pytest

LEVELS = ("quick", "e2e", "expensive")


def mark_cases(items: Iterable[pytest.Item]) -> dict[str, set[str]]:
    """
    Mark the cases of parametrised tests as their marker `cases` says.

    ``@pytest.mark.cases(quick=["a", "b"])`` leaves the cases with these ids in the quick tests and marks the others as
    end-to-end tests; ``e2e=[...]`` and ``expensive=[...]`` name cases of these levels. ``rest`` is the level of cases that are
    not named: by default e2e if quick ones are named, and quick otherwise.

    :return: per test, the named ids that none of its cases has
    """
    unknown: dict[str, set[str]] = {}
    found = defaultdict(set)
    for item in items:
        mark = item.get_closest_marker("cases")
        if mark is None:
            continue
        named = {case: level for level in LEVELS for case in mark.kwargs.get(level, ())}
        test, _, case = item.nodeid.partition("[")
        found[test].add(case[:-1])
        unknown[test] = set(named) - found[test]
        level = named.get(case[:-1], mark.kwargs.get("rest", "e2e" if "quick" in mark.kwargs else "quick"))
        item.own_markers[:] = [one for one in item.own_markers if one.name not in LEVELS]
        if level != "quick":
            item.add_marker(level)
    return {test: names for test, names in unknown.items() if names}
