import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.envs.matrix_game_v0 import check_payoffs, game_names, named_payoffs, nash_conv
from tests.envs.comparison import assert_copies_match_single_envs

MIXED = [0.5, 0.5]
THIRDS = [1 / 3] * 3
EQUILIBRIA = [
    ("rps", [THIRDS, THIRDS]),
    ("matching_pennies", [MIXED, MIXED]),
    ("prisoners_dilemma", [[0, 1], [0, 1]]),
    ("chicken", [[1, 0], [0, 1]]),
    ("chicken", [[0, 1], [1, 0]]),
    ("chicken", [MIXED, MIXED]),
    ("stag_hunt", [[1, 0], [1, 0]]),
    ("stag_hunt", [[0, 1], [0, 1]]),
    ("stag_hunt", [MIXED, MIXED]),
    ("coordination", [[1, 0], [1, 0]]),
    ("coordination", [MIXED, MIXED]),
    ("shapley", [THIRDS, THIRDS]),
]


@st.composite
def games_and_strategies(draw):
    """A random game of 1 to 4 players with 1 to 3 actions each, and mixed strategies for it."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.normal(size=(len(counts), *counts)), [rng.dirichlet(np.ones(count)) for count in counts]


def slow_value(payoffs, strategies, player):
    """Expected payoff, summed over all joint actions."""
    total = 0.0
    for joint in itertools.product(*(range(len(strategy)) for strategy in strategies)):
        probability = np.prod([strategy[action] for strategy, action in zip(strategies, joint, strict=True)])
        total += probability * payoffs[(player, *joint)]
    return total


def slow_nash_conv(payoffs, strategies):
    total = 0.0
    for player, own in enumerate(strategies):
        deviations = [
            slow_value(payoffs, [*strategies[:player], pure, *strategies[player + 1 :]], player) for pure in np.eye(len(own))
        ]
        total += max(deviations) - slow_value(payoffs, strategies, player)
    return total


@settings(max_examples=60, deadline=None)
@given(games_and_strategies())
def test_nash_conv_equals_the_sum_over_all_joint_actions(game):
    payoffs, strategies = game
    assert nash_conv(payoffs, strategies) == pytest.approx(slow_nash_conv(payoffs, strategies), abs=1e-9)
    assert nash_conv(payoffs, strategies) >= -1e-12


@settings(max_examples=30, deadline=None)
@given(games_and_strategies(), st.floats(-5, 5), st.floats(0.1, 5))
def test_nash_conv_ignores_shifts_and_scales_with_the_payoffs(game, shift, scale):
    payoffs, strategies = game
    assert nash_conv(scale * payoffs + shift, strategies) == pytest.approx(scale * nash_conv(payoffs, strategies), abs=1e-9)


@pytest.mark.parametrize(("game", "strategies"), EQUILIBRIA)
def test_nash_conv_is_zero_at_equilibria(game, strategies):
    assert nash_conv(named_payoffs(game), strategies) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("game", "strategies", "expected"),
    [
        ("rps", [[1, 0, 0], [1, 0, 0]], 2),  # each would rather play paper
        ("rps", [[1, 0, 0], [0, 1, 0]], 2),  # the loser would gain 2, the winner nothing
        ("rps", [[1, 0, 0], THIRDS], 1),
        ("matching_pennies", [[1, 0], [1, 0]], 2),
        ("prisoners_dilemma", [[1, 0], [1, 0]], 2),
        ("prisoners_dilemma", [[1, 0], [0, 1]], 1),
        ("chicken", [[0, 1], [0, 1]], 2),
        ("stag_hunt", [[1, 0], [0, 1]], 2),
        ("coordination", [[1, 0], [0, 1]], 2),
    ],
)
def test_nash_conv_worked_out_by_hand(game, strategies, expected):
    assert nash_conv(named_payoffs(game), strategies) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("game", "row", "column"),
    [
        ("matching_pennies", [[1, -1], [-1, 1]], [[-1, 1], [1, -1]]),
        ("prisoners_dilemma", [[3, 1], [4, 2]], [[3, 4], [1, 2]]),
        ("chicken", [[3, 2], [4, 1]], [[3, 4], [2, 1]]),
        ("stag_hunt", [[4, 1], [3, 2]], [[4, 3], [1, 2]]),
        ("coordination", [[1, 0], [0, 1]], [[1, 0], [0, 1]]),
        ("rps", [[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]),
        ("shapley", [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    ],
)
def test_step_pays_what_the_named_game_says(game, row, column):
    for a, b in itertools.product(range(len(row)), repeat=2):
        env = matrix_game_v0.parallel_env(game=game)
        env.reset()
        _, rewards, terminated, truncated, _ = env.step({"agent_0": a, "agent_1": b})
        assert rewards == {"agent_0": row[a][b], "agent_1": column[a][b]}
        assert all(terminated.values()) and not any(truncated.values())
        assert env.agents == []


def test_named_payoffs_are_copies():
    named_payoffs("rps")[:] = 7
    assert named_payoffs("rps").max() == 1


def test_three_players_with_different_numbers_of_actions():
    payoffs = np.random.default_rng(0).normal(size=(3, 2, 3, 4))
    env = matrix_game_v0.parallel_env(payoffs=payoffs)
    assert [env.action_space(agent).n for agent in env.possible_agents] == [2, 3, 4]
    env.reset()
    _, rewards, *_ = env.step({"agent_0": 1, "agent_1": 2, "agent_2": 3})
    assert list(rewards.values()) == payoffs[:, 1, 2, 3].tolist()
    core = env.make_core(2)
    core.reset()
    with pytest.raises(ValueError, match=r"^agent_1: action 3 is not valid; expected an integer from 0 to 2$"):
        core.step(np.array([[0, 0, 3], [0, 3, 0]]))


def test_copies_match_single_environments():
    payoffs = np.random.default_rng(1).normal(size=(3, 2, 3, 2))
    env = matrix_game_v0.parallel_env(payoffs=payoffs, max_cycles=3)
    assert_copies_match_single_envs(env, n_copies=4, n_steps=20, seed=5)


def test_team_reward_is_the_sum():
    env = matrix_game_v0.parallel_env(game="prisoners_dilemma", team_reward=True)
    env.reset()
    assert env.step({"agent_0": 0, "agent_1": 1})[1] == {"agent_0": 5, "agent_1": 5}


def test_repeated_game_terminates_after_its_rounds():
    env = matrix_game_v0.parallel_env(game="chicken", max_cycles=3)
    observations, _ = env.reset()
    states, ends = [env.state()[0]], []
    while env.agents:
        observations, _, terminated, truncated, _ = env.step({"agent_0": 0, "agent_1": 0})
        assert observations["agent_0"].tolist() == [1.0] and observations["agent_0"].dtype == np.float32
        assert not any(truncated.values())
        states.append(env.state()[0])
        ends.append(terminated["agent_1"])
    assert ends == [False, False, True]
    np.testing.assert_allclose(states, [0, 1 / 3, 2 / 3, 1], rtol=1e-6)


def test_copies_whose_game_is_over_get_nothing():
    core = matrix_game_v0.parallel_env(game="chicken").make_core(2)
    core.reset()
    core.step(np.zeros((2, 2), dtype=int))
    core.reset(np.array([True, False]))
    outcome = core.step(np.array([[0, 0], [9, 9]]))
    assert outcome.rewards.tolist() == [[3, 3], [0, 0]]
    assert outcome.terminated.tolist() == [[True, True], [False, False]]


def test_text_tells_the_last_round():
    env = matrix_game_v0.parallel_env(render_mode="ansi", max_cycles=2)
    env.reset()
    assert env.render() == "round 0/2"
    env.step({"agent_0": 0, "agent_1": 1})
    assert env.render() == "round 1/2\nagent_0 played 0: -1\nagent_1 played 1: 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "stag_hunts"}, "game 'stag_hunts' is unknown; did you mean 'stag_hunt'? Known: " + ", ".join(game_names())),
        ({"max_cycles": 0}, "max_cycles must be an integer of at least 1, got 0"),
        ({"team_reward": 1}, "team_reward must be True or False, got 1"),
        ({"render_mode": "human"}, "render_mode 'human' is unknown. Known: ansi"),
        ({"payoffs": [[[1, 2], [3, np.nan]]] * 2}, "payoffs must be finite, got nan at (0, 1, 1)"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError) as caught:
        matrix_game_v0.parallel_env(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["climbing_partially_stochastic", "climbing_stochastic"])
def test_random_payoffs_are_those_of_the_game_with_the_same_coin_for_both(name):
    env = matrix_game_v0.parallel_env(game=name, max_cycles=2)
    core, game = env.make_core(4000), matrix_game_v0.one_shot_game(name)
    core.seed(range(4000))
    core.reset()
    for joint in itertools.product(range(3), repeat=2):
        actions = np.tile(joint, (4000, 1))
        rewards = core.step(actions).rewards
        core.reset()
        np.testing.assert_array_equal(rewards[:, 0], rewards[:, 1])
        mean, spread = game.payoffs(actions)[0, 0], game.spreads(actions)[0, 0]
        assert set(rewards[:, 0]) == {mean - spread, mean + spread}
        assert np.mean(rewards[:, 0] == mean + spread) == (pytest.approx(0.5, abs=0.04) if spread else 1.0)


def test_copies_of_a_random_game_match_single_environments():
    env = matrix_game_v0.parallel_env(game="climbing_stochastic", max_cycles=3)
    assert_copies_match_single_envs(env, n_copies=4, n_steps=20, seed=5)


def test_congestion_of_many_agents_needs_no_table():
    env = matrix_game_v0.parallel_env(game="congestion", game_kwargs={"n_agents": 16, "n_resources": 20})
    env.reset()
    assert env.action_space("agent_15").n == 20
    rewards = env.step({agent: min(index, 12) for index, agent in enumerate(env.agents)})[1]
    assert list(rewards.values()) == pytest.approx([1.0] * 12 + [1 - 3 / 15] * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "penalty", "game_kwargs": {"q": 1}}, "game 'penalty': option 'q' is unknown. Known: k"),
        ({"game": "penalty", "game_kwargs": "k"}, "game_kwargs must map options of the game to their values, got 'k'"),
        ({"payoffs": np.zeros((2, 2, 2)), "game_kwargs": {"k": 1}}, "give payoffs, or a game with game_kwargs, not both"),
    ],
)
def test_wrong_options_of_a_game_are_explained(options, message):
    with pytest.raises(ValueError) as caught:
        matrix_game_v0.parallel_env(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (3, 2, 2), (2, 2, 0), (0,)])
def test_payoffs_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"payoffs must have shape \(n, A_1, \.\.\., A_n\).*got shape"):
        check_payoffs(np.zeros(shape))


def test_ragged_payoffs_are_refused():
    with pytest.raises(ValueError, match="payoffs must be an array of numbers"):
        check_payoffs([[[1, 2], [3]], [[1, 2], [3, 4]]])


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.0], [1.5, -0.5], [np.nan, 1], [[0.5, 0.5]]])
def test_strategies_must_be_probabilities(bad):
    with pytest.raises(ValueError, match="strategy of player 1 must be 2 probabilities that sum to 1, got"):
        nash_conv(named_payoffs("chicken"), [[1, 0], bad])


def test_strategies_must_be_one_per_player():
    with pytest.raises(ValueError, match="strategies must be one per player: expected 2, got 1"):
        nash_conv(named_payoffs("chicken"), [[1, 0]])
