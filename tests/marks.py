"""Marks of parametrised tests."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick_cases(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """
    Leave a few cases in the quick tests and mark the others as end-to-end tests.

    :param cases: cases of a parametrised test; tuples are the values of several parameters
    :param quick: those among them that belong to the quick tests
    """
    values = ((case, case if isinstance(case, tuple) else (case,)) for case in cases)
    return [case if case in quick else pytest.param(*value, marks=pytest.mark.e2e) for case, value in values]
