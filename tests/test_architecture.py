"""The package's structure: dependencies point one way, no cycles, and every file has a name of its own."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "sb3_matrl").rglob("*.py"))
}
# Folder -> folders below it, from the lowest layer up; a folder may import itself and those.
BELOW: dict[str, set[str]] = {
    "utils": set(),
    "metagame": {"utils"},
    "games": {"metagame", "utils"},
    "envs": {"games", "utils"},
    "files": {"utils"},
    "vec_env": {"envs", "utils"},
    "common": {"files", "vec_env", "utils"},
    "stacked": {"utils"},
    "on_policy": {"stacked", "common", "vec_env", "utils"},
    "distributed": {"on_policy", "stacked", "common", "vec_env", "envs", "utils"},
    "matrl": {"distributed", "on_policy", "stacked", "common", "metagame", "utils"},
    "off_policy": {"distributed", "stacked", "common", "files", "vec_env", "utils"},
    "evaluation": {"common", "files", "vec_env", "envs", "utils"},
    "": {"common", "matrl", "off_policy"},
}
UNKNOWN_TO_GAMES = {"gymnasium", "pettingzoo", "sb3_contrib", "stable_baselines3", "wandb"}


@cache
def imports(module: str) -> frozenset[str]:
    """Absolute names of the modules that a module imports, those for type checkers included."""
    return frozenset(_imports(MODULES[module]))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: a relative import"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in names)


def folder(module: str) -> str:
    """First folder below the package; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def test_dependencies_point_one_way() -> None:
    edges = [(module, other) for module in MODULES for other in imports(module) & MODULES.keys() if folder(module) != "zoo"]
    wrong = [(one, other) for one, other in edges if folder(other) not in BELOW[folder(one)] | {folder(one)}]
    assert wrong == []


def test_imports_have_no_cycle() -> None:
    TopologicalSorter({module: (imports(module) & MODULES.keys()) - {module} for module in MODULES}).prepare()


def test_base_names_occur_once() -> None:
    counts = Counter(path.stem for path in MODULES.values() if path.stem not in ("__init__", "__main__"))
    assert {name for name, count in counts.items() if count > 1} == set()


def test_games_know_no_environments_and_no_learners() -> None:
    exact = [module for module in MODULES if folder(module) in ("games", "metagame")]
    assert [(module, other) for module in exact for other in imports(module) if other.split(".")[0] in UNKNOWN_TO_GAMES] == []
