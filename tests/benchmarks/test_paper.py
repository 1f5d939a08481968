"""Figures of the paper: rules of the claims, budgets, an interrupted run, and the recorded page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.paper import command, pages
from benchmarks.paper.budget_file import BUDGETS, PANELS, read_budget
from benchmarks.paper.claims import (
    BETTER,
    EQUAL,
    FAILS,
    HOLDS,
    OPEN,
    UNCLEAR,
    WORSE,
    Claim,
    compare,
    outperforms,
    reaches,
    stays_at,
    varies_more,
)
from benchmarks.paper.curve_panels import ABLATIONS
from benchmarks.paper.pong_panel import mean_scores, scores_by_game
from benchmarks.paper.sections import Panel, PanelOptions, Section, Table, Task
from benchmarks.paper.time_panel import GRADIENT_STEPS, Times, claim, jobs_of, settings_of
from sb3_matrl.common.registry import algorithm_spec

DOCS = Path("docs")
LOW, HIGH = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]


# ---------------------------------------------------------------------- rules


@pytest.mark.e2e
def test_methods_are_compared_by_the_probability_of_improvement() -> None:
    assert (compare(HIGH, LOW), compare(LOW, HIGH), compare(LOW, list(LOW))) == (BETTER, WORSE, EQUAL)
    assert compare([1.0, 8.0, 2.0, 7.0], [3.0, 4.0, 5.0, 6.0]) == UNCLEAR
    assert compare([5.0, 6.0], [1.0, 2.0]) == UNCLEAR  # too few runs for an interval


@pytest.mark.e2e
def test_claim_of_several_comparisons() -> None:
    assert outperforms("", HIGH, {"a": LOW, "b": LOW}).verdict == HOLDS
    assert outperforms("", HIGH, {"a": LOW, "b": [8.0, 5.0, 7.0, 6.0]}).verdict == OPEN
    found = outperforms("", HIGH, {"a": LOW, "b, c": HIGH})
    assert (found.verdict, found.reason) == (FAILS, 'Better than a; equal in every run to "b, c".')


def test_printed_returns() -> None:
    assert reaches("", HIGH, 6.6, is_whole=True).verdict == HOLDS
    assert reaches("", HIGH, 18.0, is_whole=True).verdict == FAILS
    assert reaches("", HIGH, 18.0, is_whole=False).verdict == OPEN
    assert stays_at("", HIGH, -2.0, is_whole=False).verdict == FAILS
    assert stays_at("", [-3.0, -1.0, -2.5], -2.0, is_whole=True).verdict == HOLDS


def test_ratio_of_variances_has_the_interval_of_the_f_distribution() -> None:
    found = varies_more("", [0.0, 20.0, 0.0, 20.0, 0.0, 20.0], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    # F(0.975; 5, 5) = 7.146 by the tables.
    assert (found.verdict, found.reason) == (HOLDS, f"Ratio of the variances 4e+02 [{400 / 7.146:.2g}, {400 * 7.146:.2g}].")
    assert varies_more("", LOW, list(LOW)).verdict == FAILS and varies_more("", LOW, HIGH).verdict == OPEN


def test_run_times_are_compared_with_the_printed_range() -> None:
    def verdict(matrl: list[float]) -> str:
        return claim({"a world": {"matrl": matrl, "ippo": [1.0, 1.0, 1.0], "il-la": [1.0, 1.0, 1.0]}}).verdict

    assert [verdict([1.0, 1.0, 1.12]), verdict([1.0, 1.05, 1.0]), verdict([1.3, 1.3, 1.4])] == [HOLDS, FAILS, FAILS]
    assert verdict([1.3, 1.3]) == OPEN


def test_scores_are_averages_over_both_roles() -> None:
    payoffs = np.random.default_rng(0).normal(size=(2, 4, 4))
    scores = mean_scores(payoffs)
    for i in range(4):
        for j in range(4):
            leads = [payoffs[0, i, j] - payoffs[1, i, j], payoffs[1, j, i] - payoffs[0, j, i]]
            assert scores[i, j] == pytest.approx(np.mean(leads) / 2)
    cells = [{"profile": [i, j], "batch": 0, "returns": [payoffs[:, i, j].tolist()]} for i in range(4) for j in range(4)]
    assert scores_by_game(cells, [0, 1], [2, 3]) == pytest.approx([scores[:2, 2:].mean()])


# ---------------------------------------------------------------------- budgets


@pytest.mark.parametrize("name", BUDGETS)
def test_shipped_budgets_have_all_panels(name: str) -> None:
    assert read_budget(name).keys() == PANELS.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fig4: {minutes: 1}", "panel 'fig4' is unknown; did you mean 'fig4"),
        ("table1: {minutes: 1, game: 3}", "table1: option 'game' is unknown; did you mean 'games'"),
        ("table1: {minutes: 1}", "table1: games missing"),
        ("table1: {minutes: 1, games: 1.5}", "games: expected a positive whole number, got 1.5"),
        ("fig5b: {minutes: 1, rounds: 1, robots: ant_2x4}", "robots: expected a list"),
    ],
)
def test_mistakes_in_a_budget_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_budget(str(path))


def test_methods_take_fifty_gradient_steps_in_the_run_times() -> None:
    for job in jobs_of(Times(minutes=1, rounds=1, agents=(2,), robots=("hopper_3x1",))):
        settings = settings_of(job)
        if "buffer_size" in settings.values:
            assert 20_000 // (settings.n_envs * settings["train_freq"]) * settings["gradient_steps"] == GRADIENT_STEPS
        else:
            rollout = settings.n_envs * settings["n_steps"]
            assert rollout == settings["batch_size"]
            responds = algorithm_spec(job.method).fixed.get("best_response", False)
            epochs = settings["n_epochs"] + (settings["br_n_epochs"] if responds else 0)
            assert 20_000 // rollout * epochs == GRADIENT_STEPS


# ---------------------------------------------------------------------- the command


@dataclass(frozen=True)
class _Options(PanelOptions):
    size: int


def _section(record: Any) -> Section:
    return Section(
        ["Some text."], [Table(["", "value"], [["a", str(record["value"])]])], claims=[Claim("It <is> so", HOLDS, "1.")]
    )


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two panels, of which the second one is interrupted at first; what was measured, and the words of the command."""
    state: dict[str, Any] = {"measured": [], "interrupt": True}

    def measure(task: Task) -> dict[str, Any]:
        state["measured"].append(task.folder.name)
        if task.folder.name == "second" and state["interrupt"]:
            raise KeyboardInterrupt
        return {"value": task.options.size}

    panels = {name: Panel(name, f"The {name}: title", _Options, measure, _section) for name in ("first", "second")}
    for module in ("budget_file", "command", "pages"):
        monkeypatch.setattr(f"benchmarks.paper.{module}.PANELS", panels)
    budget = tmp_path / "mine.yml"
    budget.write_text("first: {minutes: 1, size: 3}\nsecond: {minutes: 2, size: 4}\n", encoding="utf-8")
    return {**state, "state": state, "budget": budget, "words": ["--budget", str(budget), "--out", str(tmp_path / "out")]}


