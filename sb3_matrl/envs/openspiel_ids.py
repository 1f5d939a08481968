"""Ids of OpenSpiel's games, such as ``openspiel:kuhn_poker(players=3)``, and the games that can be played as environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from sb3_matrl.envs.openspiel_core import OpenSpielCore, OpenSpielParallelEnv, tensor_size
from sb3_matrl.envs.optional import import_optional
from sb3_matrl.utils.suggest import did_you_mean, unknown

PREFIX = "openspiel:"
#: Games of OpenSpiel that are written in Python have names that begin so.
_PYTHON = "python_"
#: Largest number of actions, and of elements of an observation, of a player.
MAX_ACTIONS, MAX_OBSERVATION = 20_000, 200_000
_TYPES = {int: "an integer", float: "a number", bool: "True or False", str: "a text", dict: "a game"}


def factory(env_id: str) -> Callable[..., Any]:
    """
    Look up the function that makes an environment of one of OpenSpiel's games.

    :param env_id: ``"openspiel:<game>"`` or ``"openspiel:<game>(<parameter>=<value>,...)"``, as OpenSpiel writes games
    :return: :func:`parallel_env` of that game
    :raises ValueError: if OpenSpiel does not know the game
    :raises ImportError: if OpenSpiel is not installed; the message says what to install
    """
    text = env_id.removeprefix(PREFIX)
    _parsed(f"env {env_id!r}", text)
    return partial(parallel_env, text)


def parallel_env(game: str, /, render_mode: str | None = None, **parameters: Any) -> OpenSpielParallelEnv:
    """
    Make a PettingZoo parallel environment of one of OpenSpiel's games (Lanctot et al. 2019), sequential or simultaneous-move.

    Agents are ``player_0``, ``player_1``, ... An agent observes its information state, or what it currently sees in games
    without information-state tensors; its legal actions are the entry ``"action_mask"`` of its info. Chance is drawn from the
    environment's own generator. Rewards are the changes of OpenSpiel's returns. Nothing is truncated.

    :param game: the game as OpenSpiel writes it, such as ``"kuhn_poker"`` or ``"kuhn_poker(players=3)"``
    :param render_mode: ``"ansi"`` or ``None``
    :param parameters: further parameters of the game, such as ``players=3``
    :raises ValueError: if OpenSpiel does not know the game or a parameter, or the game cannot be played; says why
    :raises ImportError: if OpenSpiel is not installed; the message says what to install
    """
    return OpenSpielParallelEnv(OpenSpielCore(1, load_game(game, parameters)), render_mode)


def game_names() -> list[str]:
    """
    Names of the games that OpenSpiel knows, playable or not.

    :raises ImportError: if OpenSpiel is not installed; the message says what to install
    """
    return list(_pyspiel("OpenSpiel").registered_names())


def load_game(text: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """
    Load a game and check that it can be played.

    :param text: the game as OpenSpiel writes it
    :param parameters: further parameters of the game
    :return: ``pyspiel.Game``
    :raises ValueError: see :func:`parallel_env`
    :raises ImportError: see :func:`parallel_env`
    """
    what = f"env {PREFIX + text!r}"
    pyspiel, name, given = _parsed(what, text)
    kind = next(kind for kind in pyspiel.registered_games() if kind.short_name == name)
    given = _checked(pyspiel, what, kind, {**given, **(parameters or {})})
    try:
        game = pyspiel.load_game(name, given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{what}: OpenSpiel cannot load the game with {given}: {_first_line(error)}") from error
    reason = _obstacle(pyspiel, game)
    if reason is not None:
        raise ValueError(f"{what} cannot be played: it {reason}")
    return game


def _pyspiel(what: str) -> ModuleType:
    return import_optional("pyspiel", what, "openspiel")


def _parsed(what: str, text: str) -> tuple[ModuleType, str, dict[str, Any]]:
    """OpenSpiel, the name of a game that it knows, and the parameters in the text."""
    pyspiel = _pyspiel(what)
    try:
        if text.count("(") != text.count(")"):
            raise RuntimeError("parentheses do not match.")
        parameters = dict(pyspiel.game_parameters_from_string(text))
    except RuntimeError as error:
        raise ValueError(f"{what}: {_first_line(error)} Write 'game' or 'game(parameter=value,...)'") from error
    name = parameters.pop("name", "")
    if name.startswith(_PYTHON):
        import_optional("open_spiel.python.games", what, "openspiel")  # registers them
    known = pyspiel.registered_names()
    if name not in known:
        guess = did_you_mean(name, known) or "."
        raise ValueError(f"{what}: OpenSpiel knows no game {name!r}{guess} pyspiel.registered_names() lists all {len(known)}")
    return pyspiel, name, parameters


def _checked(pyspiel: ModuleType, what: str, kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """
    Parameters of a game in the types that it declares: OpenSpiel's own errors also go to the terminal.

    :param kind: ``pyspiel.GameType``
    :param given: parameters of the game
    :raises ValueError: if a parameter is unknown or has the wrong type, all are missing, or there are too many players
    """
    known = kind.parameter_specification
    for parameter in given:
        if parameter not in known:
            raise ValueError(unknown(f"{what}: parameter", parameter, known))
    if not given and not kind.default_loadable:
        raise ValueError(f"{what}: the game needs parameters: {', '.join(known)}")
    typed = {name: _typed(pyspiel, f"{what}: {name}", known[name], value) for name, value in given.items()}
    players, low, high = typed.get("players"), kind.min_num_players, kind.max_num_players
    if isinstance(players, int) and not low <= players <= high:
        raise ValueError(f"{what}: players must be from {low} to {high}, got {players}")
    return typed


def _typed(pyspiel: ModuleType, what: str, default: Any, value: Any) -> Any:
    """A parameter's value in the type of its default, which command lines and YAML do not always keep."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, dict) and isinstance(value, str):
        value = dict(pyspiel.game_parameters_from_string(value))  # a game without parentheses
    if type(value) is not type(default):
        raise ValueError(f"{what} must be {_TYPES.get(type(default), 'another value')}, got {value!r}")
    return value


def _obstacle(pyspiel: ModuleType, game: Any) -> str | None:
    """Reason why a game cannot be played, as the end of a sentence; ``None`` if it can."""
    kind, players = game.get_type(), game.num_players()
    if kind.dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
        return "is a mean-field game, whose player is a population; choose a game with two or more players"
    if players < 2:
        return "has one player; train a single agent with Stable-Baselines3 itself"
    if kind.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC:
        return "draws random numbers inside OpenSpiel, which can be neither seeded per copy nor saved"
    if not (kind.provides_information_state_tensor or kind.provides_observation_tensor):
        return "has neither information-state nor observation tensors, so that a network cannot observe it"
    if game.num_distinct_actions() > MAX_ACTIONS:
        return f"has {game.num_distinct_actions()} actions; at most {MAX_ACTIONS} are supported"
    size = tensor_size(game)
    return f"has observations of {size} numbers; at most {MAX_OBSERVATION} are supported" if size > MAX_OBSERVATION else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
