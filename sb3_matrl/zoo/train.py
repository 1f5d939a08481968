"""Train agents: ``python zoo/train.py --algo matrl --env checkers_v0``."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from sb3_matrl.zoo.common.cli import (
    StrictParser,
    algorithm,
    boolean,
    count,
    device,
    log_interval,
    non_negative_count,
    positive_count,
    seed,
    thread_count,
    user_errors,
)
from sb3_matrl.zoo.common.hyperparameters import ALGORITHMS
from sb3_matrl.zoo.common.locking import locked_folder
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.common.signals import exit_code
from sb3_matrl.zoo.common.words import normalise_words
from sb3_matrl.zoo.common.yaml_files import parse_pairs
from sb3_matrl.zoo.playing.players import open_run_folder
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.resuming import MAY_CHANGE, prepare_resumed
from sb3_matrl.zoo.training.tracking import in_sweep
from sb3_matrl.zoo.training.training_run import Experiment, create_folder, describe, prepare, run, start_tracking

IN_USE = "is in use by another training"
EXAMPLES = """\
  python zoo/train.py --algo matrl --env checkers_v0 --seed 0 --progress
  python zoo/train.py --algo ippo --env switch_v0 -n 100000 --env-kwargs n_agents:2 clock:true
  python zoo/train.py --algo matrl --env checkers_v0 --conf-file paper
  python zoo/train.py --env checkers_v0 -params learning_rate:0.01 "policy_kwargs.net_arch:[64, 64]"
  python zoo/train.py --env checkers_v0 -i logs/matrl/checkers_v0_1/checkers_v0.zip -n 50000 --record
  python zoo/train.py --env checkers_v0 --learning_rate=lin_0.002 --policy_kwargs.net_arch="[64, 64]"
  python zoo/train.py --resume logs/matrl/checkers_v0_1
  python zoo/train.py --env pettingzoo.butterfly.cooperative_pong_v6:parallel_env --track
"""


def build_parser() -> StrictParser:
    """The flags, with rl-zoo's names where it has them, and the defaults of :class:`TrainOptions`."""
    parser = StrictParser("Train agents with MATRL or one of its ablations.", EXAMPLES)
    _add_training_flags(parser)
    _add_resume_flags(parser)
    _add_output_flags(parser)
    _add_wandb_flags(parser)
    defaults = {entry.name: entry.default for entry in fields(TrainOptions) if entry.default is not MISSING}
    parser.set_defaults(**defaults)
    return parser


# Words that are collected in a list, however often the flag is given.
_SEVERAL: dict[str, Any] = {"action": "extend", "nargs": "+", "default": []}
_PAIRS: dict[str, Any] = {**_SEVERAL, "metavar": "KEY:VALUE"}
# A switch that may also be told "True" or "False", as W&B does.
_SWITCH: dict[str, Any] = {"type": boolean, "nargs": "?", "const": True, "metavar": "true|false"}


def _add_training_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("--algo", type=algorithm, help=f"algorithm: {', '.join(ALGORITHMS)}")
    add("--env", help="environment: a registered id, or module:callable that makes a ParallelEnv")
    add("-n", "--n-timesteps", type=positive_count, help="steps to train for over all copies; None: from the conf file")
    add("--seed", type=seed, help="seed of everything random; None: drawn, and noted in args.yml")
    add(
        "-i",
        "--trained-agent",
        metavar="MODEL.zip",
        help="go on from this model, for n further steps: networks, learners, optimisers and counters are the file's, "
        "all other hyper-parameters those of the conf file and of the command line",
    )
    add("--trust", help="accept a --trained-agent of plain Stable-Baselines3, which can run code when it is loaded", **_SWITCH)
    add(
        "-conf",
        "--conf-file",
        help="hyper-parameters: a YAML file keyed by env id, or the name of a shipped one; None: <algo>.yml",
    )
    add(
        "-params",
        "--hyperparams",
        "--hyperparameters",
        help="hyper-parameters to change, as YAML; each is also a flag of its own: --learning_rate=0.01",
        **_PAIRS,
    )
    add("--env-kwargs", help="options of the environment, as YAML", **_PAIRS)
    add("--eval-env-kwargs", help="those that differ in evaluations, as YAML", **_PAIRS)
    vec_envs = ["auto", "batched", "dummy", "subproc"]
    add("-vec", "--vec-env", choices=vec_envs, help="how copies are stepped")
    add("--device", type=device, help="auto, cpu, cuda, ...")
    add("--num-threads", type=thread_count, help="threads of PyTorch; one is fastest for small networks; -1: PyTorch's choice")


def _add_resume_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add(
        "--resume",
        metavar="RUN_DIR",
        help="go on with a stopped run, from its newest checkpoint and with its own options; -n: for a new total of steps",
    )
    allowed = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(MAY_CHANGE))
    add("--override", help=f"let options beside --resume differ from the run's; may change: {allowed}", **_SWITCH)


