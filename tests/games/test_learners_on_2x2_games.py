import numpy as np
import pytest

from sb3_matrl.games import (
    KINDS,
    LEARNERS,
    DifferentiableGame,
    NormalFormGame,
    both_actions,
    convergence,
    differentiable_game,
    final_distance,
    learner_names,
    make_learner,
    named_game,
    random_games,
    run,
)
from sb3_matrl.games.exact_metagames import square_metagame_payoffs
from sb3_matrl.metagame import MetaGame, solve, solve_two_agents

START = (0.9, 0.2)


def test_a_step_of_iga_equals_finite_differences_of_the_payoffs():
    games = random_games("cyclic", 20, "normal")
    x = np.random.default_rng(0).uniform(0.3, 0.7, size=(20, 2))
    moved = run(make_learner("iga", step_size=0.01), games, x, 1)[1] - x
    for player, unit in enumerate(1e-3 * np.eye(2)):
        high, low = (games.expected_payoffs(both_actions(x + sign * unit))[:, player] for sign in (1, -1))
        np.testing.assert_allclose(moved[:, player], 0.01 * (high - low) / 2e-3, atol=1e-10)


def test_metagame_payoffs_equal_eq_3_summed_by_hand():
    games = random_games("anticoordination", 10)
    current, predicted = np.random.default_rng(1).random((2, 10, 2))
    payoffs = square_metagame_payoffs(games.field(), current, predicted)
    for b, table in enumerate(games.payoffs):
        value = games[b].expected_payoffs(both_actions(current[b]))
        for x in np.ndindex(2, 2):
            p, q = (predicted[b, i] if x[i] else current[b, i] for i in range(2))
            joint = np.outer([p, 1 - p], [q, 1 - q])
            for i in range(2):
                advantage = table[i] - value[i]
                assert payoffs[(b, i, *x)] == pytest.approx(sum(joint[a] * advantage[a] for a in np.ndindex(2, 2)), abs=1e-12)
    assert (payoffs[:, :, 0, 0] == 0.0).all()


def test_the_batched_solver_returns_equilibria_of_the_single_one():
    rng = np.random.default_rng(2)
    tables = np.concatenate([rng.normal(size=(30, 2, 2, 2)), rng.integers(-1, 2, size=(30, 2, 2, 2))])
    for table, rho in zip(tables, solve_two_agents(tables, rng), strict=True):
        found = solve(MetaGame.from_payoffs(table), "closed-form").equilibria
        mixing = ((found > 0) & (found < 1)).sum(axis=1)
        assert any(np.array_equal(rho, point) for point in found[mixing == mixing.min()])


@pytest.mark.parametrize("name", learner_names(NormalFormGame))
@pytest.mark.parametrize("game", ["coordination", "chicken", "matching_pennies", "prisoners_dilemma"])
def test_equilibria_are_fixed_points(name, game):
    games = named_game(game)
    equilibria = games.equilibria()
    for point in equilibria.lower[equilibria.valid]:
        np.testing.assert_allclose(run(make_learner(name), games, point, 5)[-1, 0], point, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_il_la_is_iga_pp_with_the_same_steps(kind):
    games = random_games(kind, 20)
    same = make_learner("iga-pp", step_size=0.03, forecast_step=0.02, project_forecast=True)
    np.testing.assert_array_equal(run(make_learner("il-la"), games, START, 50), run(same, games, START, 50))


@pytest.mark.parametrize("name", learner_names(NormalFormGame))
def test_a_learner_can_be_reused_and_repeats_itself(name):
    games, learner = random_games("coordination", 10), make_learner(name)
    np.testing.assert_array_equal(run(learner, games, START, 20), run(learner, games, START, 20))


@pytest.mark.parametrize("name", ["iga", "matrl"])
def test_convergence_in_the_paper_setting_agrees_with_the_independent_numbers(name):
    games = random_games("anticoordination", 200)
    steps = convergence(run(make_learner(name), games, START, 500), games)
    assert (steps >= 0).mean() > 0.92
    assert steps[steps >= 0].mean() == pytest.approx({"iga": 97, "matrl": 69}[name], abs=25)


@pytest.mark.expensive
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("iga", [(98.8, 128), (97.5, 97), (76, 444)]),
        ("wolf-iga", [(99.4, 70), (98.7, 48), (95.3, 164)]),
        ("matrl", [(99.2, 88), (98.3, 69), (85, 337)]),
    ],
)
def test_table_1_agrees_with_the_independent_numbers(name, expected):
    for kind, (rate, step) in zip(KINDS, expected, strict=True):
        games = random_games(kind, 1000)
        steps = convergence(run(make_learner(name), games, START, 1000), games)
        assert 100 * (steps >= 0).mean() == pytest.approx(rate, abs=4)
        assert steps[steps >= 0].mean() == pytest.approx(step, abs=20)


