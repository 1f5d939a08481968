"""The tables of docs/games.md are those of the records beside its pictures."""

import json
from pathlib import Path

import pytest

from sb3_matrl.zoo.studies.portrait import portrait_markdown
from sb3_matrl.zoo.studies.rotational_study import rotational_markdown
from sb3_matrl.zoo.studies.table1_study import table1_markdown

DOCS = Path(__file__).parents[2] / "docs"
RENDERERS = {"table1": table1_markdown, "rotational": rotational_markdown}
RECORDS = sorted((DOCS / "images" / "games").glob("*.json"))


def test_there_are_records():
    assert {"table1", "rotational"} < {path.stem for path in RECORDS}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_page_shows_the_record_with_its_picture_and_command(path):
    page, record = (DOCS / "games.md").read_text(), json.loads(path.read_text())
    table = RENDERERS.get(path.stem, portrait_markdown)(record["rows"])
    for block in table.split("\n\n"):
        assert block in page
    assert f"(images/games/{path.stem}.svg)" in page
    command, out, _ = record["machine"]["command"].partition(" --out")
    assert out and command in page
