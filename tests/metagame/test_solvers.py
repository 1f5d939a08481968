import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl.metagame import METHODS, SELECTIONS, MetaGame, solve, solve_two_agents
from sb3_matrl.metagame.homotopy import trace
from sb3_matrl.metagame.sample_payoffs import SamplePayoffs
from tests.metagame.reference import KINDS, random_game, random_samples, slow_nash_conv, slow_payoffs

# Row player first; index 0 is current, 1 is predicted.
PENNIES = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]], dtype=float)
COORDINATION = np.array([[[2, 0], [0, 1]], [[2, 0], [0, 1]]], dtype=float)
DILEMMA = np.array([[[3, 0], [5, 1]], [[3, 5], [0, 1]]], dtype=float)
CHICKEN = np.array([[[0, -1], [1, -10]], [[0, 1], [-1, -10]]], dtype=float)
# Agent 2 wants to match agent 1, 3 to match 2, 1 to differ from 3: no pure equilibrium.
CYCLE = np.zeros((3, 2, 2, 2))
for _x in itertools.product((0, 1), repeat=3):
    CYCLE[(0, *_x)], CYCLE[(1, *_x)], CYCLE[(2, *_x)] = _x[0] != _x[2], _x[1] == _x[0], _x[2] == _x[1]


def as_set(points):
    return {tuple(np.round(point, 9)) for point in points}


def share_solved(kind, n, method, count):
    rng = np.random.default_rng([KINDS.index(kind), n])
    games = [random_game(kind, n, rng) for _ in range(count)]
    return [solve(game, method, rng=rng).nash_conv <= 1e-6 * game.scale for game in games]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("method", ["auto", "best-response", "support"])
def test_random_games_are_solved(kind, n, method):
    assert all(share_solved(kind, n, method, 3))


@pytest.mark.expensive
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", range(2, 7))
def test_auto_solves_a_thousand_random_games(kind, n):
    assert all(share_solved(kind, n, "auto", 1000))


@pytest.mark.parametrize("n", [7, 9, 12])
def test_auto_solves_games_without_pure_equilibria(n):
    rng = np.random.default_rng(n)
    games = (random_game("zero-sum", n, rng) for _ in range(100))
    game = next(game for game in games if not len(solve(game, "enumeration").equilibria))
    solution = solve(game, rng=rng)
    assert solution.nash_conv <= 1e-6 * game.scale
    assert solution.method == ("support" if n <= 8 else "best-response")


@pytest.mark.parametrize("table", [PENNIES, COORDINATION, DILEMMA, CHICKEN, CYCLE, np.array([[1.0, 2.0]])])
def test_cmaes_solves_known_games(table):
    game = MetaGame.from_payoffs(1e-3 * table)
    assert solve(game, "cmaes").nash_conv <= 1e-6 * game.scale


def test_cmaes_leaves_the_global_generator_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    solve(MetaGame.from_payoffs(CYCLE), "cmaes")
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_cmaes_restarts_from_a_local_minimum(monkeypatch):
    monkeypatch.setattr("sb3_matrl.metagame.evolution._MAX_EVALUATIONS", 5)
    solution = solve(MetaGame.from_payoffs(CYCLE), "cmaes")
    assert len(solution.equilibria) == 0
    assert solution.nash_conv > 0.0


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (PENNIES, {(0.5, 0.5)}),
        (COORDINATION, {(1, 1), (0, 0), (0.333333333, 0.333333333)}),
        (DILEMMA, {(0, 0)}),
        (CHICKEN, {(1, 0), (0, 1), (0.9, 0.9)}),
        (np.zeros((2, 2, 2)), {(0, 0), (0, 1), (1, 0), (1, 1)}),
        # Agent 1 is indifferent when agent 2 plays predicted; agent 2 prefers predicted unless rho_1 < 1/4: a continuum.
        (np.array([[[1, 0], [0, 0]], [[0, 1], [3, 0]]]), {(1, 0), (0.75, 0)}),
    ],
)
def test_closed_form_finds_all_equilibria(table, expected):
    solution = solve(MetaGame.from_payoffs(table), "closed-form")
    assert as_set(solution.equilibria) == expected
    assert tuple(np.round(solution.rho, 9)) in expected


