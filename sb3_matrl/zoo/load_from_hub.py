"""Fetch trained agents from the Hugging Face Hub: ``sb3-matrl load-from-hub --algo matrl --env checkers_v0 -orga me``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.zoo.common.cli import StrictParser, algorithm, environment, path
from sb3_matrl.zoo.common.command_frames import run_to_answer
from sb3_matrl.zoo.common.invocation import command_prefix
from sb3_matrl.zoo.hub.hub_options import LoadOptions
from sb3_matrl.zoo.training.options import TrainOptions

EXAMPLES = """\
  sb3-matrl load-from-hub --algo matrl --env checkers_v0 -orga my-name
  sb3-matrl load-from-hub -orga my-team --repo-name my-agents --revision v1 -f runs
"""


def build_parser() -> StrictParser:
    """:return: parser with rl-zoo's flags where it has them"""
    parser = StrictParser("load-from-hub", "Fetch trained agents from the Hugging Face Hub into a run folder.", EXAMPLES)
    add = parser.add_argument
    add("-orga", "--organization", required=True, help="user or organisation on the hub")
    add("-name", "--repo-name", help="name of the repository; default: <algo>-<env>")
    add("--algo", type=algorithm, help=f"algorithm: {', '.join(algorithm_names())}; default: {TrainOptions.algo}")
    add("--env", type=environment, help=f"environment that the agents were trained in; default: {TrainOptions.env}")
    add("-f", "--log-folder", "--folder", type=path, default="logs", help="folder of the runs")
    add("--revision", help="branch, tag or commit; default: the newest commit")
    return parser


def parse_options(words: Sequence[str]) -> LoadOptions:
    """
    :param words: words of the command line, without the program's name
    :raises ValueError: on unknown flags or values that cannot be read
    """
    return LoadOptions(**vars(build_parser().parse_strictly(words)))


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code: 0; 130 or 143 if a signal ended the command
    :raises SystemExit: with code 2 on a mistake of the user
    """
    return run_to_answer(_load, arguments)


def _load(words: Sequence[str]) -> str:
    """Fetch, check and move the files, and say how to play with the agents."""
    options = parse_options(words)
    from sb3_matrl.zoo.hub.hub_client import download, import_hub  # heavy: after the words are understood
    from sb3_matrl.zoo.hub.repository import PATTERNS, check_repository, install

    import_hub()
    log_folder = Path(options.log_folder)
    log_folder.mkdir(parents=True, exist_ok=True)
    # On the same disk, so that the files can be renamed.
    with tempfile.TemporaryDirectory(dir=log_folder, prefix=".hub-") as folder:
        download(options.repo_id, options.revision, Path(folder), PATTERNS)
        run = check_repository(Path(folder), options.repo_id, options.algo, options.env)
        home = install(run, log_folder)
    play = shlex.join([*command_prefix("enjoy"), "--run-dir", str(home.path)])
    return f"{options.repo_id} is in {home.path}; play: {play}"


if __name__ == "__main__":
    sys.exit(main())
