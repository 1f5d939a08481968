"""Solvers of games with more than two strategies per agent."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sb3_matrl.metagame import SELECTIONS, MetaGame, solve
from sb3_matrl.metagame.homotopy import trace
from sb3_matrl.metagame.strategy_equations import SimplexMap, _SimplexPath, trace_strategies
from sb3_matrl.metagame.strategy_samples import StrategySamples
from sb3_matrl.metagame.strategy_table import StrategyTable
from sb3_matrl.metagame.tangent import from_tangent, one_hot, to_tangent
from tests.metagame.reference import KINDS, random_game, random_samples, slow_nash_conv, slow_payoffs

# Row player first.
ROCK_PAPER_SCISSORS = np.array([[[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]], dtype=float)
SHAPLEY = np.array([[[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]], dtype=float)
COORDINATION = np.array([np.diag([1.0, 3.0, 2.0])] * 2)
METHODS = ("auto", "support", "best-response", "cmaes")


def as_set(points):
    return {tuple(np.round(point, 6).ravel()) for point in points}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 3), (3, 3), (4, 3), (2, 4), (3, 4), (2, 6)])
def test_random_games_are_solved(kind, n, k):
    rng = np.random.default_rng([KINDS.index(kind), n, k])
    for _ in range(2):
        game = random_game(kind, n, rng, k)
        for method in ("auto", "best-response"):
            solution = solve(game, method, rng=rng)
            assert solution.nash_conv <= 1e-6 * game.scale
            assert solution.sigma.shape == (n, k)
            np.testing.assert_array_equal(solution.rho, solution.sigma[:, 0])


@pytest.mark.expensive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(2, 3), (3, 3), (4, 3), (2, 5)])
def test_auto_solves_two_hundred_random_games(kind, n, k):
    rng = np.random.default_rng([KINDS.index(kind), n, k])
    games = [random_game(kind, n, rng, k) for _ in range(200)]
    assert all(solve(game, rng=rng).nash_conv <= 1e-6 * game.scale for game in games)


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_points_of_random_games_are_equilibria_by_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    game = random_game("normal", 3, rng, 3)
    solution, table = solve(game, rng=rng), game.payoffs()
    assert len(solution.equilibria) > 0
    for point in (solution.sigma, *solution.equilibria):
        assert slow_nash_conv(table, point) <= 1e-7
    assert solution.nash_conv == pytest.approx(slow_nash_conv(table, solution.sigma), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("table", [SHAPLEY, ROCK_PAPER_SCISSORS], ids=["shapley", "rock-paper-scissors"])
def test_games_with_one_mixed_equilibrium(method, table):
    solution = solve(MetaGame.from_payoffs(1e-3 * table), method)
    np.testing.assert_allclose(solution.sigma, 1.0 / 3.0, atol=1e-6)
    assert solution.equilibria.shape == (1, 2, 3)


def test_rock_paper_scissors_without_scissors_for_one_agent():
    # A strategy that loses more than all others stands for one that is missing.
    table = ROCK_PAPER_SCISSORS.copy()
    table[0, 2] = -5.0
    solution = solve(MetaGame.from_payoffs(table))
    value = table[0][:2] @ solution.sigma[1]
    assert solution.sigma[0, 2] == 0.0
    np.testing.assert_allclose(solution.sigma, [[1 / 3, 2 / 3, 0.0], [0.0, 2 / 3, 1 / 3]], atol=1e-9)
    np.testing.assert_allclose(value, -1 / 3, atol=1e-9)


def test_coordination_has_three_pure_equilibria_and_selection_decides():
    game = MetaGame.from_payoffs(COORDINATION)
    solution = solve(game, selection="welfare")
    assert as_set(solution.equilibria) == as_set(one_hot(np.array([[0, 0], [1, 1], [2, 2]]), 3))
    assert solution.n_pure == 3
    np.testing.assert_array_equal(solution.sigma, game.pure_profile(1))
    # Progress: least weight on current, then welfare.
    np.testing.assert_array_equal(solve(game, selection="progress").sigma, game.pure_profile(1))
    drawn = {tuple(solve(game, rng=np.random.default_rng(seed)).sigma.ravel()) for seed in range(30)}
    assert len(drawn) == 3


def test_progress_prefers_leaving_current_to_welfare():
    game = MetaGame.from_payoffs(np.array([np.diag([3.0, 1.0, 2.0])] * 2))
    np.testing.assert_array_equal(solve(game, selection="welfare").sigma, game.pure_profile(0))
    np.testing.assert_array_equal(solve(game, selection="progress").sigma, game.pure_profile(2))


@pytest.mark.parametrize(("n", "k"), [(2, 3), (3, 3), (4, 3), (3, 5)])
def test_welfare_selection_finds_the_optimum_of_common_payoffs(n, k):
    # The best profile of a common-payoff game is an equilibrium.
    game = random_game("identical", n, np.random.default_rng([n, k]), k)
    solution = solve(game, selection="welfare")
    assert game.expected_payoffs(solution.sigma)[0] == game.payoffs().max()


@given(st.sampled_from([(1, 3), (2, 3), (3, 3), (2, 4)]), st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_enumeration_finds_exactly_the_pure_equilibria(size, seed):
    n, k = size
    game = random_game(("normal", "integer")[seed % 2], n, np.random.default_rng(seed), k)
    table = game.payoffs()
    profiles = [np.eye(k)[list(pure)] for pure in itertools.product(range(k), repeat=n)]
    pure = [profile for profile in profiles if slow_nash_conv(table, profile) < 1e-9]
    solution = solve(game, "enumeration")
    assert as_set(solution.equilibria) == as_set(pure)
    assert (solution.nash_conv > 0.0) == (not pure)


@pytest.mark.parametrize("method", ["support", "best-response"])
@pytest.mark.parametrize("k", [3, 4, 5])
def test_zero_sum_games_have_the_value_of_the_linear_program(method, k):
    rng = np.random.default_rng(k)
    for _ in range(4):
        payoff = rng.standard_normal((k, k))
        # Maximise v subject to x' payoff >= v for every column.
        costs = np.append(np.zeros(k), -1.0)
        bounds = [(0, None)] * k + [(None, None)]
        inequality, equality = np.column_stack([-payoff.T, np.ones(k)]), np.append(np.ones(k), 0.0)[None]
        program = linprog(costs, A_ub=inequality, b_ub=np.zeros(k), A_eq=equality, b_eq=[1.0], bounds=bounds)
        game = MetaGame.from_payoffs([payoff, -payoff])
        assert game.expected_payoffs(solve(game, method).sigma)[0] == pytest.approx(-program.fun, abs=1e-6)


def test_dominated_strategies_are_not_played():
    rng = np.random.default_rng(4)
    for _ in range(5):
        table = rng.standard_normal((3, 3, 3, 3))
        for i in range(3):
            own = np.moveaxis(table[i], i, 0)
            own[1] = own[[0, 2]].mean(axis=0) - 0.1
        assert not solve(MetaGame.from_payoffs(table), rng=rng).sigma[:, 1].any()


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_duplicated_strategy_leaves_the_equilibria_of_two_agents(seed):
    game = random_game(("normal", "zero-sum")[seed % 2], 2, np.random.default_rng(seed))
    table = game.payoffs()[:, [0, 1, 1]][:, :, [0, 1, 1]]
    doubled, two = solve(MetaGame.from_payoffs(table)), solve(game, "closed-form")
    assert as_set(doubled.equilibria[:, :, 0]) <= as_set(two.equilibria)
    assert {bool(np.isin(point, [0, 1]).all()) for point in doubled.equilibria[:, :, 0]} == {bool(two.n_pure)}


@given(st.sampled_from([(2, 3), (3, 3), (2, 5)]), st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_pure_equilibria_are_invariant_under_affine_changes(size, seed):
    n, k = size
    rng = np.random.default_rng(seed)
    table = random_game("normal", n, rng, k).payoffs()
    changed = table.copy()
    for i in range(n):
        others = rng.standard_normal((k,) * (n - 1))
        changed[i] = changed[i] * 10.0 ** rng.uniform(-6, 3) + np.expand_dims(others, i) * 1e-3
    before, after = (solve(MetaGame.from_payoffs(t), "enumeration", rng=np.random.default_rng(1)) for t in (table, changed))
    np.testing.assert_array_equal(after.equilibria, before.equilibria)


@pytest.mark.parametrize(("method", "selection"), [*itertools.product(METHODS[:3], SELECTIONS), ("cmaes", "random")])
def test_the_same_generator_gives_the_same_solution(method, selection, monkeypatch):
    monkeypatch.setattr("sb3_matrl.metagame.evolution._MAX_EVALUATIONS", 200)
    game = random_game("zero-sum", 3, np.random.default_rng(2), 3)
    first, second = (solve(game, method, selection, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.sigma, second.sigma)


@pytest.mark.parametrize("n", [2, 4])
def test_in_a_zero_game_selection_decides(n):
    game = MetaGame.from_payoffs(np.zeros((n, *(3,) * n)))
    for selection in ("welfare", "progress"):
        assert not solve(game, selection=selection).rho.any()
    solution = solve(game)
    assert len(solution.equilibria) == 3**n
    assert set(solution.sigma.ravel()) == {0.0, 1.0}


def predicting_samples(n, k, n_samples=500, seed=0):
    """Ratios that rise with the agent's own advantage, as after policy gradient steps of different sizes."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_samples, n))
    steps = 0.1 * np.arange(1, k)
    return np.exp(steps * noise[:, :, None]), 0.5 * noise + rng.standard_normal((n_samples, n))


