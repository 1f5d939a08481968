import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sb3_matrl.games import NormalFormGame, convergence, make_learner, named_game, random_games, run
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.games import build_parser, main, study_options
from sb3_matrl.zoo.studies.rotational_study import rotational
from sb3_matrl.zoo.studies.simplex import softmax_policies, support_equilibria
from sb3_matrl.zoo.studies.square import regions_along
from sb3_matrl.zoo.studies.study_options import RotationalOptions
from sb3_matrl.zoo.studies.table1_settings import SETTINGS
from sb3_matrl.zoo.studies.table1_study import Task, mean_interval, measure, share_interval


def record(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_table1_row_repeats_the_library_alone():
    setting = next(k for k, one in enumerate(SETTINGS) if one.label == "WoLF-IGA, 0.01 and 0.06")
    cell, row = measure(Task(setting, "normal", "cyclic", games=30, steps=500, seed=7))
    games = random_games("cyclic", 30, "normal", seed=7)
    steps = convergence(run(make_learner("wolf-iga"), games, (0.9, 0.2), 500), games)
    np.testing.assert_array_equal(cell.first_step, steps)
    assert row["converged"] == pytest.approx(100 * np.mean(steps >= 0))
    assert row["mean_step"] == pytest.approx(steps[steps >= 0].mean())
    assert cell.converged_by(np.array([50.0]))[0] == pytest.approx(100 * np.mean((steps >= 0) & (steps <= 50)))


@pytest.mark.expensive
def test_table1_command_writes_what_it_prints(tmp_path, capsys):
    assert main(["table1", "--games", "3", "--steps", "20", "--seed", "1", "--jobs", "2", "--out", str(tmp_path)]) == 0
    found = record(tmp_path, "table1")
    assert len(found["rows"]) == 6 * len(SETTINGS)
    assert found["machine"]["versions"]["numpy"] == np.__version__
    printed = capsys.readouterr().out
    row = next(r for r in found["rows"] if (r["learner"], r["kind"], r["generator"]) == ("MATRL", "cyclic", "normal"))
    line = [one for one in printed.splitlines() if one.startswith("| MATRL  ")][2]
    assert f"{row['converged']:.1f}" in line and "85 / 337" in line and "84.6 / 369.4" in line
    assert (tmp_path / "table1.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "table1.svg").read_bytes()[:2000]


def test_intervals_agree_with_the_normal_approximation():
    values = np.random.default_rng(0).normal(5.0, 2.0, size=1000)
    low, high = mean_interval(values)
    margin = 1.96 * values.std() / np.sqrt(1000)
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.02)
    hits = np.arange(1000) < 800
    assert share_interval(hits) == pytest.approx((80 - 2.48, 80 + 2.48), abs=0.25)
    assert mean_interval([]) is None


@pytest.mark.e2e
def test_rotational_steps_agree_with_the_independent_numbers():
    rows = rotational(RotationalOptions()).record["rows"]
    compared = [(row["steps"], row["independent"]) for row in rows if row["independent"] != "unknown"]
    assert len(compared) == 10
    assert all(steps == known for steps, known in compared)
    assert next(row for row in rows if row["learner"] == "gd")["diverges"]


def test_rotational_compares_with_the_independent_numbers_only_in_their_setting():
    rows = rotational(RotationalOptions(learning_rate=0.01, steps=20)).record["rows"]
    assert {row["independent"] for row in rows} == {"unknown"}


def test_predicted_regions_are_the_steps_of_the_learner():
    game, learner = named_game("matching_pennies"), make_learner("matrl", predicted_step=0.3)
    path = run(learner, game, (0.9, 0.2), 100)[:, 0]
    regions = regions_along(game, learner, path)
    assert len(regions) >= 2
    for region in regions:
        predicted = run(make_learner("iga", step_size=0.3), game, region.current, 1)[1, 0]
        np.testing.assert_allclose(region.predicted, predicted)
        mixture = run(replace(learner, best_response=False), game, region.current, 1)[1, 0]
        np.testing.assert_allclose(region.target, mixture)
        assert region.is_restricted == (not np.array_equal(mixture, predicted))


@pytest.mark.parametrize("game", ["rps", "shapley"])
def test_uniform_play_is_the_only_equilibrium_of_the_cyclic_3x3_games(game):
    (point,) = support_equilibria(named_game(game))
    np.testing.assert_allclose(point, np.full((2, 3), 1 / 3))


def test_support_enumeration_finds_all_seven_equilibria_of_three_action_coordination():
    found = support_equilibria(NormalFormGame(np.stack([np.diag([1.0, 2.0, 4.0])] * 2)))
    # On every support both players mix in inverse proportion to the payoffs.
    weights = 1 / np.array([1.0, 2.0, 4.0])
    supports = [s for s in np.ndindex(2, 2, 2) if any(s)]
    expected = [np.array(s) * weights / (np.array(s) * weights).sum() for s in supports]
    assert len(found) == 7
    for one in expected:
        assert any(np.allclose(point, [one, one]) for point in found)


def test_softmax_gradient_agrees_with_finite_differences():
    game = named_game("shapley")
    smooth, logits = softmax_policies(game, "shapley"), np.random.default_rng(1).normal(size=6)

    def payoffs(x):
        mixed = [np.exp(part) / np.exp(part).sum() for part in (x[:3], x[3:])]
        return game.expected_payoffs(mixed)

    slopes = [(payoffs(logits + e)[k // 3] - payoffs(logits - e)[k // 3]) / 2e-5 for k, e in enumerate(1e-5 * np.eye(6))]
    np.testing.assert_allclose(-smooth.gradient(logits), slopes, atol=1e-8)


@pytest.mark.e2e
@pytest.mark.parametrize(("game", "learner"), [("stag_hunt", "wolf-iga"), ("rps", "extragradient")])
def test_dynamics_command_records_where_a_learner_ends(tmp_path, capsys, game, learner):
    assert main(["dynamics", "--game", game, "--learners", learner, "--steps", "40", "--out", str(tmp_path)]) == 0
    found = record(tmp_path, f"dynamics_{game}")
    (row,) = found["rows"]
    final = np.array(row["final"])
    strategies = [np.array([p, 1 - p]) for p in final] if final.ndim == 1 else list(final)
    assert row["final_nash_conv"] == pytest.approx(float(named_game(game).nash_conv(strategies)))
    assert f"{row['final_distance']:.4f}" in capsys.readouterr().out


@pytest.mark.e2e
def test_degenerate_equilibria_are_recorded_as_segments(tmp_path):
    payoffs = "[[[1, 1], [0, 1]], [[1, 1], [1, 0]]]"
    assert main(["dynamics", "--payoffs", payoffs, "--learners", "iga", "--steps", "5", "--out", str(tmp_path)]) == 0
    found = record(tmp_path, "dynamics_own_game")
    game = NormalFormGame(found["payoffs"])
    assert any(lower != upper for lower, upper in found["equilibria"])
    for lower, upper in np.array(found["equilibria"]):
        for share in (0.0, 0.5, 1.0):
            strategies = [np.array([p, 1 - p]) for p in lower + share * (upper - lower)]
            assert game.nash_conv(strategies) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tabel1"], "command 'tabel1' is unknown; did you mean 'table1'?"),
        ([], "required: table1|rotational|dynamics"),
        (["table1", "--game", "3"], "flag --game is unknown; did you mean '--games'?"),
        (["table1", "--games", "0"], "at least 1"),
        (["dynamics", "--game", "chickn"], "game 'chickn' is unknown; did you mean 'chicken'?"),
        (["dynamics", "--learners", "matlr"], "learner 'matlr' is unknown; did you mean 'matrl'?"),
        (["dynamics", "--game", "rps", "--learners", "iga"], "learner 'iga' does not play differentiable games"),
        (["dynamics", "--start", "1.5", "0.5"], "start must lie in [0, 1]"),
        (["dynamics", "--game", "rps", "--start", "0.5", "0.5"], "six probabilities"),
        (["dynamics", "--predicted-step", "0"], "predicted_step must be a finite number above 0"),
        (["dynamics", "--game", "rps", "--learning-rate", "-1"], "learning_rate must be a finite number above 0"),
        (["dynamics", "--payoffs", "[[1, 2], [3, 4]]"], "payoffs must have shape"),
        (["dynamics", "--payoffs", "[[[1, .nan], [0, 1]], [[1, 0], [0, 1]]]"], "payoffs must be finite"),
        (["dynamics", "--payoffs", "[[[1, 2, 3], [0, 1, 2]], [[1, 0, 1], [0, 1, 2]]]"], "2 or 3 actions each"),
        (["dynamics", "--payoffs", "[[1, 2"], "--payoffs must be nested lists"),
        (["dynamics", "--game", "chicken", "--payoffs", "[]"], "not both"),
        (["rotational", "--learning-rate", "0"], "learning_rate must be a finite number above 0"),
        (["rotational", "--tolerance", "-1"], "tolerance must be a finite number above 0"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        main([*words, "--out", str(tmp_path)] if words else words)
    assert end.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and message in error[0]
    assert not list(tmp_path.iterdir())


def test_options_of_a_command_reach_its_study():
    given = build_parser().parse_strictly(["rotational", "--start", "2", "-1", "--seed", "4"])
    assert study_options(given) == RotationalOptions(start=(2.0, -1.0), seed=4)


def test_markdown_columns_line_up():
    lines = markdown(["a", "bb"], [["xyz", "1"], ["", "22222"]]).splitlines()
    assert lines == ["| a   |    bb |", "| --- | ----: |", "| xyz |     1 |", "|     | 22222 |"]


@pytest.mark.e2e
def test_games_start_without_what_only_trainings_need():
    script = (
        "import sys, sb3_matrl.zoo.games, sb3_matrl; "
        "assert not {'wandb', 'sb3_matrl.matrl', 'sb3_matrl.zoo.common.hyperparameters'} & set(sys.modules); "
        "from sb3_matrl import *; from sb3_matrl.matrl import MATRL as wanted; assert MATRL is wanted; "
        "assert set(sb3_matrl.__all__) <= set(dir(sb3_matrl)) and not hasattr(sb3_matrl, 'MATRLL')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