@pytest.mark.cases(quick=["sparse"])
@pytest.mark.parametrize("kind", ["normal", "integer", "sparse"])
def test_closed_form_misses_nothing_on_a_grid(kind):
    rng = np.random.default_rng(5)
    grid = np.linspace(0.0, 1.0, 9)
    for _ in range(15):
        game = random_game(kind, 2, rng)
        table, found = game.payoffs(), solve(game, "closed-form").equilibria
        assert all(slow_nash_conv(table, point) < 1e-9 for point in found)
        for point in itertools.product(grid, grid):
            if slow_nash_conv(table, point) < 1e-12:
                below, above = found <= np.array(point) + 1e-9, found >= np.array(point) - 1e-9
                # An equilibrium on the grid is an end point, or lies between end points in every coordinate.
                assert below.any(axis=0).all() and above.any(axis=0).all()


@pytest.mark.e2e
@given(st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_enumeration_finds_exactly_the_pure_equilibria(n, seed):
    game = random_game(("normal", "integer")[seed % 2], n, np.random.default_rng(seed))
    table = game.payoffs()
    pure = {p for p in itertools.product((0.0, 1.0), repeat=n) if slow_nash_conv(table, p) < 1e-9}
    solution = solve(game, "enumeration")
    assert as_set(solution.equilibria) == pure
    assert (solution.nash_conv > 0.0) == (not pure)


@given(st.integers(2, 5), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_pure_equilibria_are_invariant_under_affine_changes(n, seed):
    rng = np.random.default_rng(seed)
    table = random_game("normal", n, rng).payoffs()
    changed = table.copy()
    for i in range(n):
        others = rng.standard_normal((2,) * (n - 1))
        changed[i] = changed[i] * 10.0 ** rng.uniform(-6, 3) + np.expand_dims(others, i) * 1e-3
    before, after = (solve(MetaGame.from_payoffs(t), rng=np.random.default_rng(1)) for t in (table, changed))
    np.testing.assert_allclose(after.rho, before.rho, atol=1e-6)
    assert len(after.equilibria) == len(before.equilibria)


@pytest.mark.parametrize("kind", ["normal", "integer", "zero"])
def test_batches_of_two_agents_get_equilibria_of_the_closed_form(kind):
    rng = np.random.default_rng(8)
    games = [random_game(kind, 2, rng) for _ in range(30)]
    batch = solve_two_agents(np.stack([game.payoffs() for game in games]), rng)
    for game, rho in zip(games, batch, strict=True):
        assert as_set([rho]) <= as_set(solve(game, "closed-form").equilibria)


def test_enumeration_without_pure_equilibrium_returns_the_least_regret():
    solution = solve(MetaGame.from_payoffs(PENNIES), "enumeration")
    assert solution.equilibria.shape == (0, 2)
    assert solution.nash_conv == 2.0


@pytest.mark.parametrize("method", ["auto", "support", "best-response"])
def test_the_cycle_of_three_is_solved_mixed(method):
    solution = solve(MetaGame.from_payoffs(CYCLE), method)
    np.testing.assert_allclose(solution.rho, 0.5, atol=1e-7)
    assert solution.method == ("support" if method == "auto" else method)


@pytest.mark.parametrize(("method"), METHODS)
def test_a_single_agent_takes_its_best_action(method):
    assert solve(MetaGame.from_payoffs([[0.0, 1.0]]), method).rho[0] == pytest.approx(0.0, abs=1e-8)
    assert solve(MetaGame.from_payoffs([[0.0, -1.0]]), method).rho[0] == pytest.approx(1.0, abs=1e-8)


def test_selection_rules():
    game = MetaGame.from_payoffs(COORDINATION)
    np.testing.assert_array_equal(solve(game, selection="welfare").rho, [1, 1])
    np.testing.assert_array_equal(solve(game, selection="progress").rho, [0, 0])
    drawn = {tuple(solve(game, rng=np.random.default_rng(seed)).rho) for seed in range(20)}
    assert drawn == {(1.0, 1.0), (0.0, 0.0)}


@pytest.mark.parametrize("n", [2, 4])
def test_in_a_zero_game_selection_decides(n):
    game = MetaGame.from_payoffs(np.zeros((n, *(2,) * n)))
    for selection in ("welfare", "progress"):
        np.testing.assert_array_equal(solve(game, selection=selection).rho, np.zeros(n))
    assert set(solve(game).rho) <= {0.0, 1.0}
    assert len(solve(game).equilibria) == 2**n


@pytest.mark.cases(e2e=["random-cmaes"], expensive=["progress-cmaes", "welfare-cmaes"])
@pytest.mark.parametrize("method", ["auto", "enumeration", "support", "best-response", "cmaes"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_same_generator_gives_the_same_solution(method, selection):
    game = random_game("zero-sum", 4, np.random.default_rng(2))
    first, second = (solve(game, method, selection, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.rho, second.rho)
    np.testing.assert_array_equal(solve(game, method, selection).rho, solve(game, method, selection).rho)


def predicting_samples(n, n_samples=500, seed=0):
    """Ratios that rise with the agent's own advantage, as after a policy gradient step."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_samples, n))
    return np.exp(0.1 * noise), 0.5 * noise + rng.standard_normal((n_samples, n))


@pytest.mark.parametrize("clip_range", [0.2, None, 1.0])
def test_a_hundred_agents(clip_range):
    game = MetaGame(*predicting_samples(100), clip_range)
    solution = solve(game)
    assert solution.nash_conv <= 1e-6 * game.scale
    gain = game.strategy_payoffs(solution.rho)
    assert all((gain[:, 1] >= gain[:, 0])[solution.rho == 0.0])


def test_many_agents_without_pure_equilibrium_take_a_mixed_one():
    # Agents 0-2 play matching in a cycle (see CYCLE); the others' ratios are 1, so that they are indifferent.
    rng = np.random.default_rng(0)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)) * 4)
    ratios, advantages = np.ones((32, 13)), rng.standard_normal((32, 13))
    ratios[:, :3] = 1.0 + 0.2 * signs
    for agent, other, sign in ((0, 2, -1.0), (1, 0, 1.0), (2, 1, 1.0)):
        # Gains 0.04 from playing predicted where the other does, loses 0.02 for playing it at all: a symmetric matching.
        advantages[:, agent] = sign * (signs[:, agent] * signs[:, other] - 0.1 * signs[:, agent])
    game = MetaGame(ratios, advantages, 0.2)
    solution = solve(game)
    assert solution.method == "best-response"
    np.testing.assert_allclose(solution.rho[:3], 0.5, atol=1e-7)
    assert solution.nash_conv <= 1e-6 * game.scale


def test_support_enumeration_without_success_returns_the_least_regret(monkeypatch):
    monkeypatch.setattr("sb3_matrl.metagame.support._ITERATIONS", 0)
    table = CYCLE.copy()
    table[0, 0, :, 1] = 3.0
    solution = solve(MetaGame.from_payoffs(table), "support")
    assert len(solution.equilibria) == 0
    assert solution.nash_conv > 0.0


def test_best_response_uses_its_later_starts_when_the_path_leads_nowhere(monkeypatch):
    monkeypatch.setattr("sb3_matrl.metagame.best_response_dynamics.trace", lambda payoffs, steps: np.array([1.0, 0.0, 1.0]))
    # Agent 1 weighs differing from agent 3 unevenly, so that agent 3 mixes off the centre.
    table = CYCLE.copy()
    table[0, 0, :, 1] = 3.0
    solution = solve(MetaGame.from_payoffs(table), "best-response")
    np.testing.assert_allclose(solution.rho, [0.5, 0.5, 0.75], atol=1e-7)
    monkeypatch.setattr("sb3_matrl.metagame.least_squares._ITERATIONS", 0)
    stalled = solve(MetaGame.from_payoffs(table), "best-response")
    assert len(stalled.equilibria) == 0
    assert stalled.nash_conv > 0.0


@pytest.mark.parametrize("smallest", [0.5, 0.0])
def test_samples_agree_with_their_table_in_what_solvers_use(smallest):
    rng = np.random.default_rng(4)
    ratios, advantages = random_samples(rng, 5)
    ratios = np.maximum(ratios, 0.5)
    ratios[0] = smallest
    samples = SamplePayoffs(ratios.T, (advantages - advantages.mean(axis=0)).T)
    table, rho = samples.tabulated(), rng.uniform(size=(3, 5))
    np.testing.assert_allclose(samples.gradient(rho), table.gradient(rho), rtol=1e-9)
    np.testing.assert_allclose(samples.jacobian(rho), table.jacobian(rho), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(samples.hessian(rho[0]), table.hessian(rho[0]), rtol=1e-8, atol=1e-12)
    for ours, expected in zip(samples.linearised(rho[0]), table.linearised(rho[0]), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
    walks = [payoffs.walk(np.ones(5)) for payoffs in (table, samples)]
    for agent in (1, 3, 1, 0, 4):
        for walk in walks:
            walk.flip(agent)
        np.testing.assert_array_equal(walks[0].profile, walks[1].profile)
        np.testing.assert_allclose(walks[1].gradient, walks[0].gradient, rtol=1e-8)


@pytest.mark.parametrize("n", [4, 13])
def test_normalised_incentives_are_the_game_s_in_units_of_each_agent(n):
    rng = np.random.default_rng(6)
    game, rho = MetaGame(*random_samples(rng, n)), rng.uniform(size=(4, n))
    share = game.normalised.gradient(rho) / np.stack([game.gradient(row) for row in rho])
    np.testing.assert_allclose(share, share[[0]].repeat(4, axis=0), rtol=1e-6)
    assert (share > 0.0).all()


def test_the_homotopy_path_ends_in_an_equilibrium():
    rng = np.random.default_rng(0)
    for n in (2, 4, 7):
        game = random_game("zero-sum", n, rng)
        end = trace(game.normalised, 1000)
        assert game.nash_conv(end) <= 1e-4 * game.scale
        assert game.nash_conv(trace(game.normalised, 3)) > game.nash_conv(end)


def test_the_homotopy_path_of_a_zero_game_stays_at_the_centre():
    np.testing.assert_array_equal(trace(MetaGame.from_payoffs(np.zeros((2, 2, 2))).normalised, 500), [0.5, 0.5])


def test_auto_returns_the_best_point_seen(monkeypatch):
    points = {"enumeration": [0.0, 1.0, 1.0], "support": [0.4, 0.5, 0.5], "best-response": [1.0, 0.0, 1.0], "cmaes": [0.9] * 3}
    monkeypatch.setattr("sb3_matrl.metagame.solvers._points", lambda game, method, rng: np.array([points[method]]))
    solution = solve(MetaGame.from_payoffs(CYCLE))
    assert solution.method == "support"
    assert len(solution.equilibria) == 0


@pytest.mark.parametrize(
    ("n", "arguments", "message"),
    [
        (2, {"method": "enumerate"}, "did you mean 'enumeration'"),
        (2, {"selection": "wellfare"}, "did you mean 'welfare'"),
        (3, {"method": "closed-form"}, "at most 2 agents, this game has 3"),
        (9, {"method": "support"}, "at most 8 agents"),
        (13, {"method": "enumeration"}, "at most 12 agents"),
    ],
)
def test_errors_say_what_to_do(n, arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(MetaGame(np.ones((3, n)), np.ones((3, n))), **arguments)


def test_payoffs_of_a_solved_game_come_from_its_samples():
    rng = np.random.default_rng(9)
    ratios, advantages = random_samples(rng, 3)
    solution = solve(MetaGame(ratios, advantages, 0.2))
    assert slow_nash_conv(slow_payoffs(ratios, advantages, 0.2), solution.rho) == pytest.approx(solution.nash_conv, abs=1e-13)
