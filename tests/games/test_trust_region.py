"""The trust-region variant: its step by hand, its contraction in closed form, and where its runs end."""

import numpy as np
import pytest

from sb3_matrl.games import (
    GENERATORS,
    KINDS,
    DifferentiableGame,
    NormalFormGame,
    differentiable_game,
    final_distance,
    make_learner,
    named_game,
    random_games,
    run,
    steps_to_tolerance,
)
from sb3_matrl.games.trust_region import TrustRegionMATRL, held_by_the_border, unit_field
from sb3_matrl.metagame import MetaGame, solve

START = (0.9, 0.2)


def test_unit_fields_have_gradients_and_slopes_of_at_most_one_and_reach_it() -> None:
    field = unit_field(NormalFormGame(np.random.default_rng(0).normal(size=(200, 2, 2, 2)), n_players=2).field())
    corners = [np.array(corner, dtype=float) for corner in np.ndindex(2, 2)]
    gradients = np.abs([field.gradient(corner) for corner in corners]).max(axis=0)
    np.testing.assert_allclose(np.maximum(gradients, np.abs(field.slope)), 1.0, rtol=1e-12)


def test_cyclic_games_are_zero_sum_rotations_in_their_units() -> None:
    slope = unit_field(random_games("cyclic", 100, "normal", seed=1).field()).slope
    np.testing.assert_allclose(np.abs(slope), 1.0)
    np.testing.assert_allclose(slope.sum(axis=1), 0.0, atol=1e-12)


@pytest.mark.parametrize("look_ahead", [0.5, 1.0, 1.5, 3.0])
def test_look_ahead_contracts_a_rotation_by_the_closed_form(look_ahead: float) -> None:
    learner = make_learner("matrl-tr", look_ahead=look_ahead, metagame=False)
    path = run(learner, named_game("matching_pennies"), (0.52, 0.49), 8)[:, 0] - 0.5
    radius = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(radius[1:] / radius[:-1], 1.0 / np.sqrt(1.0 + look_ahead**2), rtol=1e-9)


def test_the_best_response_step_contracts_a_rotation_the_most() -> None:
    steps = np.linspace(0.01, 1.0, 991)
    best = steps[np.argmin((1.0 - 1.5 * steps) ** 2 + steps**2)]
    assert TrustRegionMATRL(look_ahead=1.5).best_response_step == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("best_response", [True, False])
def test_a_step_equals_the_rule_by_hand(best_response: bool) -> None:
    # Gradients before units: 4 q - 1 and 1 - 2 p, units 3 (= |u_1 + c_1| < |u_1| = 4: 4) and 2 (= |u_2|).
    games = NormalFormGame([[[3, 0], [0, 1]], [[0, 1], [1, 0]]], n_players=2)
    p, q = 0.6, 0.3
    first, second = (4 * q - 1) / 4, (1 - 2 * p) / 2
    predicted = np.array([min(p + 1.5 * first, 1.0), max(q + 1.5 * second, 0.0)])

    def payoff(x: float, y: float) -> np.ndarray:
        return np.array([(4 * x * y - x - y + 1) / 4, (x + y - 2 * x * y) / 2])

    table = np.empty((2, 2, 2))
    for x, y in np.ndindex(2, 2):
        table[:, x, y] = payoff((p, predicted[0])[x], (q, predicted[1])[y]) - payoff(p, q)
    rho = solve(MetaGame.from_payoffs(table), "closed-form").rho
    mixed = rho * np.array([p, q]) + (1 - rho) * predicted
    step = 1.5 / 3.25
    answered = [p + step * (4 * mixed[1] - 1) / 4, q + step * (1 - 2 * mixed[0]) / 2]
    reached = run(make_learner("matrl-tr", best_response=best_response), games, (p, q), 1)[1, 0]
    np.testing.assert_allclose(reached, answered if best_response else mixed, atol=1e-12)


def test_the_metric_follows_the_player_who_moves_alone() -> None:
    before = np.array([[0.5, 0.0], [1.0, 0.5], [0.5, 0.5], [0.0, 1.0], [0.5, 0.3], [0.5, 0.0]])
    after = np.array([[0.4, 0.0], [1.0, 0.6], [0.4, 0.6], [0.0, 1.0], [0.4, 0.3], [0.4, 0.1]])
    assert held_by_the_border(before, after).tolist() == [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]


