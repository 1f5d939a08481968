import importlib

import pyspiel
import pytest

from sb3_matrl.envs import factory, make, openspiel_ids, optional
from sb3_matrl.envs.env_ids import is_registered
from sb3_matrl.envs.openspiel_ids import game_names, load_game


def test_ids_make_the_game_with_its_parameters() -> None:
    for env in (make("openspiel:kuhn_poker(players=3)"), make("openspiel:kuhn_poker", players=3)):
        assert str(env) == "openspiel:kuhn_poker(players=3)"
        assert env.possible_agents == ["player_0", "player_1", "player_2"]
    assert str(make("openspiel:kuhn_poker")) == "openspiel:kuhn_poker"
    assert is_registered("openspiel:kuhn_poker")


def test_values_are_converted_to_the_types_that_a_game_declares() -> None:
    assert "prob_end=0.0" in str(load_game("bargaining", {"prob_end": 0}))
    assert "goofspiel" in str(load_game("turn_based_simultaneous_game", {"game": "goofspiel"}))


def test_nested_games_are_made() -> None:
    env = make("openspiel:turn_based_simultaneous_game(game=goofspiel(num_cards=3,imp_info=True))")
    env.reset(seed=0)
    assert len(env.acting_agents) == 1


def test_games_written_in_python_are_found() -> None:
    assert make("openspiel:python_tic_tac_toe").action_space("player_0").n == 9


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        (
            "openspiel:kuhn_pocker",
            "env 'openspiel:kuhn_pocker': OpenSpiel knows no game 'kuhn_pocker'; did you mean 'kuhn_poker'? "
            "pyspiel.registered_names() lists all {count}",
        ),
        (
            "openspiel:",
            "env 'openspiel:': OpenSpiel knows no game ''. pyspiel.registered_names() lists all {count}",
        ),
        (
            "openspiel:kuhn_poker(player=3)",
            "env 'openspiel:kuhn_poker(player=3)': parameter 'player' is unknown; did you mean 'players'? Known: players",
        ),
        (
            "openspiel:catch",
            "env 'openspiel:catch' cannot be played: it has one player; train a single agent with Stable-Baselines3 itself",
        ),
        (
            "openspiel:mfg_crowd_modelling",
            "env 'openspiel:mfg_crowd_modelling' cannot be played: it is a mean-field game, whose player is a population; "
            "choose a game with two or more players",
        ),
        (
            "openspiel:negotiation",
            "env 'openspiel:negotiation' cannot be played: it draws random numbers inside OpenSpiel, which can be neither "
            "seeded per copy nor saved",
        ),
    ],
)
def test_wrong_games_are_explained_in_one_line(env_id: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(env_id)
    assert str(caught.value) == message.format(count=len(game_names()))


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("kuhn_poker(players=3", {}, "parentheses do not match. Write 'game' or 'game(parameter=value,...)'"),
        ("kuhn_poker(players)", {}, "parameter 'players)' is unknown; did you mean 'players'? Known: players"),
        ("kuhn_poker", {"players": "three"}, "players must be an integer, got 'three'"),
        ("kuhn_poker", {"players": True}, "players must be an integer, got True"),
        ("kuhn_poker", {"players": 100}, "players must be from 2 to 10, got 100"),
        ("repeated_game", {}, "the game needs parameters: num_repetitions, recall, stage_game"),
    ],
)
def test_wrong_parameters_are_explained_in_one_line(
    env_id: str, options: dict[str, object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        make(f"openspiel:{env_id}", **options)
    assert str(caught.value) == f"env 'openspiel:{env_id}': {message}"
    assert capfd.readouterr().err == ""


def test_other_errors_of_openspiel_are_passed_on_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"env 'openspiel:efg_game.*': OpenSpiel cannot load the game with") as caught:
        make("openspiel:efg_game(filename=/no/such/file)")
    assert "\n" not in str(caught.value)


def test_limits_name_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openspiel_ids, "MAX_ACTIONS", 8)
    with pytest.raises(ValueError, match="it has 9 actions; at most 8 are supported"):
        load_game("tic_tac_toe")
    monkeypatch.setattr(openspiel_ids, "MAX_OBSERVATION", 10)
    with pytest.raises(ValueError, match="it has observations of 11 numbers; at most 10 are supported"):
        load_game("kuhn_poker")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(optional.importlib, "import_module", fail)
    with pytest.raises(
        ImportError, match=r"env 'openspiel:kuhn_poker' needs more packages: pip install 'sb3-matrl\[openspiel\]'"
    ):
        factory("openspiel:kuhn_poker")
    assert importlib is optional.importlib


@pytest.mark.e2e
def test_every_game_that_loads_is_played_or_refused_with_a_reason() -> None:
    """Two steps of random play in every game that has no mandatory parameters and is not refused."""
    import numpy as np

    rng, played = np.random.default_rng(0), []
    for kind in pyspiel.registered_games():
        if not kind.default_loadable:
            continue
        try:
            env = make(f"openspiel:{kind.short_name}")
            _, infos = env.reset(seed=0)
        except ValueError as error:
            assert "\n" not in str(error) and f"openspiel:{kind.short_name}" in str(error)
            continue
        for _ in range(2):
            if not env.agents:
                break
            actions = {agent: int(rng.choice(np.flatnonzero(infos[agent]["action_mask"]))) for agent in env.acting_agents}
            observations, *_, infos = env.step(actions)
            assert all(np.isfinite(one).all() for one in observations.values())
        played.append(kind.short_name)
    assert len(played) > 60 and {"kuhn_poker", "leduc_poker", "tic_tac_toe", "goofspiel", "chess"} <= set(played)
