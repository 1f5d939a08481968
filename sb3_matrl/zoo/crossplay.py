"""Who beats whom: ``sb3-matrl crossplay logs/matrl/pong_v3_1 logs/ippo/pong_v3_1``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_matrl.zoo.common.cli import (
    StrictParser,
    device,
    environment,
    path,
    positive_count,
    seed,
)
from sb3_matrl.zoo.common.command_frames import run_resumable
from sb3_matrl.zoo.common.yaml_files import parse_pairs
from sb3_matrl.zoo.tournaments.tournament_options import CrossPlayOptions

if TYPE_CHECKING:
    from sb3_matrl.evaluation.cross_play_result import CrossPlayResult
    from sb3_matrl.zoo.tournaments.line_file import LineFile
    from sb3_matrl.zoo.tournaments.tournament import Tournament

EXAMPLES = """\
  sb3-matrl train --algo matrl --env pong_v3 --snapshots 10
  sb3-matrl crossplay matrl/pong_v3_1 ippo/pong_v3_1 --games 50 --jobs 4
  sb3-matrl crossplay logs/qmix/switch_v0_1/switch_v0.zip old=backup/switch_v0.zip random --width 0.5
  sb3-matrl crossplay matrl/checkers_v0_1 my_players:greedy --per-run 5 --out logs/strangers

Give the same command again to continue a cross-play that was interrupted.
"""
DESIGNS = ("auto", "full", "sampled")
KEPT = "Finished games are kept; give the same command again to continue"


def _width(text: str) -> float:
    """A positive number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return number


def build_parser() -> StrictParser:
    """:return: parser of the flags"""
    purpose = "Let players meet in all roles: snapshots of runs, models, the random player, functions."
    parser = StrictParser("crossplay", purpose, EXAMPLES)
    _add_players(parser)
    _add_games(parser)
    _add_machine(parser)
    return parser


def _add_players(parser: StrictParser) -> None:
    """Flags of players and their environment."""
    add = parser.add_argument
    add(
        "players",
        nargs="+",
        metavar="[NAME=]RUN",
        help="a run's folder or <algo>/<env>_<k> in the log folder: its snapshots, or its checkpoints if it has none; a "
        "model's .zip; random: uniform actions; module:callable: a function of the observations",
    )
    add("-f", "--log-folder", "--folder", type=path, default="logs", help="folder of the runs")
    add("--per-run", type=positive_count, metavar="K", help="that many snapshots of each run, evenly spaced; default: all")
    add("--env", type=environment, help="environment; default: that of the runs")
    add(
        "--env-kwargs",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY:VALUE",
        help="options of the environment to change, as YAML",
    )
    trust = "accept what can run code: models of plain Stable-Baselines3, and module:callable as the environment of a run"
    add("--trust", action="store_true", help=trust)


def _add_games(parser: StrictParser) -> None:
    """Flags of the games."""
    add = parser.add_argument
    add(
        "--games",
        type=positive_count,
        default=100,
        help="games of every combination of players, or of every player in every role with --design sampled",
    )
    add("--width", type=_width, help="play on until no 95 %% interval of a mean return is wider than this")
    add("--max-games", type=positive_count, default=10_000, help="largest number of games with --width")
    design = "all combinations of players, or random ones; auto: all up to 1000 combinations"
    add("--design", choices=DESIGNS, default="auto", help=design)
    add("--deterministic", action="store_true", help="greedy actions instead of sampled ones")
    add("--seed", type=seed, default=0, help="seed of the games, the same for every combination")


def _add_machine(parser: StrictParser) -> None:
    """Flags of the output and of the machine."""
    add = parser.add_argument
    add("--out", type=path, default="logs/crossplay", help="folder of games, tables and heat maps")
    add("--jobs", type=positive_count, default=os.cpu_count() or 1, help="processes that play")
    add("--num-threads", type=positive_count, default=1, help="threads of PyTorch in each process")
    add("--device", type=device, default="auto", help="auto, cpu, cuda, ...")


def parse_options(words: Sequence[str]) -> CrossPlayOptions:
    """
    :param words: words of the command line, without the program's name
    :raises ValueError: on unknown flags or values that cannot be read
    """
    given: dict[str, Any] = vars(build_parser().parse_strictly(words))
    return CrossPlayOptions(**{**given, "env_kwargs": parse_pairs(given["env_kwargs"], "--env-kwargs")})


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code: 0; 1 if a process died; 130 or 143 if a signal ended the cross-play
    :raises SystemExit: with code 2 on a mistake of the user
    """
    return run_resumable(_prepared, _play, arguments, KEPT)


@contextmanager
def _prepared(words: Sequence[str]) -> Iterator[tuple[Tournament, LineFile]]:
    """A cross-play and the file of its finished games."""
    options = parse_options(words)
    from sb3_matrl.zoo.tournaments.tournament import kept_games, prepare  # heavy: after the words are understood

    tournament = prepare(options)
    with kept_games(tournament) as file:
        yield tournament, file


def _play(prepared: tuple[Tournament, LineFile]) -> None:
    from sb3_matrl.zoo.tournaments.tournament import play

    _report(prepared[0], play(*prepared))


def _report(tournament: Tournament, result: CrossPlayResult) -> None:
    """Write the record, the table and the heat maps, and print the tables."""
    from sb3_matrl.zoo.common.records import write_record
    from sb3_matrl.zoo.tournaments.heat_maps import draw_heat_maps
    from sb3_matrl.zoo.tournaments.tournament_results import payoff_record, result_text, summarise, write_csv

    out, entrants = Path(tournament.options.out), tournament.entrants
    summary = summarise(result, entrants)
    record = {**tournament.subject, **payoff_record(result), "summary": summary}
    write_record(out / "crossplay.json", record)
    write_csv(out / "crossplay.csv", result)
    if len(result.roles) > 1:
        draw_heat_maps(out, result, entrants, f"{tournament.world}, {result.n_games} games")
    print(result_text(result, summary))
    print(f"\nEverything is in {out}: crossplay.json, crossplay.csv, heat_map_<role>.png and .svg.")


if __name__ == "__main__":
    sys.exit(main())
