"""Figs. 7 and 8: paths of learners in one game, on the square of 2x2 games or the simplices of 3x3 games."""

from __future__ import annotations

from dataclasses import asdict

import yaml

from sb3_matrl.games import NormalFormGame, named_game
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.zoo.studies.outcome import Outcome
from sb3_matrl.zoo.studies.portrait import portrait_markdown
from sb3_matrl.zoo.studies.simplex import simplex_portrait
from sb3_matrl.zoo.studies.square import square_portrait
from sb3_matrl.zoo.studies.study_options import DynamicsOptions

_DEFAULT = "matching_pennies"
_OWN_GAME = "own_game"
_TITLES = {"prisoners_dilemma": "Prisoner's dilemma", "rps": "Rock-paper-scissors", "shapley": "Shapley's game"}
_ACTIONS = {
    "rps": ("rock", "paper", "scissors"),
    "matching_pennies": ("heads", "tails"),
    "prisoners_dilemma": ("cooperate", "defect"),
    "chicken": ("swerve", "straight"),
    "stag_hunt": ("stag", "hare"),
}
_PORTRAITS = {(2, 2): square_portrait, (3, 3): simplex_portrait}


def dynamics(options: DynamicsOptions) -> Outcome:
    """
    Let learners play one game from one start.

    :param options: options of the study
    :return: one row per learner; the picture is the phase portrait
    :raises ValueError: on unknown names, payoffs of another shape or not finite, a start that is not made of probabilities,
        or a step size of zero or below
    """
    name, game = _chosen_game(options)
    if game.n_players != 2 or game.batch_shape or game.n_actions not in _PORTRAITS:
        raise ValueError(
            "dynamics draws single games of two players with 2 or 3 actions each: "
            f"payoffs of shape (2, 2, 2) or (2, 3, 3), not {game.payoffs.shape}"
        )
    actions = _ACTIONS.get(name) or [f"action {k}" for k in range(game.n_actions[0])]
    title = _TITLES.get(name) or name.replace("_", " ").capitalize()
    portrait = _PORTRAITS[game.n_actions](game, title, actions, options)
    settings = {**asdict(options), "game": name, "payoffs": game.payoffs}
    record = {**settings, "equilibria": portrait.equilibria, "rows": portrait.rows}
    summary = {f"{row['learner']}/{key}": row[key] for row in portrait.rows for key in ("final_distance", "final_nash_conv")}
    return Outcome(f"dynamics_{name}", record, portrait_markdown(portrait.rows), portrait.figure, summary)


def _chosen_game(options: DynamicsOptions) -> tuple[str, NormalFormGame]:
    if options.payoffs is None:
        name = options.game or _DEFAULT
        return name, named_game(name)
    if options.game is not None:
        raise ValueError("give --game or --payoffs, not both")
    try:
        return _OWN_GAME, NormalFormGame(yaml.safe_load(options.payoffs))
    except yaml.YAMLError as error:
        reason = one_line(error)
        raise ValueError(f"--payoffs must be nested lists, as in '[[[3, 0], [0, 2]], [[2, 0], [0, 3]]]': {reason}") from error
