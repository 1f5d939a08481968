import itertools

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from sb3_matrl import MATRL
from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.evaluation import MixedPolicy, Player, RandomPolicy, cross_play, evaluate_policy
from sb3_matrl.evaluation.cross_play_schedule import MAX_PROFILES, Cell, Schedule
from sb3_matrl.evaluation.role_players import make_contestant
from sb3_matrl.vec_env import make_joint_vec_env
from tests.evaluation.worlds import RandomLength

GENERATOR = np.random.default_rng(0)
ONE = Discrete(1)
THREE_PLAYERS = GENERATOR.normal(size=(3, 2, 2, 2))


def always(action):
    """A player of every role of a normal-form game."""
    return lambda observations: np.full(len(observations), action)


def untrained(seed, **arguments):
    return MATRL("MlpPolicy", "matrix_game_v0", n_steps=8, batch_size=8, seed=seed, device="cpu", **arguments)


@pytest.fixture(scope="module")
def mixed():
    """Players of rock, paper, scissors: random ones, and one that is not."""
    players = {"a": untrained(0), "b": untrained(1), "chance": "random", "rock": always(0)}
    return players, cross_play(players, "matrix_game_v0", n_games=128, seed=3)


# ---------------------------------------------------------------- the full design


def test_pure_players_give_the_payoffs_of_the_game():
    players = {name: always(action) for action, name in enumerate(("rock", "paper", "scissors"))}
    result = cross_play(players, "matrix_game_v0", n_games=2)
    assert result.roles == ("agent_0", "agent_1") and result.players == ("rock", "paper", "scissors")
    np.testing.assert_array_equal(result.payoffs, matrix_game_v0.named_payoffs("rps"))
    np.testing.assert_array_equal(result.standard_errors, 0.0)


def test_three_roles_have_all_profiles():
    env = matrix_game_v0.parallel_env(payoffs=THREE_PLAYERS)
    result = cross_play({"zero": always(0), "one": always(1)}, env, n_games=2)
    np.testing.assert_allclose(result.payoffs, THREE_PLAYERS, rtol=1e-6)
    for role, mine, theirs in itertools.product(range(3), range(2), range(2)):
        met = [
            THREE_PLAYERS[(role, *profile)]
            for profile in itertools.product(range(2), repeat=3)
            for other in range(3)
            if other != role and profile[role] == mine and profile[other] == theirs
        ]
        assert result.pair_payoffs(role)[mine, theirs] == pytest.approx(np.mean(met), rel=1e-6)
        assert result.pairs_by_game(role)[:, mine, theirs].mean() == pytest.approx(np.mean(met), rel=1e-6)
        of_player = THREE_PLAYERS[role].take(mine, axis=role).mean()
        assert result.of_players[:, role, mine].mean() == pytest.approx(of_player, rel=1e-6)


def test_a_player_with_itself_plays_as_its_model(mixed):
    players, result = mixed
    schedule = Schedule(4, 2, 128, seed=3)
    env = make_joint_vec_env("matrix_game_v0", n_envs=schedule.games_per_cell)
    for batch in range(schedule.first_batches):
        expected = evaluate_policy(players["b"], env, env.num_envs, seed=schedule.seed_of(batch))
        cell = result.profiles[batch].tolist().index([1, 1])
        np.testing.assert_array_equal(result.returns[batch, cell], expected.agent_returns)
    env.close()


def test_means_are_those_of_the_games(mixed):
    players, result = mixed
    exact = {}
    observation = {agent: np.ones((1, 1), np.float32) for agent in result.roles}
    for name in ("a", "b"):
        for role, agent in enumerate(result.roles):
            policy = players[name].agents[agent].policy
            tensor, _ = policy.obs_to_tensor(observation[agent])
            exact[name, role] = policy.get_distribution(tensor).distribution.probs[0].detach().numpy()
    payoffs = matrix_game_v0.named_payoffs("rps")[0]
    expected = exact["a", 0] @ payoffs @ exact["b", 1]
    assert abs(result.payoffs[0, 0, 1] - expected) < 4 * result.standard_errors[0, 0, 1]
    assert abs(result.payoffs[0, 2, 3]) < 4 * result.standard_errors[0, 2, 3]
    row = next(row for row in result.rows() if (row["agent_0"], row["agent_1"]) == ("a", "b"))
    assert row["games"] == 128 and row["agent_0_mean"] == result.payoffs[0, 0, 1]
    # Student's t with 127 degrees of freedom.
    assert row["agent_0_high"] - row["agent_0_mean"] == pytest.approx(1.978820 * row["agent_0_se"], rel=1e-5)


