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


@pytest.mark.parametrize(("name", "page"), [("pong_crossplay", "crossplay"), ("gpu_check", "on_a_gpu")])
def test_page_has_the_tables_of_the_record(name: str, page: str) -> None:
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    text = Path(f"docs/{page}.md").read_text(encoding="utf-8")
    for table in RENDERERS[name](record).split("\n\n"):
        assert table in text
