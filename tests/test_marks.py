"""Levels of cases: the marker `cases`."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.marks import mark_cases


def levels(ids: list[str], **names: Any) -> tuple[list[str], dict[str, set[str]]]:
    """Levels that the marker with these arguments gives to cases that were end-to-end tests before, and the unknown ids."""

    def item(case: str) -> Any:
        own = [pytest.mark.e2e.mark]
        closest = {"cases": pytest.mark.cases(**names).mark}.get
        add = lambda name: own.append(getattr(pytest.mark, name).mark)  # noqa: E731
        return SimpleNamespace(
            nodeid=f"tests/test_a.py::test_b[{case}]", own_markers=own, get_closest_marker=closest, add_marker=add
        )

    items = [item(case) for case in ids]
    unknown = mark_cases(items)
    return [" ".join(mark.name for mark in one.own_markers) or "quick" for one in items], unknown


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"quick": ["a"]}, ["quick", "e2e", "e2e"]),
        ({"e2e": ["a", "b"]}, ["e2e", "e2e", "quick"]),
        ({"quick": ["b"], "expensive": ["c"]}, ["e2e", "quick", "expensive"]),
        ({"e2e": ["a"], "rest": "expensive"}, ["e2e", "expensive", "expensive"]),
    ],
)
def test_every_case_has_the_level_that_is_named_or_the_rest(names: dict[str, Any], expected: list[str]) -> None:
    assert levels(["a", "b", "c"], **names) == (expected, {})


def test_ids_that_no_case_has_are_found() -> None:
    assert levels(["a", "b"], quick=["a", "z"])[1] == {"tests/test_a.py::test_b": {"z"}}
