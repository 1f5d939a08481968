"""Pages of the documentation, and what tests read from them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """All flags of a command line, those of its commands included."""
    own = set(parser._option_string_actions)
    return own.union(*map(flags_of, getattr(parser, "commands", {}).values()))


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def on_one_line(path: Path) -> str:
    """A page whose commands are not broken by backslashes."""
    return re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))


def table_rows(name: str, section: str = "") -> list[list[str]]:
    """Cells of all rows of the tables of a page, or of one section of it, whose first cell is code."""
    text = (DOCS / name).read_text(encoding="utf-8")
    chosen = next(part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(section))
    lines = (chosen if section else text).replace(r"\|", "").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return [[row[0].strip("`"), *row[1:]] for row in rows]