def test_convergence_is_the_first_step_within_the_tolerance():
    games = random_games("coordination", 2)
    path = np.array([[[0.5, 0.0], [0.9, 0.2]], [[0.04, 0.0], [0.9, 0.2]], [[0.0, 0.0], [0.9, 0.2]]])
    steps = convergence(path, games, tolerance=0.0)
    assert steps.tolist() == [2, -1]
    assert final_distance(path, games)[0] == 0.0


@pytest.mark.parametrize("start", [(1.2, 0.5), (-0.1, 0.5), (np.nan, 0.5)])
def test_a_start_outside_the_square_is_rejected(start):
    with pytest.raises(ValueError, match=r"start must lie in \[0, 1\]"):
        run(make_learner("iga"), named_game("chicken"), start, 1)


def test_a_start_of_the_wrong_shape_is_rejected():
    with pytest.raises(ValueError, match=r"start must have shape \(2,\) or \(1, 2\)"):
        run(make_learner("iga"), named_game("chicken"), (0.5, 0.5, 0.5), 1)


@pytest.mark.parametrize("value", [0, -0.1, np.nan, "a"])
@pytest.mark.parametrize(("name", "option"), [("iga", "step_size"), ("matrl", "predicted_step"), ("matrl-tr", "look_ahead")])
def test_step_sizes_must_be_positive(name, option, value):
    with pytest.raises(ValueError, match=f"{option} must be a finite number above 0, got"):
        make_learner(name, **{option: value})


def test_unknown_names_are_rejected_with_the_nearest():
    with pytest.raises(ValueError, match="learner 'wolf-igaa' is unknown; did you mean 'wolf-iga'"):
        make_learner("wolf-igaa")
    with pytest.raises(ValueError, match="option of 'iga' 'stepsize' is unknown; did you mean 'step_size'"):
        make_learner("iga", stepsize=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_learners_of_both_kinds_of_games_are_the_known_ones_on_2x2_games(kind):
    games = random_games(kind, 20)
    np.testing.assert_array_equal(run(make_learner("gd"), games, START, 50), run(make_learner("iga"), games, START, 50))
    projected = make_learner("iga-pp", step_size=0.05, forecast_step=0.5, project_forecast=True)
    extragradient = make_learner("extragradient", learning_rate=0.05, look_ahead=0.5)
    np.testing.assert_array_equal(run(extragradient, games, START, 50), run(projected, games, START, 50))


def test_optimistic_gradient_on_2x2_games_by_hand():
    def gradient(x):
        return np.array([4 * x[1] - 2, 2 - 4 * x[0]])

    first = np.array([0.6, 0.3]) + 0.1 * gradient([0.6, 0.3])
    second = np.clip(first + 0.1 * (2 * gradient(first) - gradient([0.6, 0.3])), 0.0, 1.0)
    path = run(make_learner("optimistic", learning_rate=0.1), named_game("matching_pennies"), (0.6, 0.3), 2)[:, 0]
    np.testing.assert_allclose(path[1:], [first, second])


def test_every_learner_plays_the_games_of_its_entry_and_no_others():
    games = {NormalFormGame: (named_game("chicken"), START), DifferentiableGame: (differentiable_game("tandem"), (1.0, 0.5))}
    for name, entry in LEARNERS.items():
        for kind, (game, start) in games.items():
            if kind in entry.plays:
                assert np.isfinite(run(make_learner(name, kind), game, start, 3)).all()
            else:
                with pytest.raises(ValueError, match=f"learner '{name}' does not play .* games; these do: "):
                    make_learner(name, kind)
                with pytest.raises(ValueError, match=f"does not play a {kind.__name__}"):
                    run(make_learner(name), game, start, 3)


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_steps_must_be_a_whole_number(steps):
    for game in (named_game("chicken"), differentiable_game("tandem")):
        with pytest.raises(ValueError, match="steps must be an integer of at least 0"):
            run(make_learner("gd"), game, (0.5, 0.5), steps)


def test_free_forecast_differs_from_the_projected_one_only_beyond_the_border():
    games = random_games("cyclic", 50, seed=3)
    inside = np.random.default_rng(0).uniform(0.2, 0.8, size=(50, 2))
    projected, free = make_learner("iga-pp", project_forecast=True), make_learner("iga-pp")
    np.testing.assert_array_equal(run(projected, games, inside, 1), run(free, games, inside, 1))
    # Both at the border, the gradient pointing outward for player 1: its forecast 0 + 0.01 * -2 moves player 2's gradient.
    pennies = named_game("matching_pennies")
    step = run(free, pennies, (0.0, 0.25), 1)[1, 0]
    gradient = -4 * (0.0 + 0.01 * (4 * 0.25 - 2)) + 2
    assert step[1] == pytest.approx(0.25 + 0.02 * gradient)
    assert run(projected, pennies, (0.0, 0.25), 1)[1, 0, 1] == pytest.approx(0.25 + 0.02 * 2)
