"""Tests of the tables of docs/results.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.results_page import RENDERERS, RESULTS


@pytest.mark.parametrize("name", sorted(RENDERERS))
def test_every_record_gives_a_table(name: str) -> None:
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    lines = RENDERERS[name](record).splitlines()
    assert sum(line.startswith("| ---") for line in lines) >= 1
    assert len(lines) >= 3


def test_page_has_the_tables_of_the_cross_play() -> None:
    record = json.loads((RESULTS / "pong_crossplay.json").read_text(encoding="utf-8"))
    assert RENDERERS["pong_crossplay"](record) in Path("docs/crossplay.md").read_text(encoding="utf-8")
