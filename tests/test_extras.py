"""Every extra that a page, a message or the Makefile tells users to install exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.documentation import PAGES, ROOT, page_name, table_rows

# sb3-matrl[track], ".[render,record]", and f"sb3-matrl[{extra}]" of messages, whose name is filled in.
NAMED = re.compile(r"(?:sb3-matrl|[\"' ]\.)\[([\w, -]+)\]")
SOURCES = [*sorted((ROOT / "sb3_matrl").rglob("*.py")), ROOT / "Makefile", *sorted((ROOT / "benchmarks").glob("*.py"))]


def extras() -> set[str]:
    """Names of the extras in ``setup.py``."""
    calls = (
        node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    )
    keywords = (keyword for call in calls for keyword in call.keywords if keyword.arg == "extras_require")
    return set(ast.literal_eval(next(keywords).value))


def test_extras_that_are_named_exist() -> None:
    named = {
        (page_name(path), extra.strip())
        for path in (*PAGES, *SOURCES)
        for match in NAMED.findall(path.read_text(encoding="utf-8"))
        for extra in match.split(",")
    }
    assert len(named) > 10
    assert sorted(f"{place}: {extra}" for place, extra in named if extra not in extras()) == []


def test_the_table_of_extras_lists_all_of_them() -> None:
    rows = [row for row in table_rows("quickstart.md", "Install")]
    listed = {name.strip("` ") for row in rows for name in row[0].split("`, `")}
    assert listed == extras()


@pytest.mark.e2e
def test_extras_that_messages_fill_in_exist() -> None:
    from sb3_matrl.zoo.diagnosis.installation import _EXTRAS

    texts = [path.read_text(encoding="utf-8") for path in SOURCES if path.suffix == ".py"]
    trees = [ast.parse(text) for text in texts if "import_optional(" in text]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    optional = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "import_optional"]
    filled = {ast.literal_eval(call.args[2]) for call in optional if isinstance(call.args[2], ast.Constant)}
    assert filled and filled | set(_EXTRAS) <= extras()