def test_interrupted_command_continues(
    started: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, state = tmp_path / "out", started["state"]
    assert command.main(started["words"]) == 130
    assert "panel 2 of 2, The second: title; 0 min so far" in capsys.readouterr().err
    assert "Panels that are not finished: second." in (out / "paper.md").read_text(encoding="utf-8")
    state["interrupt"] = False
    assert command.main(started["words"]) == 0 and state["measured"] == ["first", "second", "second"]
    assert command.main([*started["words"], "--list"]) == 0 and capsys.readouterr().out.count("; finished in") == 2
    record = json.loads((out / "paper.json").read_text(encoding="utf-8"))
    assert {name: panel["value"] for name, panel in record["panels"].items()} == {"first": 3, "second": 4}
    for page in ("paper.md", "paper.html"):
        text = (out / page).read_text(encoding="utf-8")
        assert "Of 2 claims, 2 hold, 0 do not hold, and 0 cannot be told." in text and "Some text." in text
        assert ("It &lt;is&gt; so" in text) == (page == "paper.html")


def test_results_of_other_options_are_kept(started: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    command.main([*started["words"], "--panels", "first"])
    started["budget"].write_text("first: {minutes: 1, size: 5}", encoding="utf-8")
    with pytest.raises(SystemExit):
        command.main(started["words"])
    assert "has other options (size was 3, now 5): choose another --out" in capsys.readouterr().err


# ---------------------------------------------------------------------- the recorded page


@pytest.mark.e2e
def test_documented_page_is_that_of_the_record() -> None:
    record = json.loads(Path("benchmarks/results/paper_small.json").read_text(encoding="utf-8"))
    page = (DOCS / "paper.md").read_text(encoding="utf-8")
    assert page == pages.markdown_page(record)
    images = re.findall(r"\]\((images/paper/[^)]+)\)", page)
    assert len(images) >= len(record["panels"]) and all((DOCS / image).is_file() for image in images)
    assert sorted(path.name for path in (DOCS / "images/paper").iterdir()) == sorted(Path(image).name for image in images)


def test_recorded_methods_took_equal_steps() -> None:
    record = json.loads(Path("benchmarks/results/paper_small.json").read_text(encoding="utf-8"))
    for panel in record["panels"].values():
        rows = {row["setting"]: row for row in panel.get("table", ())}
        assert len({row["env_steps"] for row in rows.values()}) <= 1
        for name in (*ABLATIONS, "ippo, 15 epochs") if rows else ():
            assert rows[name]["gradient_steps"] == rows["matrl"]["gradient_steps"]
