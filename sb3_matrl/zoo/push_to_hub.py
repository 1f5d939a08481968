"""Send trained agents to the Hugging Face Hub: ``sb3-matrl push-to-hub --algo matrl --env checkers_v0 -orga me``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.zoo.common.cli import StrictParser, algorithm, count, environment, path, positive_count
from sb3_matrl.zoo.common.command_frames import run_to_answer
from sb3_matrl.zoo.common.run_folder import find_run_folder
from sb3_matrl.zoo.hub.hub_options import PushOptions, repository_id
from sb3_matrl.zoo.training.options import TrainOptions

EXAMPLES = """\
  sb3-matrl push-to-hub --algo matrl --env checkers_v0 -orga my-name
  sb3-matrl push-to-hub --run-dir runs/mine -orga my-team --repo-name my-agents --load-best --private
  sb3-matrl push-to-hub --algo matrl --env checkers_v0 -orga my-name --out card      (look at it first)
"""


def build_parser() -> StrictParser:
    """:return: parser with rl-zoo's flags where it has them"""
    parser = StrictParser("push-to-hub", "Send trained agents, with a model card, to the Hugging Face Hub.", EXAMPLES)
    add = parser.add_argument
    add("-orga", "--organization", required=True, help="user or organisation on the hub")
    add("-name", "--repo-name", help="name of the repository; default: <algo>-<env>")
    add("--algo", type=algorithm, help=f"algorithm: {', '.join(algorithm_names())}; default: {TrainOptions.algo}")
    add("--env", type=environment, help=f"environment that the agents were trained in; default: {TrainOptions.env}")
    add("-f", "--log-folder", "--folder", type=path, default="logs", help="folder of the runs")
    run = parser.add_mutually_exclusive_group()
    run.add_argument("--exp-id", type=count, default=0, help="number of the run; 0: the latest")
    run.add_argument("--run-dir", type=path, help="folder of the run, inside or outside the log folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model instead of the last one")
    which.add_argument("--load-checkpoint", type=positive_count, metavar="STEPS", help="checkpoint after that many steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="latest checkpoint")
    add("-m", "--commit-message", default="Add trained agents", help="message of the commit")
    add("--private", action="store_true", help="make the repository private, if it is created")
    add("--out", type=path, metavar="FOLDER", help="write the repository's files to this new or empty folder and send nothing")
    return parser


def parse_options(words: Sequence[str]) -> PushOptions:
    """
    :param words: words of the command line, without the program's name
    :raises ValueError: on unknown flags, values that cannot be read, or flags that contradict each other
    """
    options = PushOptions(**vars(build_parser().parse_strictly(words)))
    if options.run_dir is not None and (options.algo or options.env):
        raise ValueError("--run-dir says which run it is: leave --algo and --env out")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code: 0; 130 or 143 if a signal ended the command
    :raises SystemExit: with code 2 on a mistake of the user
    """
    return run_to_answer(_push, arguments)


def _push(words: Sequence[str]) -> str:
    """Send the files, or write them to a folder, and say where they are."""
    options = parse_options(words)
    from sb3_matrl.zoo.hub.hub_client import import_hub, upload  # heavy: after the words are understood
    from sb3_matrl.zoo.hub.model_card import model_card
    from sb3_matrl.zoo.hub.repository import CARD, copy_run, trained_run

    import_hub()
    run = trained_run(_run_folder(options), options.choice)
    repo_id = repository_id(options.organization, options.repo_name, run.algorithm, run.folder.env_id)
    card = model_card(run, repo_id)

    def write_to(folder: Path) -> None:
        copy_run(run, folder)
        (folder / CARD).write_text(card, encoding="utf-8")

    if options.out is not None:
        write_to(_empty_folder(Path(options.out)))
        return f"{options.out} holds the files of {repo_id}; nothing was sent"
    with tempfile.TemporaryDirectory() as folder:
        write_to(Path(folder))
        return f"{run.model} is in {repo_id}: {upload(Path(folder), repo_id, options.commit_message, options.private)}"


def _run_folder(options: PushOptions) -> Path:
    if options.run_dir is not None:
        return Path(options.run_dir)
    algo, env_id = options.algo or TrainOptions.algo, options.env or TrainOptions.env
    return find_run_folder(Path(options.log_folder), algo, env_id, options.exp_id).path


def _empty_folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out {path} is a file; give a new or empty folder")
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise ValueError(f"--out {path} is not empty; nothing is overwritten: choose another folder")
    return path


if __name__ == "__main__":
    sys.exit(main())
