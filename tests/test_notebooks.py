"""Jupyter notebooks made of the pages: valid, with the code of the pages, which runs cell by cell."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from sb3_matrl.evaluation import isolated_random_streams
from tests.documentation import DOCS
from tests.test_docs import PYTHON_BLOCK, small

pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    make = runpy.run_path(str(DOCS / "make_notebooks.py"))["make"]
    made: list[Path] = make(tmp_path_factory.mktemp("notebooks"))
    return made


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_notebooks_are_valid_and_have_the_code_of_their_pages(notebooks: list[Path]) -> None:
    assert [path.stem for path in notebooks] == ["first_training", "game_and_metagame", "own_environment"]
    for path in notebooks:
        nbformat.validate(nbformat.read(path, as_version=4))
        page = (DOCS / "notebooks" / f"{path.stem}.md").read_text(encoding="utf-8")
        assert [cell.strip() for cell in code_cells(path)] == [block.strip() for block in PYTHON_BLOCK.findall(page)]


@pytest.mark.e2e
@pytest.mark.parametrize("index", range(3))
def test_cells_run_in_their_order(notebooks: list[Path], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, object] = {"__name__": "__main__"}
    with isolated_random_streams(0):
        for number, cell in enumerate(code_cells(notebooks[index])):
            exec(compile(small(cell), f"{notebooks[index].name}, cell {number}", "exec"), names)