def test_results_do_not_depend_on_the_other_players(mixed):
    players, result = mixed
    some = cross_play({name: players[name] for name in ("chance", "b")}, "matrix_game_v0", n_games=128, seed=3)
    np.testing.assert_array_equal(some.payoffs, result.payoffs[:, [2, 1]][:, :, [2, 1]])


@pytest.mark.e2e
def test_all_pairs_play_the_same_games():
    """The coin that decides how long an episode is does not depend on the players."""
    players = {"zero": always(0), "one": always(1), "chance": "random"}
    result = cross_play(players, lambda: RandomLength(long=6), n_games=40)
    lengths = result.by_game[..., 0]
    assert set(np.unique(lengths)) == {1.0, 6.0}
    np.testing.assert_array_equal(lengths, np.broadcast_to(lengths[:, :1, :1], lengths.shape))


def test_seed_and_way_of_playing_count(mixed):
    players, result = mixed
    assert (cross_play(players, "matrix_game_v0", n_games=128, seed=4).payoffs != result.payoffs).any()
    greedy = cross_play({name: players[name] for name in ("a", "b")}, "matrix_game_v0", n_games=4, deterministic=True)
    np.testing.assert_array_equal(greedy.standard_errors, 0.0)


# ---------------------------------------------------------------- comparisons


def test_margins_and_wins_equal_a_loop(mixed):
    _, result = mixed
    games, count = result.by_game, len(result.players)
    margins, wins = np.zeros((len(games), count, count)), np.zeros((count, count))
    for game, i, j in itertools.product(range(len(games)), range(count), range(count)):
        (first, second), (third, fourth) = games[game, i, j], games[game, j, i]
        margins[game, i, j] = ((first - second) - (third - fourth)) / 4
        if i != j:
            wins[i, j] += (first > second) + (first == second) / 2 + (fourth > third) + (fourth == third) / 2
    np.testing.assert_allclose(result.margins_by_game(), margins)
    np.testing.assert_allclose(result.wins(), wins)
    # In a zero-sum game the margin is the payoff, averaged over both roles.
    np.testing.assert_allclose(margins.mean(axis=0), result.symmetric_payoffs() - np.diag(np.diag(result.symmetric_payoffs())))


# ---------------------------------------------------------------- the sampled design


def test_every_player_plays_every_role_once_in_a_batch():
    schedule = Schedule(40, 3)
    assert not schedule.is_full and 40**3 > MAX_PROFILES
    for batch in range(3):
        profiles = np.array([cell.profile for cell in schedule.cells(batch)])
        np.testing.assert_array_equal(np.sort(profiles, axis=0), np.repeat(np.arange(40)[:, None], 3, axis=1))
    assert len({tuple(schedule.cells(batch)) for batch in range(3)}) == 3


def test_sampled_design_agrees_with_the_full_one():
    players = {"zero": always(0), "one": always(1)}
    make = lambda: matrix_game_v0.parallel_env(payoffs=THREE_PLAYERS)  # noqa: E731
    full, sampled = (cross_play(players, make, n_games=count, design=name) for name, count in (("full", 2), ("sampled", 400)))
    means, exact = sampled.of_players, full.of_players.mean(axis=0)
    errors = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    assert len(means) >= 50 and (abs(means.mean(axis=0) - exact) < 4 * errors + 1e-9).all()
    np.testing.assert_allclose(sampled.pair_payoffs(0), full.pair_payoffs(0), atol=0.6)
    with pytest.raises(ValueError, match="only a full design has all profiles"):
        _ = sampled.payoffs


@pytest.mark.parametrize("design", ["full", "sampled"])
def test_games_are_added_until_intervals_are_narrow(design):
    players = {"zero": always(0), "chance": "random", "more": "random"}
    few, many = (
        cross_play(players, "matrix_game_v0", n_games=16, design=design, interval_width=width) for width in (None, 0.2)
    )
    assert few.n_games == 16 and few.widest_interval > 0.2
    assert many.widest_interval <= 0.2 and 100 < many.n_games < 3000
    # The first games are the same.
    np.testing.assert_array_equal(many.returns[: len(few.returns)], few.returns)
    capped = cross_play(players, "matrix_game_v0", n_games=16, design=design, interval_width=0.2, max_games=32)
    assert capped.n_games == 32


def test_the_largest_number_of_games_limits_those_that_are_added_only():
    assert Schedule(2, 2, n_games=20_000).n_games == 20_000
    with pytest.raises(ValueError, match="max_games must be at least n_games, got 10000 and 20000"):
        Schedule(2, 2, n_games=20_000, interval_width=0.1)


