"""Names of the shipped suites."""

from __future__ import annotations

from pathlib import Path

SUITES_FOLDER = Path(__file__).parents[1] / "suites"
ALL_SUITES = "all"


def suite_names() -> list[str]:
    """Names of the shipped suites, without ``all``."""
    return sorted(path.stem for path in SUITES_FOLDER.glob("*.yml"))
