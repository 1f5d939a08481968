"""Play trained agents: ``sb3-matrl enjoy --algo matrl --env checkers_v0``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.zoo.common.cli import (
    USER_ERROR,
    StrictParser,
    algorithm,
    count,
    device,
    environment,
    path,
    positive_count,
    seed,
    user_errors,
)
from sb3_matrl.zoo.common.yaml_files import parse_pairs
from sb3_matrl.zoo.playing.enjoy_options import EnjoyOptions
from sb3_matrl.zoo.playing.shipped_agents import FIRST, card, shipped_names
from sb3_matrl.zoo.training.options import TrainOptions

EXAMPLES = """\
  sb3-matrl enjoy --pretrained --render
  sb3-matrl enjoy --pretrained climbing
  sb3-matrl enjoy --algo matrl --env checkers_v0
  sb3-matrl enjoy --algo matrl --env checkers_v0 --render --n-episodes 3
  sb3-matrl enjoy --algo ippo --env switch_v0 --exp-id 2 --load-best --deterministic
  sb3-matrl enjoy --run-dir runs/mine --record mine.mp4
  sb3-matrl enjoy --env switch_v0 --agent agent_0=ippo/switch_v0_1 --agent agent_1=old.zip:agent_0
"""


def build_parser() -> StrictParser:
    """:return: parser with rl-zoo's flags where it has them"""
    parser = StrictParser("enjoy", "Play trained agents and print their returns.", EXAMPLES)
    _add_models(parser)
    _add_game(parser)
    _add_display(parser)
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--num-threads", type=positive_count, default=1, help="threads of PyTorch")
    return parser


def _add_models(parser: StrictParser) -> None:
    """Flags of the run and the model."""
    add, names = parser.add_argument, ", ".join(algorithm_names())
    add("--algo", type=algorithm, help=f"algorithm: {names}; default: {TrainOptions.algo}, or that of --run-dir")
    in_training = f"environment that the agents were trained in; default: {TrainOptions.env}, or that of --run-dir"
    add("--env", type=environment, help=in_training)
    add("-f", "--log-folder", "--folder", type=path, default="logs", help="folder of the runs")
    run = parser.add_mutually_exclusive_group()
    run.add_argument("--exp-id", type=count, default=0, help="number of the run; 0: the latest")
    run.add_argument("--run-dir", type=path, help="folder of the run, inside or outside the log folder")
    shipped = shipped_names()
    run.add_argument(
        "--pretrained",
        nargs="?",
        const=FIRST,
        choices=shipped or None,
        metavar="NAME",
        help=f"trained agents that come with sb3-matrl, instead of a run: {', '.join(shipped)}; without a name: {FIRST}",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model instead of the last one")
    which.add_argument("--load-checkpoint", type=positive_count, metavar="STEPS", help="checkpoint after that many steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="latest checkpoint")
    add(
        "--agent",
        action="append",
        default=[],
        metavar="AGENT=RUN[:OTHER]",
        help="play this agent with an agent of another run, OTHER if it has another name there; RUN: folder of a run, "
        "a model's .zip, or <algo>/<env>_<k> in the log folder; may be repeated",
    )
    add(
        "--trust",
        action="store_true",
        help="accept what can run code: an --agent of plain Stable-Baselines3, and module:callable in the folder of --run-dir",
    )


def _add_game(parser: StrictParser) -> None:
    """Flags of the environment and of the episodes."""
    add = parser.add_argument
    pairs: dict[str, Any] = {"action": "extend", "nargs": "+", "default": [], "metavar": "KEY:VALUE"}
    add("--env-kwargs", help="options of the environment to change, as YAML", **pairs)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("-n", "--n-timesteps", type=positive_count, help="play at least this many steps, one env copy")
    length.add_argument(
        "--n-episodes", type=positive_count, help="episodes to play; default: 100, or 5 when shown or recorded"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--deterministic", action="store_true", help="only greedy actions")
    kind.add_argument("--stochastic", action="store_true", help="only sampled actions, as always when shown or recorded")
    add("--seed", type=seed, default=0, help="seed of the environment and of sampled actions")


def _add_display(parser: StrictParser) -> None:
    """Flags of window, video and screen."""
    add = parser.add_argument
    window = parser.add_mutually_exclusive_group()
    window.add_argument("--render", action="store_true", dest="render", help="show the game in a window")
    window.add_argument("--no-render", action="store_false", dest="render", help="open no window")
    add("--record", type=path, metavar="VIDEO", help="write a video of the game: a path that ends in .mp4 or .gif")
    add("--fps", type=positive_count, help="frames per second of the video; default: those of the environment")
    add("-P", "--progress", action="store_true", help="show a progress bar over the episodes")
    add("--verbose", type=int, choices=[0, 1], default=1, help="0: only the table, 1: also what was loaded")


def parse_options(words: Sequence[str]) -> EnjoyOptions:
    """
    :param words: words of the command line, without the program's name
    :raises ValueError: on unknown flags, values that cannot be read, or flags that contradict each other
    """
    given = vars(build_parser().parse_strictly(words))
    given["env_kwargs"] = parse_pairs(given["env_kwargs"], "--env-kwargs")
    given["agent"] = parse_guests(given["agent"])
    if given["render"] and given["record"] is not None:
        raise ValueError("--render shows the game, --record writes it to a file: choose one")
    if given["fps"] is not None and given["record"] is None:
        raise ValueError("--fps is the speed of a video: it needs --record")
    return EnjoyOptions(**given)


def parse_guests(words: Iterable[str]) -> dict[str, str]:
    """
    :param words: e.g. ``["agent_0=logs/ippo/switch_v0_1", "agent_1=other.zip:agent_0"]``
    :return: agent of the game -> run or model of its player
    :raises ValueError: on a word of another form, or an agent given twice
    """
    guests: dict[str, str] = {}
    for word in words:
        agent, _, source = word.partition("=")
        if not agent or not source:
            raise ValueError(f"--agent: expected agent=RUN or agent=RUN:agent_there, got {word!r}")
        if agent in guests:
            raise ValueError(f"--agent: {agent} is given twice")
        guests[agent] = source
    return guests


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    try:
        with user_errors():
            options = parse_options(list(sys.argv[1:] if arguments is None else arguments))
        return _play(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _play(options: EnjoyOptions) -> int:
    from sb3_matrl.evaluation.film import VideoError  # heavy: after the words are understood
    from sb3_matrl.vec_env import EnvError
    from sb3_matrl.zoo.common.text_tables import returns_table
    from sb3_matrl.zoo.playing.display_check import NoScreenError
    from sb3_matrl.zoo.playing.match import play, prepare

    with user_errors():
        game = prepare(options)
    if options.verbose:
        print(game)
        if options.pretrained is not None:
            print(card(options.pretrained))
    try:
        print(returns_table(play(game, options)))
    # The environment failed, no pygame, a full disk, no pictures, no screen.
    except (EnvError, ImportError, OSError, VideoError, NoScreenError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR
    if options.record is not None and options.verbose:
        print(f"The video is in {options.record}.")
    if options.pretrained is not None and options.verbose:
        others = [name for name in shipped_names() if name != options.pretrained]
        print(f"Other trained agents, as --pretrained NAME: {', '.join(others)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