# ---------------------------------------------------------------- players


def test_players_come_from_many_sources(tmp_path, mixed):
    players, _ = mixed
    players["a"].save(tmp_path / "a.zip")
    single = players["b"].agents["agent_0"]
    sources = {"file": tmp_path / "a.zip", "one for all": (players["b"], "agent_0"), "sb3": single, "class": RandomPolicy}
    result = cross_play(sources, "matrix_game_v0", n_games=2, deterministic=True)
    chosen = [players["a"].predict({agent: np.ones(1, np.float32)}, deterministic=True)[0][agent] for agent in result.roles]
    for_all = single.predict(np.ones(1, np.float32), deterministic=True)[0]
    payoffs = matrix_game_v0.named_payoffs("rps")
    assert result.payoffs[0, 0, 0] == payoffs[(0, *chosen)]
    assert result.payoffs[0, 0, 1] == result.payoffs[0, 0, 2] == payoffs[0, chosen[0], for_all]
    assert result.payoffs[1, 1, 2] == payoffs[1, for_all, for_all] == 0.0


def test_recurrent_states_are_those_of_the_player():
    class Counter:
        """Plays how often it has been asked in the episode, up to 2."""

        possible_agents = ("left", "right")

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            ((agent, values),) = observation.items()
            count = np.zeros(len(values), int) if state is None else np.where(episode_start, 0, state[agent])
            return {agent: np.minimum(count, 2)}, {agent: count + 1}

    result = cross_play({"counter": Counter(), "two": always(2)}, lambda: RandomLength(long=3), n_games=8)
    lengths, returns = result.by_game[..., 0], result.by_game[..., 1]
    np.testing.assert_array_equal(returns[:, :, 0], np.where(lengths[:, :, 0] == 3, 3, 0))
    np.testing.assert_array_equal(returns[:, :, 1], 2 * lengths[:, :, 1])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: untrained(0, env_kwargs={"game": "chicken"}), "cannot play agent_0: its actions are Discrete.2., those of"),
        (lambda: (untrained(0), "agnt_0"), "player x: agent 'agnt_0' is unknown; did you mean 'agent_0'"),
        (lambda: untrained(0, env_kwargs={"game": "chicken"}).agents["agent_0"], "cannot play agent_0: its actions are"),
        (lambda: RandomPolicy({"me": ONE}, {"me": ONE}, 0), "player x cannot play agent_0: it has the agents me, the env has"),
    ],
)
def test_a_player_that_cannot_play_a_role_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        cross_play({"x": source(), "chance": "random"}, "matrix_game_v0")


def test_other_mistakes():
    with pytest.raises(TypeError, match="a frozen agent is"):
        cross_play({"x": 3}, "matrix_game_v0")
    with pytest.raises(TypeError, match="players must be a dict name -> player, got"):
        cross_play(["random"], "matrix_game_v0")
    with pytest.raises(ValueError, match="design 'ful' is unknown; did you mean 'full'"):
        cross_play({"x": "random"}, "matrix_game_v0", design="ful")
    with pytest.raises(ValueError, match="n_games must be at least 2"):
        cross_play({"x": "random"}, "matrix_game_v0", n_games=1)
    with pytest.raises(ValueError, match="interval_width must be positive"):
        cross_play({"x": "random"}, "matrix_game_v0", interval_width=0.0)


def test_an_env_of_the_caller_stays_open():
    env = make_joint_vec_env("matrix_game_v0", n_envs=4)
    result = cross_play({"zero": always(0), "chance": "random"}, env, n_games=10)
    assert result.n_games == 12
    env.reset()
    contestant = make_contestant("x", always(1), env)
    policy = MixedPolicy({role: Player(contestant.in_role(role, env, 0).model, "agent") for role in env.agents})
    assert evaluate_policy(policy, env, 4).returns.sum() == 0.0
    env.close()


def test_an_environment_of_the_caller_is_not_closed():
    class Closing(RandomLength):
        closed = 0

        def close(self):
            Closing.closed += 1

    env = Closing()
    for _ in range(2):
        cross_play({"chance": "random"}, env, n_games=2)
    assert Closing.closed == 0
    cross_play({"chance": "random"}, Closing, n_games=2)
    assert Closing.closed > 0


def test_finished_cells_are_reported():
    seen = []
    cross_play({"a": "random", "b": "random"}, "matrix_game_v0", n_games=4, on_cell=lambda cell, returns: seen.append(cell))
    assert seen == [Cell(profile, 0) for profile in itertools.product(range(2), repeat=2)]
