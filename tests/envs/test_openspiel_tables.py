from typing import Any

import numpy as np
import pyspiel
import pytest
from open_spiel.python import policy as policies
from open_spiel.python.algorithms import exploitability

from sb3_matrl.envs import make
from sb3_matrl.envs.openspiel_core import OpenSpielCore
from sb3_matrl.envs.openspiel_tables import OpenSpielTables
from tests.envs.openspiel_references import kuhn_equilibrium, kuhn_nash_conv, kuhn_value


def tables_of(name: str, max_histories: int = 20_000) -> OpenSpielTables:
    return make(f"openspiel:{name}").exact_game(max_histories)


@pytest.fixture(scope="module")
def kuhn() -> OpenSpielTables:
    return tables_of("kuhn_poker")


def kuhn_tables(kuhn: OpenSpielTables, bets: tuple[dict[str, float], dict[str, float]]) -> dict[str, np.ndarray]:
    """Probabilities of pass and bet in the order of the rows."""
    chosen = [[own[name] for name in kuhn.names[agent]] for own, agent in zip(bets, kuhn.agents, strict=True)]
    return {agent: np.array([[1 - bet, bet] for bet in row]) for agent, row in zip(kuhn.agents, chosen, strict=True)}


def uniform(tables: OpenSpielTables) -> dict[str, np.ndarray]:
    return {agent: mask / mask.sum(axis=1, keepdims=True) for agent, mask in tables.masks.items()}


def drawn(tables: OpenSpielTables, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {agent: rng.exponential(size=mask.shape) ** 3 * mask for agent, mask in tables.masks.items()}
    return {agent: weight / weight.sum(axis=1, keepdims=True) for agent, weight in weights.items()}


def nash_conv(tables: OpenSpielTables, chosen: dict[str, np.ndarray]) -> float:
    values, best = tables.values(chosen)
    return float((best - values).sum())


def test_information_states_of_kuhn_poker(kuhn: OpenSpielTables) -> None:
    assert {agent: sorted(names) for agent, names in kuhn.names.items()} == {
        "player_0": ["0", "0pb", "1", "1pb", "2", "2pb"],
        "player_1": ["0b", "0p", "1b", "1p", "2b", "2p"],
    }
    assert all(mask.all() for mask in kuhn.masks.values())


def test_observations_are_those_of_the_environment() -> None:
    tables, core = tables_of("leduc_poker"), OpenSpielCore(50, pyspiel.load_game("leduc_poker"))
    core.seed(range(50))
    core.reset()
    known = {agent: {row.tobytes(): place for place, row in enumerate(rows)} for agent, rows in tables.observations.items()}
    rng = np.random.default_rng(0)
    for _ in range(4):
        seen, actions = core.observations(), np.zeros((50, 2), dtype=np.int64)
        for copy, player in np.argwhere(core.acting).tolist():
            agent = core.possible_agents[player]
            mask = tables.masks[agent][known[agent][seen[agent][copy].tobytes()]]
            np.testing.assert_array_equal(mask, core._masks[copy][player])
            actions[copy, player] = rng.choice(np.flatnonzero(mask))
        core.step(actions)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1 / 3])
def test_equilibria_of_kuhn_poker_have_nash_conv_zero(kuhn: OpenSpielTables, alpha: float) -> None:
    values, best = kuhn.values(kuhn_tables(kuhn, kuhn_equilibrium(alpha)))
    np.testing.assert_allclose(values, [-1 / 18, 1 / 18], atol=1e-12)
    np.testing.assert_allclose(best, values, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_kuhn_poker_equals_enumeration_by_the_written_rules(kuhn: OpenSpielTables, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bets: Any = tuple({name: float(rng.random()) for name in kuhn.names[agent]} for agent in kuhn.agents)
    chosen = kuhn_tables(kuhn, bets)
    assert nash_conv(kuhn, chosen) == pytest.approx(kuhn_nash_conv(bets), abs=1e-12)
    assert kuhn.values(chosen)[0] == pytest.approx([kuhn_value(bets), -kuhn_value(bets)], abs=1e-12)


# Published values of uniform play: Kuhn 11/12, Leduc 4.7472 (OpenSpiel's exploitability_test.py).
@pytest.mark.cases(e2e=["leduc_poker-4.747222222222222"])
@pytest.mark.parametrize(("name", "expected"), [("kuhn_poker", 11 / 12), ("leduc_poker", 4.747222222222222)])
def test_uniform_play_has_the_published_nash_conv(name: str, expected: float) -> None:
    tables = tables_of(name)
    assert nash_conv(tables, uniform(tables)) == pytest.approx(expected)


OTHERS = ["kuhn_poker(players=3)", "first_sealed_auction(max_value=3)", "tiny_hanabi", "goofspiel(num_cards=3,imp_info=True)"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_games_equal_openspiels_own_python(name: str) -> None:
    tables, game = tables_of(name), pyspiel.load_game_as_turn_based(name)
    chosen = drawn(tables, 1)
    reference = policies.TabularPolicy(game)
    for agent in tables.agents:
        for key, row in zip(tables.names[agent], chosen[agent], strict=True):
            reference.policy_for_key(key)[:] = row
    assert nash_conv(tables, chosen) == pytest.approx(exploitability.nash_conv(game, reference), abs=1e-9)


def test_simultaneous_moves_do_not_see_each_other() -> None:
    tables, payoffs = tables_of("matrix_rps"), np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    rows, columns = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    values, best = tables.values({"player_0": rows[None], "player_1": columns[None]})
    np.testing.assert_allclose(values, [rows @ payoffs @ columns, -rows @ payoffs @ columns])
    np.testing.assert_allclose(best, [(payoffs @ columns).max(), (-rows @ payoffs).max()])


def test_repeated_calls_replace_the_policies(kuhn: OpenSpielTables) -> None:
    first, second = drawn(kuhn, 2), drawn(kuhn, 3)
    once = nash_conv(kuhn, second)
    nash_conv(kuhn, first)
    assert nash_conv(kuhn, second) == once == nash_conv(tables_of("kuhn_poker"), second)


def test_large_games_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"tic_tac_toe\(\) has more than 1000 histories, too many to evaluate policies exactly"
    ):
        tables_of("tic_tac_toe", 1000)