def test_alone_against_the_border_a_player_doubles_its_step() -> None:
    # The second player is held at 0; the first one's gradient there is always -0.01.
    games = NormalFormGame([[[0.99, -0.01], [0, 0]], [[0, 1], [1, 0]]], n_players=2)
    path = run(make_learner("matrl-tr"), games, (0.95, 0.0), 5)[:, 0]
    assert (path[:, 1] == 0.0).all()
    np.testing.assert_allclose(np.diff(path[:, 0]), -0.01 * 1.5 / 3.25 * 2.0 ** np.arange(5), rtol=1e-9)


@pytest.mark.parametrize("factors", [(1e-6, 1.0), (50.0, 1e4)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_of_the_payoffs_does_not_matter(kind: str, factors: tuple[float, float]) -> None:
    games = random_games(kind, 20, seed=2)
    scaled = NormalFormGame(games.payoffs * np.array(factors)[:, None, None], n_players=2)
    paths = [run(make_learner("matrl-tr"), batch, START, 15) for batch in (games, scaled)]
    np.testing.assert_allclose(paths[1], paths[0], atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("generator", GENERATORS)
def test_every_run_ends_at_an_equilibrium(kind: str, generator: str) -> None:
    games = random_games(kind, 300, generator, seed=3)
    assert final_distance(run(make_learner("matrl-tr"), games, START, 250), games).max() < 0.01


def test_runs_from_anywhere_end_at_an_equilibrium_of_games_with_ties() -> None:
    rng = np.random.default_rng(4)
    games = NormalFormGame(rng.integers(-1, 2, size=(300, 2, 2, 2)), n_players=2)
    assert final_distance(run(make_learner("matrl-tr"), games, rng.random((300, 2)), 200), games).max() < 0.01


def test_without_the_metagame_coordination_fails_and_without_the_best_response_cycles_stay() -> None:
    coordination, cyclic = (random_games(kind, 300, seed=3) for kind in ("coordination", "cyclic"))
    alone = run(make_learner("matrl-tr", metagame=False), coordination, START, 250)
    assert (final_distance(alone, coordination) > 0.01).mean() > 0.01
    mixed = run(make_learner("matrl-tr", best_response=False), cyclic, START, 250)
    assert (final_distance(mixed, cyclic) > 0.01).mean() > 0.5


def test_balance_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"balance must be at least 1, got 0\.5"):
        make_learner("matrl-tr", balance=0.5)


def test_measured_steps_of_the_rotational_game_are_those_of_its_lipschitz_constant() -> None:
    # xi = H w with H^T H = 101: L = sqrt(101) everywhere; the first candidate is short enough to be taken as it is.
    learner = make_learner("matrl-tr", DifferentiableGame)
    start = np.array([1.0, 1.0])
    dynamics = learner.start(differentiable_game("rotational"), start)
    reached = dynamics.step(start)
    assert dynamics.predicted_step == pytest.approx(0.02)
    np.testing.assert_allclose(reached, start - 0.02 / 3.25 * np.array([11 - 0.02 * 10 * -9, -9 + 0.02 * 10 * 11]))
    dynamics.step(reached)
    assert dynamics.predicted_step == pytest.approx(1.5 / np.sqrt(101))


def test_backtracking_takes_no_step_beyond_the_trust_region() -> None:
    # One player, L = w^4 / 4: from 10 the first candidate 0.02 predicts -10, where the mean L is 100.
    game = DifferentiableGame((1,), lambda w: [w[0][0] ** 4 / 4], lambda w: [[w[0][0] ** 3]], lambda w: [[3 * w[0][0] ** 2]])
    w = np.array([10.0])
    dynamics = make_learner("matrl-tr", DifferentiableGame).start(game, w)
    for _ in range(5):
        gradient = game.gradient(w)
        following = dynamics.step(w)
        tau = dynamics.predicted_step
        change = abs(game.gradient(w - tau * gradient) - gradient).item()
        assert change <= 1.1 * 1.5 * abs(gradient.item())
        assert 0.0 < following.item() < w.item()
        w = following


def test_a_fixed_point_is_kept_however_long_the_run() -> None:
    path = run(make_learner("matrl-tr", DifferentiableGame), differentiable_game("hamiltonian"), [1.0, -1.0], 400)
    np.testing.assert_array_equal(path, np.tile([1.0, -1.0], (401, 1)))


@pytest.mark.parametrize("switch", ["metagame", "best_response"])
def test_the_rotational_game_needs_the_best_response_but_not_the_metagame(switch: str) -> None:
    path = run(make_learner("matrl-tr", DifferentiableGame, **{switch: False}), differentiable_game("rotational"), [1, 1], 100)
    assert (steps_to_tolerance(path) is None) == (switch == "best_response")
