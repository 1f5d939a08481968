import pickle
from typing import Any

import numpy as np
import pyspiel
import pytest

from sb3_matrl.envs import make
from sb3_matrl.envs.openspiel_core import OpenSpielCore
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.vec_env.joint import copy_seeds
from tests.envs.openspiel_references import Table

# Turns, simultaneous moves, and both with chance; rewards at the end, and on the way; information states, and observations.
GAMES = ["leduc_poker", "kuhn_poker(players=3)", "tic_tac_toe", "pig(winscore=15)", "markov_soccer(horizon=20)"]
GAMES += ["goofspiel(num_cards=4,imp_info=True)", "first_sealed_auction", "liars_dice", "matrix_rps", "laser_tag(horizon=9)"]


def legal_actions(core: OpenSpielCore, infos: dict[int, Any], rng: np.random.Generator) -> np.ndarray:
    """Random legal actions; those of agents that wait are no actions of the game at all."""
    actions = np.full(core.alive.shape, -7)
    for copy, agents in infos.items():
        for agent, info in agents.items():
            actions[copy, core.possible_agents.index(agent)] = rng.choice(np.flatnonzero(info["action_mask"]))
    return actions


def assert_same_situation(core: OpenSpielCore, tables: list[Table], infos: dict[int, Any]) -> None:
    observations, state = core.observations(), core.state()
    for copy, table in enumerate(tables):
        players = range(table.game.num_players())
        assert core.alive[copy].tolist() == [not table.state.is_terminal()] * len(players)
        assert np.flatnonzero(core.acting[copy]).tolist() == table.actors()
        seen = [table.seen(player) for player in players]
        for player, agent in enumerate(core.possible_agents):
            np.testing.assert_array_equal(observations[agent][copy], seen[player])
        np.testing.assert_array_equal(state[copy], np.concatenate(seen))
        masks = {agent: info["action_mask"].tolist() for agent, info in infos.get(copy, {}).items()}
        expected = {core.possible_agents[one]: table.state.legal_actions_mask(one) for one in table.actors()}
        assert masks == expected


@pytest.mark.parametrize("name", GAMES)
def test_random_play_follows_pyspiel_move_by_move(name: str) -> None:
    game, rng, n_games = pyspiel.load_game(name), np.random.default_rng(1), 0
    core, tables = OpenSpielCore(3, game), [Table(game, seed) for seed in (5, 6, 7)]
    core.seed([5, 6, 7])
    core.reset()
    infos = core.start_infos(np.ones(3, dtype=bool))
    assert_same_situation(core, tables, infos)
    for _ in range(60):
        actions = legal_actions(core, infos, rng)
        playing = core.alive[:, 0].copy()
        outcome = core.step(actions)
        expected = [t.step(row.tolist()) if p else 0 * row for t, row, p in zip(tables, actions, playing, strict=True)]
        np.testing.assert_allclose(outcome.rewards, expected, atol=1e-9)
        assert not outcome.truncated.any()
        np.testing.assert_array_equal(outcome.terminated, playing[:, None] & ~core.alive)
        assert_same_situation(core, tables, outcome.infos)
        infos, over = outcome.infos, ~core.alive[:, 0]
        over[0] = over.all()  # copy 0 waits until all games are over
        core.reset(over)
        infos = {copy: info for copy, info in infos.items() if not over[copy]} | core.start_infos(over)
        for copy in np.flatnonzero(over):
            tables[copy].begin()
            n_games += 1
        assert_same_situation(core, tables, infos)
    assert n_games >= 3


