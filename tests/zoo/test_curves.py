import numpy as np
import pytest
from matplotlib.figure import Figure

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.zoo.training.curves import LearningCurve, text_plot


def result(agent_returns):
    returns = np.asarray(agent_returns, dtype=float)
    return EvaluationResult(("a", "b"), returns.sum(axis=1), returns, np.full(len(returns), 7))


TEAM = LearningCurve([1, 2], [result([[1, 0], [2, 0]]), result([[2, 1], [3, 1]])], [result([[1, 1]]), result([[4, 1]])])
GAME = LearningCurve([1, 2], [result([[1, -1], [-2, 2]]), result([[2, -2]])], [result([[1, -1]]), result([[3, -3]])])


@pytest.fixture
def drawn(monkeypatch):
    """Figures that are saved."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *rest, **more: figures.append(self) or save(self, *rest, **more))
    return figures


def test_marks_are_where_the_values_are():
    curves = {"sampled": [0.0, 1.0, 2.0], "greedy": [2.0, 2.0, 2.0]}
    assert text_plot([0, 50, 100], curves, "team return", {}, width=11, height=3).split("\n") == [
        "      2.00 |o    o    *",
        "           |     *",
        "      0.00 |*",
        "           +-----------",
        "            0       100",
        "            team return over steps: * sampled, o greedy",
    ]


def test_levels_are_lines_with_names_and_the_axis_holds_them():
    text = text_plot([0, 10], {"sampled": [1.0, 2.0]}, "team return", {"chance": 0.0, "optimum": 4.0}, width=5, height=5)
    assert text.split("\n") == [
        "      4.00 |----- optimum",
        "           |",
        "           |    *",
        "           |*",
        "      0.00 |----- chance",
        "           +-----",
        "            0  10",
        "            team return over steps: * sampled, - chance 0.00, - optimum 4.00",
    ]


def test_constant_values_and_a_single_point_are_drawn():
    assert "*" in text_plot([5], {"a": [1.0]}, "x", {})
    assert text_plot([5, 6], {"a": [1.0, 1.0], "b": [1.0, 1.0]}, "x", {}).split("over steps")[0].count("*") == 2


def test_text_shows_the_team_or_the_agents_that_compete():
    assert TEAM.text().endswith("team return over steps: * sampled, o greedy")
    assert GAME.text().endswith("sampled return over steps: * a, o b")
    lines = LearningCurve(TEAM.steps, TEAM.sampled, TEAM.greedy, {"chance": 0.0}).text().split("\n")
    assert lines[11].startswith("      0.00 |---") and lines[11].endswith("chance")


def game(agents):
    """Two evaluations of agents whose returns add up to 0, up to rounding."""
    returns = np.random.default_rng(0).normal(size=(2, 3, len(agents)))
    returns[..., -1] = 1e-9 * np.arange(3) - returns[..., :-1].sum(axis=2)
    kinds = [EvaluationResult(tuple(agents), one.sum(axis=1), one, np.full(3, 7)) for one in returns]
    return LearningCurve([10, 20], kinds, kinds[::-1])


def test_all_evaluations_of_a_constant_sum_are_equally_good():
    curve = game("abc")
    assert curve.competes and curve.best_steps == 20
    assert LearningCurve(curve.steps, curve.greedy, curve.sampled).best_steps == 20


def test_names_of_agents_are_shown_as_they_are(tmp_path, drawn):
    game([r"$\no$", "_a_"]).draw(tmp_path / "curve.png", r"$\title$")
    shown = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert shown == [r"$\no$, sampled", "_a_, sampled", r"$\no$, greedy", "_a_, greedy"]


@pytest.mark.parametrize(("agents", "entries"), [(8, 16), (9, 2)])
def test_picture_of_many_agents_has_room_for_the_curves(tmp_path, drawn, agents, entries):
    curve = game([f"agent {i}" for i in range(agents)])
    curve.draw(tmp_path / "curve.png", "title")
    (figure,) = drawn
    (axes,), (legend,) = figure.axes, figure.legends
    assert len(legend.get_texts()) == len(axes.get_lines()) == entries
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0 and axes.get_window_extent().height > 250
    if entries == 2:
        means = [one.agent_returns.mean(axis=0) for one in curve.sampled]
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.min() == pytest.approx(np.min(means)) and band.max() == pytest.approx(np.max(means))


def test_best_evaluation_is_the_latest_of_equally_good_ones():
    kinds = [result([[2, 0]]), result([[3, 1]]), result([[4, 0]]), result([[1, 0]])]
    assert LearningCurve([10, 20, 30, 40], kinds, kinds).best_steps == 30


@pytest.mark.cases(quick=["curve1-labels1"])
@pytest.mark.parametrize(
    ("curve", "labels"),
    [
        (TEAM, ["sampled", "greedy"]),
        (LearningCurve(TEAM.steps, TEAM.sampled, TEAM.greedy, {"chance": -1.0, "optimum": 9.0}),
         ["sampled", "greedy", "chance, -1.00", "optimum, 9.00"]),
        (GAME, ["a, sampled", "b, sampled", "a, greedy", "b, greedy"]),
    ],
)  # fmt: skip
def test_picture_has_the_values_and_is_a_png(tmp_path, drawn, curve, labels):
    curve.draw(tmp_path / "curve.png", "title")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(lines) == labels
    if curve is GAME:
        np.testing.assert_allclose(lines["b, sampled"], [0.5, -2.0])
        np.testing.assert_allclose(lines["a, greedy"], [1.0, 3.0])
    else:
        np.testing.assert_allclose(lines["sampled"], [1.5, 3.5])
