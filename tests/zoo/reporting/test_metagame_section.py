"""Charts and table of meta-games with two and with more strategies, against sums over the rows of a log."""

from dataclasses import replace

import numpy as np
import pytest

from sb3_matrl.zoo.reporting.metagame_section import metagames, strategy_table
from sb3_matrl.zoo.reporting.run_loading import Progress, load_run
from sb3_matrl.zoo.reporting.verdict import verdict
from tests.zoo.reporting.pages import AGENTS, Page, report, synthetic_run

ROWS = 6


def log(strategies, equilibria=1):
    """Log of two agents with random numbers of the strategies; every second row is that of an evaluation."""
    generator = np.random.default_rng(0)
    table = {"metagame/n_equilibria": np.full(ROWS, equilibria)}
    for agent in AGENTS:
        weights = generator.dirichlet(np.ones(len(strategies)), ROWS)
        weights[0], weights[1] = np.eye(len(strategies))[[0, -1]]
        table[f"{agent}/metagame/rho"] = weights[:, 0]
        for k, name in enumerate(strategies):
            table[f"{agent}/metagame/{name}_payoffs"] = generator.normal(size=ROWS)
            if len(strategies) > 2:
                table[f"{agent}/metagame/sigma_{name}"] = weights[:, k]
            if k > 0:
                table[f"{agent}/metagame/kl_{name}"] = generator.random(ROWS)
        table[f"{agent}/metagame/kl_next"] = generator.random(ROWS)
    spread = {"time/total_timesteps": 100.0 * np.arange(1, 2 * ROWS + 1)}
    for key, column in table.items():
        spread[key] = np.full(2 * ROWS, np.nan)
        spread[key][::2] = column
    return Progress(spread, [], 0)


def mean(progress, key):
    columns = [progress.numbers[f"{agent}/metagame/{key}"] for agent in AGENTS]
    return sum(column[row] for column in columns for row in range(0, 2 * ROWS, 2)) / (2 * ROWS)


def test_table_has_the_means_of_every_strategy():
    names = ("current", "predicted", "optimistic", "cautious")
    progress = log(names)
    rows = {row.name: row for row in strategy_table(progress)}
    assert list(rows) == ["current", "predicted", "cautious", "optimistic"]
    for name, row in rows.items():
        assert row.weight == pytest.approx(mean(progress, f"sigma_{name}"))
        assert row.payoff == pytest.approx(mean(progress, f"{name}_payoffs"))
        expected = np.nan if name == "current" else mean(progress, f"kl_{name}")
        assert row.divergence == pytest.approx(expected, nan_ok=True)
    # Row 0 is all for the current policy and row 1 for the last one; the others give weight to all.
    assert [rows[name].used * ROWS for name in names] == pytest.approx([5, 4, 4, 5])
    shown = ", ".join(f"{name} {rows[name].weight:.2f}" for name in rows)
    assert verdict(progress)[1] == f"Mean weights of the strategies: {shown}."


def test_two_strategies_share_their_weight():
    progress = log(("current", "predicted"))
    current, predicted = strategy_table(progress)
    assert current.weight == pytest.approx(mean(progress, "rho")) and current.weight + predicted.weight == pytest.approx(1.0)
    assert strategy_table(log(("current", "predicted"), equilibria=-1)) == []


def charts_of(tmp_path, strategies):
    run = load_run(synthetic_run(tmp_path / "run"), "run")
    (group,) = metagames([replace(run, progress=log(strategies))])
    return {chart.title: [entry.label for entry in chart.legend] for chart in group.charts}


def test_every_strategy_has_its_curves(tmp_path):
    charts = charts_of(tmp_path, ("current", "predicted", "optimistic"))
    assert [title for title in charts if title.startswith("Weight")] == [
        f"Weight on the {name} policy" for name in ("current", "predicted", "optimistic")
    ]
    assert charts["Payoffs"] == [f"{agent}, {name}" for name in ("current", "predicted", "optimistic") for agent in AGENTS]
    assert charts["KL divergence"] == [f"{agent}, {name}" for name in ("predicted", "optimistic", "next") for agent in AGENTS]


@pytest.mark.e2e
def test_more_strategies_than_dash_patterns_have_charts_of_their_own(tmp_path):
    charts = charts_of(tmp_path, ("current", "predicted", "optimistic", "cautious"))
    titles = [title for title in charts if title.startswith(("Payoffs", "KL"))]
    names = ("current", "predicted", "cautious", "optimistic")
    assert titles[:4] == [f"Payoffs of the {name} policy" for name in names]
    assert titles[4:] == [f"KL divergence of the {name} policy" for name in (*names[1:], "next")]
    assert charts["Payoffs of the cautious policy"] == list(AGENTS)


def test_page_has_the_table(tmp_path):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    report(run, "--no-frames")
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.words).split())
    # rho of left is 0 and that of right 0.6 in all rows; payoffs of the current policy are 0.2 and 0.8.
    assert "current 0.30 100% 0.5 \N{EN DASH} predicted 0.70 100%" in words