def random_actions(env: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random legal actions; 0 for agents that have not yet had a turn in any copy."""
    draws = {agent: rng.random((env.num_envs, mask.shape[1])) * mask for agent, mask in env.action_masks.items()}
    waiting = np.zeros(env.num_envs, dtype=np.int64)
    return {agent: draws[agent].argmax(axis=1) if agent in draws else waiting for agent in env.agents}


@pytest.mark.parametrize("name", ["leduc_poker", "markov_soccer(horizon=20)"])
def test_batched_and_separate_copies_are_the_same(name: str) -> None:
    envs = [make_joint_vec_env(f"openspiel:{name}", 3, kind, seed=4, states=True) for kind in ("batched", "dummy")]
    for env in envs:
        env.reset()
    rng = np.random.default_rng(2)
    for _ in range(60):
        actions = random_actions(envs[0], rng)
        (seen, rewards, dones, _), (other_seen, other_rewards, other_dones, _) = (env.step(actions) for env in envs)
        np.testing.assert_array_equal(rewards, other_rewards)
        np.testing.assert_array_equal(dones, other_dones)
        np.testing.assert_array_equal(envs[0].acting, envs[1].acting)
        np.testing.assert_array_equal(envs[0].states, envs[1].states)
        for agent in envs[0].agents:
            np.testing.assert_array_equal(seen[agent], other_seen[agent])
            np.testing.assert_array_equal(envs[0].action_masks[agent], envs[1].action_masks[agent])


def test_many_games_through_the_vectorised_env_equal_a_plain_loop() -> None:
    env = make_joint_vec_env("openspiel:leduc_poker", 8, seed=9)
    env.reset()
    game, rng = pyspiel.load_game("leduc_poker"), np.random.default_rng(3)
    tables, ended = [Table(game, seed) for seed in copy_seeds(9, 8)], 0
    for _ in range(120):
        actions = random_actions(env, rng)
        joint = np.stack([actions[agent] for agent in env.agents], axis=1)
        _, rewards, dones, infos = env.step(actions)
        for copy, table in enumerate(tables):
            np.testing.assert_allclose(rewards[copy], table.step(joint[copy].tolist()))
            assert dones[copy] == table.state.is_terminal()
            if dones[copy]:
                returns = list(infos[copy]["episode"]["agents"].values())
                np.testing.assert_allclose(returns, table.state.returns())
                assert sum(returns) == 0 and infos[copy]["episode"]["r"] == 0
                table.begin()
                ended += 1
    assert ended > 150


def test_deals_are_uniform_and_copies_independent() -> None:
    core = OpenSpielCore(3000, pyspiel.load_game("kuhn_poker"))
    core.seed(range(3000))
    core.reset()
    deals = [state.history_str() for state in core._states]
    counts = np.unique(deals, return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 500) ** 2 / 500).sum() < 20.5  # chi-square with 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("name", ["leduc_poker", "markov_soccer(horizon=20)", "tic_tac_toe"])
def test_snapshot_continues_bit_for_bit(name: str) -> None:
    env, again = (make_joint_vec_env(f"openspiel:{name}", 4, seed=seed) for seed in (1, 2))
    env.reset()
    rng = np.random.default_rng(5)
    for _ in range(7):
        env.step(random_actions(env, rng))
    snapshot = pickle.loads(pickle.dumps(env.snapshot()))
    observations = again.restore(snapshot)
    for agent in env.agents:
        np.testing.assert_array_equal(
            observations[agent], env.backend._masked(env.backend.core.observations(), env.alive)[agent]
        )
    for _ in range(40):
        actions = random_actions(env, rng)
        assert {agent: mask.tolist() for agent, mask in env.action_masks.items()} == {
            agent: mask.tolist() for agent, mask in again.action_masks.items()
        }
        (seen, rewards, dones, _), (other_seen, other_rewards, other_dones, _) = env.step(actions), again.step(actions)
        assert all(np.array_equal(seen[agent], other_seen[agent]) for agent in env.agents)
        assert np.array_equal(rewards, other_rewards) and np.array_equal(dones, other_dones)


def test_snapshot_before_the_first_game_and_after_the_last_one() -> None:
    core, other = (OpenSpielCore(2, pyspiel.load_game("tic_tac_toe")) for _ in range(2))
    other.restore(core.snapshot())
    assert not other.alive.any() and not other.acting.any()
    core.reset()
    for action in (0, 3, 1, 4, 2):
        core.step(np.full((2, 2), action))
    assert not core.alive.any()
    other.restore(core.snapshot())
    assert not other.alive.any() and str(other._states[1]) == "xxx\noo.\n..."


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("0 1 7", "'0 1 7' is no history of the game kuhn_poker"),
        ("0 0", "'0 0' is no history"),
        ("0 1 0 0 0", "'0 1 0 0 0' is no history"),
        ("0 x", "'0 x' is no history"),
        ("0", r"'alive' is \[True, True\], which does not fit the history '0'"),
        ("0 1 0 0", r"'alive' is \[True, True\], which does not fit the history '0 1 0 0'"),
    ],
)
def test_damaged_snapshots_are_refused_and_change_nothing(history: str, message: str) -> None:
    core = OpenSpielCore(1, pyspiel.load_game("kuhn_poker"))
    core.seed([1])
    core.reset()
    before, snapshot = core.snapshot(), core.snapshot()
    snapshot["histories"] = [history]
    with pytest.raises(ValueError, match=message):
        core.restore(snapshot)
    assert core.snapshot()["histories"] == before["histories"]
    with pytest.raises(ValueError, match="histories"):
        core.restore({**before, "histories": [1]})
    with pytest.raises(ValueError, match="must have 1 entries"):
        core.restore({**before, "histories": ["", ""]})


def test_damaged_history_of_simultaneous_moves_is_refused() -> None:
    core = OpenSpielCore(1, pyspiel.load_game("matrix_rps"))
    for history in ("1", "1 3", "1 1 1"):
        with pytest.raises(ValueError, match="is no history of the game matrix_rps"):
            core.restore({**core.snapshot(), "histories": [history]})


def test_illegal_actions_are_refused() -> None:
    env = make("openspiel:tic_tac_toe")
    env.reset(seed=0)
    env.step({"player_0": 4})
    with pytest.raises(
        ValueError, match=r"player_1: action 4 is not legal now; legal are \[0, 1, .* learner_class MaskablePPO"
    ):
        env.step({"player_1": 4})
    with pytest.raises(ValueError, match=r"player_1: action 9 is not valid; expected an element of Discrete\(9\)"):
        env.step({"player_1": 9})
    with pytest.raises(ValueError, match=r"missing: \['player_1'\], without a turn: \['player_0'\]"):
        env.step({"player_0": 0})
    with pytest.raises(ValueError, match="player_1: action -1 is not valid"):
        env._core.step(np.array([[0, -1]]))


def test_waiting_agents_of_the_parallel_env() -> None:
    env = make("openspiel:tic_tac_toe", render_mode="ansi")
    env.reset(seed=0)
    assert env.agents == ["player_0", "player_1"] and env.acting_agents == ["player_0"]
    for player, action in enumerate((0, 3, 1, 4)):
        env.step({f"player_{player % 2}": action})
    _, rewards, terminated, truncated, infos = env.step({"player_0": 2})
    assert rewards == {"player_0": 1.0, "player_1": -1.0}
    assert terminated == {"player_0": True, "player_1": True} and truncated == {"player_0": False, "player_1": False}
    assert env.agents == [] and env.acting_agents == [] and infos == {"player_0": {}, "player_1": {}}
    assert env.render() == "xxx\noo.\n..."
    with pytest.raises(RuntimeError, match="the episode is over; call reset"):
        env.step({"player_1": 8})


def test_pickled_environment_continues() -> None:
    env = make("openspiel:leduc_poker")
    env.reset(seed=3)
    other = pickle.loads(pickle.dumps(env))
    for agent in ("player_0", "player_1"):
        assert env.acting_agents == other.acting_agents == [agent]
        one, two = env.step({agent: 1}), other.step({agent: 1})
        assert all(np.array_equal(one[0][name], two[0][name]) for name in env.agents)
    assert env.snapshot()["core"]["histories"] == other.snapshot()["core"]["histories"]