@pytest.mark.parametrize(("n", "k"), [(16, 3), (8, 4)])
def test_many_agents_take_the_boldest_step_that_pays(n, k):
    game = MetaGame(*predicting_samples(n, k), 0.2)
    solution = solve(game)
    assert solution.method == "best-response"
    assert solution.nash_conv <= 1e-6 * game.scale
    gains = game.strategy_payoffs(solution.sigma)
    np.testing.assert_allclose((solution.sigma * gains).sum(axis=1), gains.max(axis=1), atol=1e-9 * game.scale)


def test_many_agents_without_pure_equilibrium_take_a_mixed_one():
    # Agents 0 and 1 play rock-paper-scissors on indicator samples; the ratios of the others are 1.
    actions = np.array(list(itertools.product(range(3), repeat=2)) * 4)
    mixed = np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]) * 3.0
    ratios, advantages = np.ones((36, 16, 2)), np.random.default_rng(0).standard_normal((36, 16))
    for agent in range(2):
        # Relative to strategy 0, which plays mostly rock; the rollout's weights are those of strategy 0.
        ratios[:, agent] = (mixed[1:, actions[:, agent]] / mixed[0, actions[:, agent]]).T
    behaviour = mixed[0, actions[:, 0]] * mixed[0, actions[:, 1]]
    advantages[:, 0] = ROCK_PAPER_SCISSORS[0][actions[:, 0], actions[:, 1]] * behaviour
    advantages[:, 1] = ROCK_PAPER_SCISSORS[1][actions[:, 0], actions[:, 1]] * behaviour
    game = MetaGame(ratios, advantages)
    solution = solve(game)
    assert solution.method == "best-response"
    assert solution.nash_conv <= 1e-6 * game.scale
    np.testing.assert_allclose(solution.sigma[:2], 1 / 3, atol=1e-6)


