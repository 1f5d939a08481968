"""Studies of the paper's exact games: ``sb3-matrl games table1``, ``rotational``, or ``dynamics --game chicken``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_matrl.games import game_names
from sb3_matrl.zoo.common.cli import CommandParser, StrictParser, count, positive_count, seed, user_errors
from sb3_matrl.zoo.studies.study_options import DynamicsOptions, RotationalOptions, Table1Options

if TYPE_CHECKING:
    from sb3_matrl.zoo.studies.outcome import Outcome
    from sb3_matrl.zoo.training.tracking import Tracker

EXAMPLES = """\
  sb3-matrl games table1 --out logs/games
  sb3-matrl games table1 --games 200 --seed 1
  sb3-matrl games rotational
  sb3-matrl games dynamics --game matching_pennies
  sb3-matrl games dynamics --game shapley --learners gd matrl
  sb3-matrl games dynamics --payoffs "[[[3, 0], [0, 2]], [[2, 0], [0, 3]]]" --start 0.5 0.5
"""
#: Options of every study; the study ``name`` is the function of that name in ``sb3_matrl.zoo.studies.<name>_study``.
STUDIES: dict[str, type[Any]] = {"table1": Table1Options, "rotational": RotationalOptions, "dynamics": DynamicsOptions}


def build_parser() -> CommandParser:
    """:return: parser of the studies, each with flags of its own"""
    commands = {"table1": _table1_parser(), "rotational": _rotational_parser(), "dynamics": _dynamics_parser()}
    return CommandParser("games", "The paper's table and figures of exact games.", EXAMPLES, commands)


def _table1_parser() -> StrictParser:
    parser = StrictParser(
        "games", "Table 1: every learner on random 2x2 games.", "  sb3-matrl games table1 --games 1000 --seed 0"
    )
    default = Table1Options()
    parser.add_argument("--games", type=positive_count, default=default.games, help="games of each class and generator")
    parser.add_argument("--steps", type=positive_count, default=default.steps, help="steps of every learner")
    parser.add_argument("--jobs", type=positive_count, default=os.cpu_count() or 1, help="number of processes")
    return _with_common_flags(parser)


def _rotational_parser() -> StrictParser:
    parser = StrictParser(
        "games", "Fig. 3: optimisers on the rotational game.", "  sb3-matrl games rotational --learning-rate 0.01"
    )
    add, default = parser.add_argument, RotationalOptions()
    add("--learning-rate", type=float, default=default.learning_rate, help="step size of every optimiser")
    add("--look-ahead", type=float, default=default.look_ahead, help="look-ahead of the comparison with a larger one")
    add("--start", type=float, nargs=2, default=default.start, help="first x and y", metavar=("X", "Y"))
    add("--steps", type=positive_count, default=default.steps, help="largest number of steps")
    add("--tolerance", type=float, default=default.tolerance, help="largest max(|x|, |y|) at the fixed point")
    return _with_common_flags(parser)


def _dynamics_parser() -> StrictParser:
    parser = StrictParser(
        "games",
        "Figs. 7 and 8: learners on one game of two players with 2 or 3 actions each.",
        "  sb3-matrl games dynamics --game chicken --learners iga matrl --start 0.9 0.2",
    )
    add, default = parser.add_argument, DynamicsOptions()
    add("--game", default=default.game, help=f"named game: {', '.join(game_names())}; default: matching_pennies")
    add("--payoffs", help="a game of your own instead: [row player's matrix, column player's matrix]")
    add("--learners", nargs="+", help="names of learners; default: a selection")
    add("--start", type=float, nargs="+", help="probability of action 0 of each player, or every player's probabilities")
    add("--steps", type=count, default=default.steps, help="steps of every learner; default: 1000, or 300 for 3x3")
    add(
        "--predicted-step",
        type=float,
        default=default.predicted_step,
        help="predicted step of MATRL and its ablations in 2x2 games",
    )
    add("--learning-rate", type=float, default=default.learning_rate, help="step size of the learners on 3x3 games")
    return _with_common_flags(parser)


def _with_common_flags(parser: StrictParser) -> StrictParser:
    add = parser.add_argument
    add("--seed", type=seed, default=0, help="seed of games and of draws among equilibria")
    add("--out", type=Path, default=Path("logs/games"), help="folder for the JSON, PNG and SVG files")
    add("--track", action="store_true", help="log to Weights & Biases")
    add("--wandb-project-name", default="sb3-matrl", help="project of Weights & Biases")
    add("--wandb-entity", help="user or team of Weights & Biases; default: that of the account")
    return parser


def study_options(given: argparse.Namespace) -> Any:
    """
    :param given: parsed command line
    :return: options of the command's study
    """
    kind = STUDIES[given.command]
    values = {field.name: getattr(given, field.name) for field in fields(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _run_study(name: str, options: Any) -> Outcome:
    """Import and run a study; Matplotlib and PyTorch are imported here, so that ``--help`` answers fast."""
    study: Callable[[Any], Outcome] = getattr(import_module(f"sb3_matrl.zoo.studies.{name}_study"), name)
    return study(options)


@contextmanager
def _tracking(given: argparse.Namespace, options: Any) -> Iterator[Tracker | None]:
    """W&B run of the study; ``None`` without ``--track``."""
    if not given.track:
        yield None
        return
    from sb3_matrl.zoo.training.tracking import Tracker, WandbOptions

    place = WandbOptions(given.wandb_project_name, given.wandb_entity, group="games")
    with Tracker(place, f"games-{given.command}", asdict(options), given.out) as tracker:
        yield tracker


def _report(outcome: Outcome, folder: Path, tracker: Tracker | None) -> None:
    json, png, svg = outcome.write(folder)
    print(f"{outcome.table}\n\nwrote {json}, {png} and {svg}")
    if tracker is not None:
        import wandb

        tracker.run.log({"figure": wandb.Image(str(png))})
        tracker.summarise(outcome.summary)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with user_errors():
            given = build_parser().parse_strictly(words)
            if given.track:
                from sb3_matrl.zoo.training.tracking import require_wandb

                require_wandb()
            given.out.mkdir(parents=True, exist_ok=True)
            options = study_options(given)
            with _tracking(given, options) as tracker:
                _report(_run_study(given.command, options), given.out, tracker)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
