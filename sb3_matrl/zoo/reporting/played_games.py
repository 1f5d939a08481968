"""Games that runs play: an environment with its options, in training and in evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sb3_matrl.zoo.reporting.run_loading import Run


def training_game(run: Run) -> dict[str, str]:
    """:return: name of a setting -> its value, of everything that makes the game of a training"""
    options = run.config.get("env_kwargs", run.arguments.get("env_kwargs"))
    return {"env": run.folder.env_id, "env_wrapper": str(run.config.get("env_wrapper")), **flat(_mapping(options))}


def evaluation_game(run: Run) -> dict[str, str]:
    """:return: the same as :func:`training_game`, with the options that differ in evaluations"""
    return training_game(run) | flat(_mapping(run.arguments.get("eval_env_kwargs")))


def differing(games: Sequence[Mapping[str, str]]) -> list[str]:
    """:return: names of the settings in which some games differ"""
    names = dict.fromkeys(name for game in games for name in game)
    return [name for name in names if len({game.get(name) for game in games}) > 1]


def different_games(runs: Sequence[Run], kinds: Sequence[str] = ("trained", "evaluated")) -> Iterator[str]:
    """
    Say which runs play different games under the name of one environment.

    :param runs: the runs
    :param kinds: what is compared: where they are ``trained``, ``evaluated``, or both
    :return: a sentence without its article per environment with different games
    """
    for env_id in dict.fromkeys(run.folder.env_id for run in runs):
        there = [run for run in runs if run.folder.env_id == env_id]
        names = {
            "trained": differing([training_game(run) for run in there]),
            "evaluated": differing([evaluation_game(run) for run in there if run.evaluations is not None]),
        }
        verbs = [kind for kind in kinds if names[kind]]
        if verbs:
            keys = ", ".join(dict.fromkeys(name for kind in verbs for name in names[kind]))
            games = f"{' and '.join(verbs)} in different games ({keys} differ)"
            yield f"runs in {env_id} are {games}: these returns cannot be compared"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings with dotted keys, such as ``policy_kwargs.net_arch``, and values as text; without empty mappings."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


def _mapping(options: Any) -> Mapping[str, Any]:
    return options if isinstance(options, Mapping) else {}
