"""Train agents: ``python zoo/train.py --algo matrl --env checkers_v0``."""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from zoo.cli import StrictParser, algorithm, count, device, positive_count, seed, user_errors
from zoo.config import ALGORITHMS, parse_pairs
from zoo.experiment import TrainOptions, create_folder, prepare, run, start_tracking

EXAMPLES = """\
  python zoo/train.py --algo matrl --env checkers_v0 --seed 0 --progress
  python zoo/train.py --algo ippo --env switch_v0 -n 100000 --env-kwargs n_agents:2 clock:true
  python zoo/train.py --algo matrl --env checkers_v0 --conf-file paper
  python zoo/train.py --env checkers_v0 -params learning_rate:0.01 "policy_kwargs.net_arch:[64, 64]"
  python zoo/train.py --env pettingzoo.butterfly.cooperative_pong_v6:parallel_env --track
"""


def build_parser() -> StrictParser:
    """The flags, with rl-zoo's names where it has them."""
    parser = StrictParser("Train agents with MATRL or one of its ablations.", EXAMPLES)
    add = parser.add_argument
    add("--algo", type=algorithm, default="matrl", help=f"algorithm: {', '.join(ALGORITHMS)}")
    add("--env", default="checkers_v0", help="environment: a registered id, or module:callable that makes a ParallelEnv")
    add("-n", "--n-timesteps", type=positive_count, help="steps to train for over all copies; None: from the conf file")
    add("--seed", type=seed, help="seed of everything random; None: drawn, and noted in args.yml")
    add("--conf-file", help="hyper-parameters: a YAML file keyed by env id, or the name of a shipped one; None: <algo>.yml")
    pairs: dict[str, Any] = {"action": "extend", "nargs": "+", "default": [], "metavar": "KEY:VALUE"}
    add("-params", "--hyperparams", help="hyper-parameters to change, as YAML", **pairs)
    add("--env-kwargs", help="options of the environment, as YAML", **pairs)
    add("-f", "--log-folder", default="logs", help="runs go to <log folder>/<algo>/<env>_<k>")
    add("--run-dir", help="a new or empty folder for this run; None: numbered in the log folder")
    add("--eval-freq", type=count, default=10_000, help="steps between evaluations; -1: only at the end")
    add("--eval-episodes", type=positive_count, default=20, help="episodes per evaluation, sampled and greedy each")
    add("--save-freq", type=count, default=-1, help="steps between checkpoints; -1: none")
    add("--vec-env", choices=["auto", "batched", "dummy", "subproc"], default="auto", help="how copies are stepped")
    add("--device", type=device, default="auto", help="auto, cpu, cuda, ...")
    add("--num-threads", type=positive_count, default=1, help="threads of PyTorch; one is fastest for small networks")
    add("--verbose", type=int, choices=[0, 1, 2], default=1, help="0: only the summary, 1: tables, 2: with every key")
    add("-P", "--progress", action="store_true", help="show a progress bar")
    add("--track", action="store_true", help="log to Weights & Biases")
    add("--wandb-project-name", default="sb3-matrl", help="project of Weights & Biases")
    add("--wandb-entity", help="user or team of Weights & Biases; None: the account's default")
    return parser


def parse_options(words: Sequence[str]) -> TrainOptions:
    """
    :param words: of the command line, without the program's name
    :raises ValueError: on unknown flags or values that cannot be read
    """
    given = vars(build_parser().parse_strictly(words))
    given["hyperparams"] = parse_pairs(given["hyperparams"], "--hyperparams")
    given["env_kwargs"] = parse_pairs(given["env_kwargs"], "--env-kwargs")
    if given["seed"] is None:
        given["seed"] = secrets.randbits(31)
    return TrainOptions(**given)


def command_line(words: Sequence[str], options: TrainOptions) -> str:
    """The command that repeats this run, with its seed even if that was drawn."""
    has_seed = any(word.split("=")[0] == "--seed" for word in words)
    return shlex.join(["python", "zoo/train.py", *words, *([] if has_seed else ["--seed", str(options.seed)])])


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: of the command line; the process's own by default
    :return: exit code
    :raises SystemExit: with code 2 when the user got something wrong
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with user_errors():
            options = parse_options(words)
            experiment = prepare(options)
            folder = create_folder(experiment, command_line(words, options))
            tracker = start_tracking(experiment, folder) if options.track else None
        return run(experiment, folder, tracker)
    except KeyboardInterrupt:
        print("interrupted; nothing more was saved", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
