import numpy as np

from sb3_matrl.evaluation import EvaluationResult
from zoo.curves import ascii_curve, draw_curve
from zoo.tables import returns_table


def result(returns, agents=("a", "b")):
    returns = np.asarray(returns, dtype=float)
    shares = np.stack([returns * 0.25, returns * 0.75], axis=1)
    return EvaluationResult(agents, returns, shares, np.full(len(returns), 7))


def test_ascii_curve_puts_marks_where_the_values_are():
    lines = ascii_curve([0, 50, 100], sampled=[0.0, 1.0, 2.0], greedy=[2.0, 2.0, 2.0], width=11, height=3).split("\n")
    assert lines == [
        "      2.00 |o    o    *",
        "           |     *     ",
        "      0.00 |*          ",
        "           +-----------",
        "            0       100",
        "            team return over steps: * sampled, o greedy",
    ]


def test_ascii_curve_of_constant_values_and_of_one_point():
    assert "*" in ascii_curve([5], [1.0], [1.0])
    assert ascii_curve([5, 6], [1.0, 1.0], [1.0, 1.0]).count("*") == 3


def test_picture_is_a_png(tmp_path):
    draw_curve(tmp_path / "curve.png", "title", [1, 2], [result([1, 2]), result([2, 3])], [result([1, 1]), result([4, 4])])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_table_of_returns():
    lines = returns_table({"sampled": result([1.0, 2.0, 3.0])}, per_agent=True).split("\n")
    assert [line.split() for line in lines] == [
        ["policy", "return", "of", "mean", "std", "95", "%", "interval", "length", "episodes"],
        ["sampled", "team", "2.00", "0.82", "[-0.48,", "4.48]", "7.0", "3"],
        ["sampled", "a", "0.50", "0.20", "[-0.12,", "1.12]", "7.0", "3"],
        ["sampled", "b", "1.50", "0.61", "[-0.36,", "3.36]", "7.0", "3"],
    ]
    assert len(returns_table({"sampled": result([1.0]), "greedy": result([2.0])}).split("\n")) == 3
