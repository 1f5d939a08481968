import numpy as np

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.zoo.training.curves import ascii_curve, draw_curve


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
