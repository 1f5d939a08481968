"""Tests of the tables of docs/results.md."""

from __future__ import annotations

import json

import pytest

from benchmarks.results_page import RENDERERS, RESULTS


@pytest.mark.parametrize("name", sorted(RENDERERS))
def test_every_record_gives_a_table(name: str) -> None:
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    lines = RENDERERS[name](record).splitlines()
    assert sum(line.startswith("| ---") for line in lines) >= 1
    assert len(lines) >= 3
