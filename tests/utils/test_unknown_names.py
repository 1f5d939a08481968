"""Every error about a name that is not known suggests the one that was probably meant."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sb3_matrl.common.model import check_learners

PACKAGE = Path(__file__).parents[2] / "sb3_matrl"
# Words of errors about names; "unknown" itself builds the sentence with the suggestion.
WORDS = re.compile(r"\bis unknown\b|\bare unknown\b|\bunknown agents?\b|\bmust be one of (?!\d)")
SUGGESTS = {"unknown", "did_you_mean", "unknown_argument", "unknown_flag"}


def texts(node: ast.AST) -> Iterator[str]:
    """Constant texts below a node."""
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def calls(node: ast.AST) -> set[str]:
    return {
        one.func.id if isinstance(one.func, ast.Name) else getattr(one.func, "attr", "")
        for one in ast.walk(node)
        if isinstance(one, ast.Call)
    }


def silent_errors() -> list[str]:
    """Places of errors about names without a suggestion: file and function."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for statement in ast.walk(function):
                if not isinstance(statement, ast.Raise) or not WORDS.search(" ".join(texts(statement))):
                    continue
                if not calls(function) & SUGGESTS:
                    found.append(f"{path.relative_to(PACKAGE).as_posix()}:{function.name}")
    return found


@pytest.mark.e2e
def test_errors_about_names_suggest_one() -> None:
    assert silent_errors() == []


def test_parameters_of_agents_are_matched_by_name() -> None:
    check_learners(["a"], ["a", "b"], exact_match=False)
    with pytest.raises(
        ValueError, match=r"parameters: agent 'agent_O' is unknown; did you mean 'agent_0'\? Known: agent_0, b"
    ):
        check_learners(["agent_O"], ["agent_0", "b"], exact_match=True)
    with pytest.raises(ValueError, match="parameters: those of b are missing"):
        check_learners(["a"], ["a", "b"], exact_match=True)