def _add_output_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("-f", "--log-folder", help="runs go to <log folder>/<algo>/<env>_<k>")
    add("--run-dir", help="a new or empty folder for this run; None: numbered in the log folder")
    add("-uuid", "--uuid", help="add a unique id to the name of the run's folder", **_SWITCH)
    add("-tb", "--tensorboard-log", metavar="FOLDER", help="TensorBoard's files go to <FOLDER>/<algo>; None: the run's folder")
    add("--log-interval", type=log_interval, help="iterations between rows of the log; -1: 1; -2: only evaluations")
    add("--eval-freq", type=count, help="steps between evaluations; -1: only at the end")
    add("--eval-episodes", type=positive_count, help="episodes per evaluation, sampled and greedy each")
    add("--n-eval-envs", type=positive_count, help="copies for evaluations; None: as in training, at most one per episode")
    add("--save-freq", type=count, help="steps between checkpoints; -1: not by steps")
    add("--save-every-minutes", type=float, metavar="MINUTES", help="minutes between checkpoints; 0: not by the clock")
    add("--keep-checkpoints", type=non_negative_count, metavar="K", help="how many of the latest checkpoints are kept; 0: all")
    add("--record", help="film a greedy episode of the last model, as video.mp4", **_SWITCH)
    add("--verbose", type=int, choices=[0, 1, 2], help="0: only the summary, 1: tables, 2: with every key")
    add("-P", "--progress", help="show a progress bar", **_SWITCH)


def _add_wandb_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("--track", help="log to Weights & Biases; always on in one of its sweeps", **_SWITCH)
    add("--wandb-project-name", help="project of Weights & Biases")
    add("--wandb-entity", help="user or team of Weights & Biases; None: the account's default")
    add("--wandb-group", help="group of runs in Weights & Biases")
    add("-tags", "--wandb-tags", metavar="TAG", help="tags of the run in Weights & Biases", **_SEVERAL)


def parse_options(words: Sequence[str]) -> TrainOptions:
    """
    :param words: of the command line, without the program's name; also as ``wandb agent`` sends them
    :raises ValueError: on unknown flags or values that cannot be read
    """
    parser = build_parser()
    given = vars(parser.parse_strictly(normalise_words(words, parser)))
    _read_pairs(given)
    if given.pop("override") and given["resume"] is None:
        raise ValueError("--override belongs to --resume, which is not there. See --help.")
    del given["resume"]
    if given["seed"] is None:
        given["seed"] = secrets.randbits(31)
    given["track"] = given["track"] or in_sweep(os.environ)
    return TrainOptions(**given)


def _read_pairs(options: dict[str, Any]) -> None:
    for name in ("hyperparams", "env_kwargs", "eval_env_kwargs"):
        if name in options:
            options[name] = parse_pairs(options[name], f"--{name.replace('_', '-')}")


def given_options(words: Sequence[str]) -> dict[str, Any]:
    """
    :param words: of the command line, without the program's name
    :return: name -> value of the options that are among them, ``resume`` and ``override`` included
    :raises ValueError: as :func:`parse_options`
    """
    parser, unset = build_parser(), object()
    normal = normalise_words(words, parser)
    parser.set_defaults(**{name: unset for name, value in vars(parser.parse_strictly([])).items() if value != []})
    given = {name: value for name, value in vars(parser.parse_strictly(normal)).items() if value is not unset and value != []}
    _read_pairs(given)
    return given


def command_line(words: Sequence[str], options: TrainOptions) -> str:
    """The command that repeats this run, with its seed even if that was drawn."""
    parser = build_parser()
    drawn = parser.parse_strictly(normalise_words(words, parser)).seed is None
    return shlex.join(["python", "zoo/train.py", *words, *(["--seed", str(options.seed)] if drawn else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: of the command line; the process's own by default
    :return: exit code
    :raises SystemExit: with code 2 when the user got something wrong
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with ExitStack() as stack:
            with user_errors():
                given = given_options(words)
                experiment, folder = _resume(words, given, stack) if "resume" in given else _begin(words, stack)
                tracker = start_tracking(experiment, folder) if experiment.options.track else None
            return run(experiment, folder, tracker)
    except KeyboardInterrupt as error:
        print("interrupted; nothing more was saved", file=sys.stderr)
        return exit_code(error)


def _begin(words: Sequence[str], stack: ExitStack) -> tuple[Experiment, RunFolder]:
    options = parse_options(words)
    experiment = prepare(options)
    folder = create_folder(experiment, command_line(words, options))
    stack.enter_context(locked_folder(folder.path, IN_USE))
    return experiment, folder


def _resume(words: Sequence[str], given: dict[str, Any], stack: ExitStack) -> tuple[Experiment, RunFolder]:
    path, override = Path(given.pop("resume")), given.pop("override", False)
    open_run_folder(path)
    # Before anything is read: what another process trains is old in a moment.
    stack.enter_context(locked_folder(path, IN_USE))
    experiment, folder = prepare_resumed(path, given, override)
    describe(experiment, folder, shlex.join(["python", "zoo/train.py", *words]))
    return experiment, folder


if __name__ == "__main__":
    sys.exit(main())
