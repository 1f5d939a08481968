"""The tables that docs/which_method.md takes from the records of suites and searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results_page import RESULTS, suite, tuning
from sb3_matrl.zoo.common.hyperparameters import find_conf_file, load_hyperparameters

PAGE = Path("docs/which_method.md")
# The fourteen small tasks that the page counts, the larger ones, and a comparison of methods.
SMALL = ("coordination_preset", "suite_zero_sum", "kuhn_poker")
LARGE = (
    *("leduc_poker", "suite_checkers", "suite_checkers_team", "suite_switch"),
    *("suite_stag_hunt_grid", "suite_predator_prey", "suite_escalation"),
)
TUNED = "suite_coordination"


def row(method: str, score: float, verdict: str, seeds: int = 5) -> dict[str, Any]:
    interval = {"score_low": score - 1, "score_high": score + 1} if seeds > 2 else {"score_low": None, "score_high": None}
    return {"method": method, "seeds": seeds, "score": score, "verdict": verdict, **interval}


def test_suite_is_one_table_for_every_kind_of_score() -> None:
    tasks = [
        {"name": "a", "score": "welfare", "rows": [row("ippo", 0.5, ""), row("matrl", 0.75, "better")]},
        {"name": "b", "score": "return", "rows": [row("ippo", 3.0, "", seeds=2), row("il-la", 2.0, "worse", seeds=2)]},
    ]
    text = suite({"tasks": tasks})
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert ["a", "5", "0.50 [-0.50, 1.50]", "0.75 [-0.25, 1.75] +"] in cells
    assert ["b", "2", "3.00", "2.00 -"] in cells
    assert ["matrl", "1", "0", "0"] in cells and ["il-la", "0", "0", "1"] in cells


@pytest.mark.parametrize("name", (*SMALL, *LARGE, TUNED))
def test_page_has_the_table_of_the_suite(name: str) -> None:
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    table = suite(record).split(":\n\n")[1].split("\n\n")[0]
    assert table.startswith("| task ") and table in PAGE.read_text(encoding="utf-8")


def test_page_has_the_tables_of_the_search() -> None:
    record = json.loads((RESULTS / "tuning.json").read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    for table in tuning(record).split("\n\nChosen settings:\n\n"):
        assert table in page


# The presets of the page's first table, for the kind of game that a task is.
PRESET = "matrl-optimistic, preset"
DIFFERENT = ("chicken", "congestion_4", "congestion_8", "congestion_16")  # agents must do different things
COORDINATION = (*DIFFERENT, "stag_hunt", "climbing", "penalty", "climbing_stochastic")
RANDOM = ("random_common_payoff", "random_general_sum")
PRESETS = {
    **dict.fromkeys(("rps", "matching_pennies", "uneven_rps", "kuhn_poker"), "matrl"),
    **dict.fromkeys((*COORDINATION, *RANDOM), PRESET),
}


def rows_of(*names: str) -> dict[tuple[str, str], dict[str, Any]]:
    records = [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    return {(task["name"], row["method"]): row for record in records for task in record["tasks"] for row in task["rows"]}


def test_presets_are_better_in_as_many_tasks_as_the_page_says() -> None:
    rows = rows_of(*SMALL)
    verdicts = {task: rows[task, method]["verdict"] for task, method in PRESETS.items()}
    tuned = rows_of(TUNED)
    both = {**tuned, **rows}
    assert {task for task, _ in rows} == set(PRESETS) and {row["seeds"] for row in both.values()} == {30}
    searched = {**verdicts, **{task: tuned[task, "matrl"]["verdict"] for task in DIFFERENT}}
    for counted, better, even in ((verdicts, 9, 5), (searched, 11, 3)):
        found = list(counted.values())
        assert (found.count("better"), found.count("even")) == (better, even)
    alone = [task for (task, method), row in both.items() if method == "il-la" and row["verdict"] == "better"]
    assert sorted(alone) == ["congestion_16", "congestion_8", "kuhn_poker", "matching_pennies", "rps", "uneven_rps"]


def test_larger_tasks_are_as_the_page_says() -> None:
    rows = rows_of(*LARGE)
    presets = {"switch": "matrl", "stag_hunt_grid": "optimistic-br", "predator_prey": "optimistic-br"}
    better = {task for (task, _), row in rows.items() if row["verdict"] == "better"}
    assert better == set(presets)
    assert [one for one, row in rows.items() if row["verdict"] == "worse"] == [("checkers_team", "matrl-optimistic")]
    assert {rows[one]["verdict"] for one in presets.items()} == {"better"}
    assert {row["seeds"] for row in rows.values()} == {10}


@pytest.mark.parametrize("algorithm", ["matrl-optimistic", "optimistic-br", "matrl", "il-la"])
def test_setting_of_the_coordination_games_is_the_shipped_one(algorithm: str) -> None:
    measured = rows_of("coordination_preset")["stag_hunt", f"{algorithm}, preset"]["hyperparameters"]
    own = {"env_kwargs": measured["env_kwargs"]}
    assert (
        load_hyperparameters(find_conf_file(algorithm, "coordination"), algorithm, "matrix_game_v0", own).as_mapping()
        == measured
    )