def both_payoffs(n=4, k=3, smallest=0.5):
    rng = np.random.default_rng(4)
    ratios, advantages = random_samples(rng, n, k=k)
    ratios = np.maximum(ratios, 0.5)
    ratios[0] = smallest
    samples = StrategySamples(ratios.transpose(1, 2, 0), (advantages - advantages.mean(axis=0)).T)
    return samples, samples.tabulated(), rng.dirichlet(np.ones(k), size=(3, n))


@pytest.mark.parametrize("smallest", [0.5, 0.0])
def test_samples_agree_with_their_table_in_what_solvers_use(smallest):
    samples, table, points = both_payoffs(smallest=smallest)
    np.testing.assert_allclose(samples.gains(points), table.gains(points), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(samples.jacobian(points), table.jacobian(points), rtol=1e-8, atol=1e-11)
    for choices in itertools.product(range(3), repeat=4):
        pure = np.array(choices)
        np.testing.assert_allclose(samples.pure_gains(pure), table.pure_gains(pure), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(table.pure_gains(pure), table.gains(one_hot(pure, 3)[None])[0], atol=1e-11)


def test_normalised_tables_have_the_game_s_gains_in_units_of_each_agent():
    _, table, points = both_payoffs()
    normalised = table.normalised()
    share = normalised.gains(points)[:, :, 1:] / table.gains(points)[:, :, 1:]
    np.testing.assert_allclose(share, share[[0]][:, :, [0]].repeat(3, axis=0).repeat(2, axis=2), rtol=1e-8)
    for i, row in enumerate(normalised.table()):
        assert np.ptp(row, axis=i).max() == pytest.approx(1.0)


def test_normalised_samples_have_the_game_s_gains_in_units_of_each_agent():
    samples, _, points = both_payoffs()
    share = samples.normalised().gains(points)[:, :, 1:] / samples.gains(points)[:, :, 1:]
    np.testing.assert_allclose(share, share[[0]][:, :, [0]].repeat(3, axis=0).repeat(2, axis=2), rtol=1e-8)
    assert (share > 0.0).all()


def slopes_of(function, point, step=1e-6):
    moves = step * np.eye(len(point))
    return np.stack([(function(point + move) - function(point - move)) / (2 * step) for move in moves], axis=-1)


def test_jacobians_of_the_equations_are_finite_differences():
    samples, table, points = both_payoffs()
    for payoffs in (samples.normalised(), table.normalised()):
        path, natural = _SimplexPath(payoffs), SimplexMap(payoffs)
        point = np.append(to_tangent(points[0]), 0.7)
        np.testing.assert_allclose(path.jacobian(point), slopes_of(path.system, point), atol=1e-7)
        start, direction = path.start()
        np.testing.assert_allclose(path.system(start), 0.0, atol=1e-15)
        np.testing.assert_allclose(path.jacobian(start) @ direction, 0.0, atol=1e-12)
        _, active = natural.residual(to_tangent(points))
        assert active.any()
        jacobian = natural.jacobian(to_tangent(points), active)
        for sigma, expected in zip(points, jacobian, strict=True):
            slopes = slopes_of(lambda y, natural=natural: natural.residual(y[None])[0][0], to_tangent(sigma))
            np.testing.assert_allclose(expected, slopes, atol=1e-6)


def test_equations_hold_at_equilibria_only():
    game = MetaGame.from_payoffs(SHAPLEY)
    natural = SimplexMap(game.normalised)
    solved, other = np.full((1, 2, 3), 1 / 3), np.array([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    np.testing.assert_allclose(natural.residual(to_tangent(solved))[0], 0.0, atol=1e-15)
    assert np.abs(natural.residual(to_tangent(other))[0]).max() > 0.1


def test_the_homotopy_path_of_two_strategies_is_that_in_rho():
    rng = np.random.default_rng(1)
    for n in (2, 4):
        game = random_game("zero-sum", n, rng)
        end = trace_strategies(StrategyTable(game.payoffs()).normalised(), 1000)
        np.testing.assert_allclose(end[:, 0], trace(game.normalised, 1000), atol=1e-5)


def test_the_homotopy_path_ends_in_an_equilibrium():
    rng = np.random.default_rng(0)
    for n, k in ((2, 3), (3, 3), (5, 3), (2, 5)):
        game = random_game("zero-sum", n, rng, k)
        end = trace_strategies(game.normalised, 1000)
        assert game.nash_conv(end) <= 1e-4 * game.scale
        assert game.nash_conv(trace_strategies(game.normalised, 3)) > game.nash_conv(end)


def test_support_enumeration_without_success_returns_the_least_regret(monkeypatch):
    monkeypatch.setattr("sb3_matrl.metagame.strategy_supports._ITERATIONS", 0)
    table = ROCK_PAPER_SCISSORS.copy()
    table[0, 0, 1] = -3.0
    solution = solve(MetaGame.from_payoffs(table), "support")
    assert solution.equilibria.shape == (0, 2, 3)
    assert solution.nash_conv > 0.0


def test_best_response_uses_its_later_starts_when_the_path_leads_nowhere(monkeypatch):
    corner = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    monkeypatch.setattr("sb3_matrl.metagame.strategy_search.trace_strategies", lambda payoffs, steps: corner)
    table = ROCK_PAPER_SCISSORS.copy()
    table[0, 0, 1] = table[1].T[0, 1] = -3.0
    game = MetaGame.from_payoffs(table)
    assert solve(game, "best-response").nash_conv <= 1e-6
    monkeypatch.setattr("sb3_matrl.metagame.least_squares._ITERATIONS", 0)
    stalled = solve(game, "best-response")
    assert len(stalled.equilibria) == 0
    assert stalled.nash_conv > 0.0


@pytest.mark.parametrize(("n", "k", "method"), [(3, 3, "support"), (4, 3, "best-response"), (5, 3, "best-response")])
def test_auto_takes_the_cheapest_method_that_finds_a_mixed_equilibrium(n, k, method):
    rng = np.random.default_rng(n)
    games = (random_game("zero-sum", n, rng, k) for _ in range(100))
    game = next(game for game in games if not len(solve(game, "enumeration").equilibria))
    solution = solve(game, rng=rng)
    assert solution.method == method
    assert solution.nash_conv <= 1e-6 * game.scale


@pytest.mark.parametrize(
    ("n", "k", "method", "message"),
    [
        (2, 3, "closed-form", "'closed-form' applies to at most 2 strategies per agent, this game has 3"),
        (5, 3, "support", "at most 4 agents with 3 strategies each, this game has 5"),
        (8, 3, "enumeration", "at most 7 agents with 3 strategies each, this game has 8"),
    ],
)
def test_errors_say_what_to_do(n, k, method, message):
    with pytest.raises(ValueError, match=message):
        solve(MetaGame(np.ones((3, n, k - 1)), np.ones((3, n))), method)


def test_payoffs_of_a_solved_game_come_from_its_samples():
    ratios, advantages = random_samples(np.random.default_rng(9), 3, k=3)
    solution = solve(MetaGame(ratios, advantages, 0.2))
    expected = slow_nash_conv(slow_payoffs(ratios, advantages, 0.2), solution.sigma)
    assert expected == pytest.approx(solution.nash_conv, abs=1e-12)


def test_points_far_from_the_simplex_are_no_profiles():
    assert from_tangent(np.array([5.0, 0.0]), 3).min() < 0.0
