"""``print(model.report)`` is a table for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_matrl import MATRL
from sb3_matrl.matrl.metagame_report import MetaGameReport

ARGUMENTS: dict[str, Any] = {"n_steps": 20, "batch_size": 20, "n_epochs": 1, "seed": 0, "device": "cpu"}


def report_of(**changes: Any) -> MetaGameReport:
    model = MATRL("MlpPolicy", "switch_v0", env_kwargs={"n_agents": 3}, **{**ARGUMENTS, **changes}).learn(20)
    assert model.report is not None
    return model.report


@pytest.fixture(scope="module")
def report() -> MetaGameReport:
    return report_of()


def test_every_player_has_a_line_with_its_numbers(report: MetaGameReport) -> None:
    lines = str(report).split("\n")
    (head,) = (line for line in lines if line.startswith("player"))
    rows = {line.split()[0]: line for line in lines if line.startswith("agent_")}
    assert list(rows) == list(report.agents)
    assert {len(row) for row in rows.values()} == {len(head)}
    for i, row in enumerate(rows.values()):
        rho, current, predicted, kl_predicted, kl_next, *shares = row.split()[1:]
        assert float(rho) == pytest.approx(report.rho[i], abs=5e-4)
        numbers = report.current_payoffs[i], report.predicted_payoffs[i], report.kl_predicted[i], report.kl_next[i]
        given = [float(text) for text in (current, predicted, kl_predicted, kl_next)]
        np.testing.assert_allclose(given, numbers, rtol=5e-3, atol=1e-12)
        expected = report.clip_fraction[i], report.weight_clip_fraction[i], report.effective_sample_size[i]
        assert shares == [f"{share:.0%}" for share in expected]
    assert all(len(line) < 120 for line in lines) and len(lines) < 15
    assert "predict 0." in str(report) and "array(" not in str(report)


def test_first_line_says_what_the_game_decided(report: MetaGameReport) -> None:
    held = [agent for agent, rho in zip(report.agents, report.rho, strict=True) if rho > 1e-3]
    first, second, *_ = str(report).split("\n")
    assert first.startswith("Meta-game of 3 players: the game restricts ")
    assert (", ".join(held) if held else "nobody (rho = 0)") in first
    assert f"found by {report.method}, NashConv " in second and second.endswith(f"fixed point {report.fixed_point}.")
    off = str(report_of(metagame=False)).split("\n")[0]
    assert off == "Meta-game switched off: all 3 players take their predicted policies (rho = 0)."


def test_more_strategies_have_columns_of_their_own() -> None:
    report = report_of(strategies=("current", "predicted", "optimistic"))
    head, *rows = (line for line in str(report).split("\n") if line.startswith(("player", "agent_")))
    titles = [title for title in head.split("  ") if title]
    assert [title.strip() for title in titles][:9] == [
        "player", "rho", "weight predicted", "weight optimistic", "current", "predicted", "optimistic", "KL predicted",
        "KL optimistic",
    ]  # fmt: skip
    for i, row in enumerate(rows):
        weights = [float(text) for text in row.split()[1:4]]
        np.testing.assert_allclose(weights, report.sigma[i], atol=6e-4)
