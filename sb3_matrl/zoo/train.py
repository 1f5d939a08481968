"""Train agents: ``sb3-matrl train --algo matrl --env checkers_v0``."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.zoo.common.cli import (
    ENV_IDS,
    VEC_ENVS,
    StrictParser,
    algorithm,
    boolean,
    count,
    device,
    environment,
    log_interval,
    minutes,
    non_negative_count,
    path,
    positive_count,
    seed,
    thread_count,
    user_errors,
)
from sb3_matrl.zoo.common.invocation import command_prefix
from sb3_matrl.zoo.common.signals import exit_code
from sb3_matrl.zoo.common.words import normalise_words
from sb3_matrl.zoo.common.yaml_files import parse_pairs
from sb3_matrl.zoo.sweeping.study_flags import add_study_flags
from sb3_matrl.zoo.training.options import MAY_CHANGE, WORKER_BACKENDS, TrainOptions, in_sweep

if TYPE_CHECKING:
    from sb3_matrl.zoo.training.training_run import TrainingRun

EXAMPLES = """\
  sb3-matrl train --algo matrl --env checkers_v0 --seed 0 --progress
  sb3-matrl train --algo ippo --env switch_v0 -n 100000 --env-kwargs n_agents:2 clock:true
  sb3-matrl train --algo matrl --env checkers_v0 --conf-file paper
  sb3-matrl train --algo qmix --env checkers_v0 -n 200000 --eval-freq 20000
  sb3-matrl train --env checkers_v0 -params learning_rate:0.01 "policy_kwargs.net_arch:[64, 64]"
  sb3-matrl train --env checkers_v0 -i logs/matrl/checkers_v0_1/checkers_v0.zip -n 50000 --record
  sb3-matrl train --env checkers_v0 --learning_rate=lin_0.002 --policy_kwargs.net_arch="[64, 64]"
  sb3-matrl train --env hopper_3x1 --rollout-workers 8
  sb3-matrl train --resume logs/matrl/checkers_v0_1
  sb3-matrl train --env pettingzoo.butterfly.cooperative_pong_v6:parallel_env --track
  sb3-matrl train --env checkers_v0 -n 20000 --optimize --n-trials 40 --n-jobs 2
  sb3-matrl train --trial-id 7 --study-name matrl_checkers_v0
"""
# Flags that take key:value words.
PAIRS = ("hyperparams", "env_kwargs", "eval_env_kwargs")
# Spellings of the flag that turns a training into a search, as in rl-zoo.
OPTIMIZE = ("-optimize", "--optimize", "--optimize-hyperparameters")
# Flags that are no options of a training: those that find a study, and those of a search.
_OF_STUDIES = ("trial_id", "study_name", "storage", "optimization_log_path")
_OF_SEARCHES = ("optimize", "sweep", "n_trials", "n_jobs", "sampler", "pruner", "n_startup_trials", "n_evaluations")


def build_parser() -> StrictParser:
    """:return: parser with rl-zoo's flags where it has them, and the defaults of :class:`TrainOptions`"""
    parser = StrictParser("train", "Train agents with MATRL, one of its ablations or another registered algorithm.", EXAMPLES)
    _add_training_flags(parser)
    _add_resume_flags(parser)
    _add_output_flags(parser)
    _add_wandb_flags(parser)
    _add_search_flags(parser)
    defaults = {entry.name: entry.default for entry in fields(TrainOptions) if entry.default is not MISSING}
    parser.set_defaults(**defaults)
    return parser


# Words that are collected in a list, however often the flag is given.
_SEVERAL: dict[str, Any] = {"action": "extend", "nargs": "+", "default": []}
_PAIRS: dict[str, Any] = {**_SEVERAL, "metavar": "KEY:VALUE"}
# A switch that also accepts "True" or "False", as W&B sends it.
_SWITCH: dict[str, Any] = {"type": boolean, "nargs": "?", "const": True, "metavar": "true|false"}


def _add_training_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("--algo", type=algorithm, help=f"algorithm: {', '.join(algorithm_names())}")
    add("--env", type=environment, help=f"environment: {ENV_IDS} that makes a ParallelEnv")
    add("-n", "--n-timesteps", type=positive_count, help="steps to train for over all copies; default: those of the conf file")
    add("--seed", type=seed, help="seed of everything random; default: drawn, and written to args.yml")
    add(
        "-i",
        "--trained-agent",
        type=path,
        metavar="MODEL.zip",
        help="continue from this model for n more steps: networks, learners, optimisers and counters come from the file, "
        "all other hyper-parameters from the conf file and the command line",
    )
    trust = "accept what can run code: a --trained-agent of plain Stable-Baselines3, module:callable in the folder of --resume"
    add("--trust", help=trust, **_SWITCH)
    add(
        "-conf",
        "--conf-file",
        type=path,
        help="hyper-parameters: a YAML file keyed by env id, or the name of a shipped one; default: that of the algorithm",
    )
    add(
        "-params",
        "--hyperparams",
        "--hyperparameters",
        help="hyper-parameters to change, as YAML; each is also a flag of its own: --learning_rate=0.01",
        **_PAIRS,
    )
    add("--env-kwargs", help="options of the environment, as YAML", **_PAIRS)
    add("--eval-env-kwargs", help="options that differ in evaluations, as YAML", **_PAIRS)
    add("-vec", "--vec-env", choices=VEC_ENVS, help="how copies are stepped")
    timeout = (
        "longest time for one step of a worker process; after it the training ends with an error; implies --vec-env subproc"
    )
    add("--env-timeout", type=float, metavar="SECONDS", help=timeout)
    _add_worker_flags(parser)
    add("--device", type=device, help="auto, cpu, cuda, ...")
    add("--num-threads", type=thread_count, help="threads of PyTorch; one is fastest for small networks; -1: PyTorch's choice")
    add(
        "--kernel-threads",
        type=thread_count,
        help="threads of the native backend, which updates agents in parallel with the same result; -1: one per core",
    )


def _add_worker_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    workers = "workers that play the rollouts, each with its share of the copies; default: none, this process plays them"
    add("--rollout-workers", type=positive_count, metavar="N", help=workers)
    where = "where workers run: each in a process of this machine, on a Ray cluster, or one after the other in this process"
    add("--worker-backend", choices=WORKER_BACKENDS, help=where)
    address = (
        "Ray cluster of --worker-backend ray, such as auto; default: RAY_ADDRESS, or one on this machine for this training"
    )
    add("--ray-address", metavar="ADDRESS", help=address)


def _add_resume_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add(
        "--resume",
        type=path,
        metavar="RUN_DIR",
        help="continue a stopped run from its newest checkpoint with its own options; -n sets a new total of steps",
    )
    allowed = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(MAY_CHANGE))
    add("--override", help=f"let options given with --resume differ from the run's; may change: {allowed}", **_SWITCH)


def _add_output_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("-f", "--log-folder", type=path, help="runs go to <log folder>/<algo>/<env>_<k>")
    add("--run-dir", type=path, help="new or empty folder for this run; default: numbered in the log folder")
    add("-uuid", "--uuid", help="add a unique id to the name of the run's folder", **_SWITCH)
    add(
        "-tb",
        "--tensorboard-log",
        type=path,
        metavar="FOLDER",
        help="TensorBoard's files go to <FOLDER>/<algo>; default: the run's folder",
    )
    interval = "iterations, or episodes (off-policy), between rows of the log; -1: 1, or 4; -2: only evaluations"
    add("--log-interval", type=log_interval, help=interval)
    add("--eval-freq", type=count, help="steps between evaluations; -1: only at the end")
    add("--eval-episodes", type=positive_count, help="episodes per evaluation, sampled and greedy each")
    add("--n-eval-envs", type=positive_count, help="copies for evaluations; default: as in training, at most one per episode")
    add("--save-freq", type=count, help="steps between checkpoints; -1: not by steps")
    add("--save-every-minutes", type=minutes, metavar="MINUTES", help="minutes between checkpoints; 0: not by the clock")
    add("--keep-checkpoints", type=non_negative_count, metavar="K", help="number of latest checkpoints to keep; 0: all")
    snapshots = "number of evenly spaced models to keep beside the checkpoints, for crossplay; 0: none"
    add("--snapshots", type=non_negative_count, metavar="N", help=snapshots)
    add("--record", help="film a greedy episode of the last model, as video.mp4", **_SWITCH)
    add("--verbose", type=int, choices=[0, 1, 2], help="0: only the summary, 1: tables, 2: with every key")
    add("-P", "--progress", help="show a progress bar", **_SWITCH)


def _add_wandb_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("--track", help="log to Weights & Biases; always on in one of its sweeps", **_SWITCH)
    add("--wandb-project-name", help="project of Weights & Biases")
    add("--wandb-entity", help="user or team of Weights & Biases; default: that of the account")
    add("--wandb-group", help="group of runs in Weights & Biases")
    add("-tags", "--wandb-tags", metavar="TAG", help="tags of the run in Weights & Biases", **_SEVERAL)


def _add_search_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    search = (
        "search hyper-parameters, as sweep does: every trial is this training with other ones; -n is the length of a trial"
    )
    add(*OPTIMIZE, dest="optimize", action="store_true", help=search)
    of_search = "with --optimize: "
    space = "sweep file with the parameters to search, or the name of a shipped one; default: one that suits the algorithm"
    add("--sweep", type=path, metavar="FILE", help=of_search + space)
    add_study_flags(parser, of_search)
    add("--n-evaluations", type=positive_count, help=of_search + "evaluations per trial, instead of --eval-freq")
    trial = "train with the hyper-parameters of this trial of --study-name"
    add("--trial-id", type=non_negative_count, metavar="NUMBER", help=trial)


def given_options(words: Sequence[str]) -> dict[str, Any]:
    """
    :param words: words of the command line, without the program's name; also as ``wandb agent`` sends them
    :return: name -> value of the options among them, ``resume`` and ``override`` included
    :raises ValueError: on unknown flags or values that cannot be read
    """
    parser = build_parser()
    given = parser.parse_given(normalise_words(words, parser))
    pairs = {name: parse_pairs(given[name], f"--{name.replace('_', '-')}") for name in PAIRS if name in given}
    return given | pairs


def parse_options(words: Sequence[str]) -> TrainOptions:
    """
    :param words: words of the command line of a new run, without the program's name; also as ``wandb agent`` sends them
    :raises ValueError: on unknown flags or values that cannot be read
    """
    return new_options(given_options(words))


def new_options(given: Mapping[str, Any]) -> TrainOptions:
    """
    Options of a new run, with a drawn seed if none was given, and the hyper-parameters of a trial if one was.

    :param given: as :func:`given_options` returns it; ``resume`` is ignored
    :raises ValueError: on ``override``, which changes only a run that is resumed, and on flags of a search
    """
    if given.get("override") and "resume" not in given:
        raise ValueError("--override needs --resume. See --help.")
    reject_flags(given, _OF_SEARCHES, "--optimize")
    if "trial_id" in given:
        # A module that imports this one.
        trial = import_module("sb3_matrl.zoo.sweeping.stored_trial").trial_settings(given)
        hyperparams = {**trial["hyperparams"], **given.get("hyperparams", {})}
        given = {**trial, **given, "hyperparams": hyperparams}
    else:
        reject_flags(given, _OF_STUDIES, "--optimize or --trial-id")
    options = {name: value for name, value in given.items() if name not in ("resume", "override", *_OF_STUDIES)}
    options.setdefault("seed", secrets.randbits(31))
    options["track"] = options.get("track", False) or in_sweep(os.environ)
    return TrainOptions(**options)


def reject_flags(given: Mapping[str, Any], names: Iterable[str], needed: str) -> None:
    """
    :param given: as :func:`given_options` returns it
    :param names: names of options that must not be given
    :param needed: flag that they belong to
    :raises ValueError: if one is given
    """
    for name in names:
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} needs {needed}. See --help.")


def command_line(words: Sequence[str], options: TrainOptions) -> str:
    """
    :param words: words of the command line of a new run, without the program's name
    :param options: options read from them
    :return: command that repeats the run, with its seed even if that was drawn
    """
    drawn = "seed" not in given_options(words)
    return shlex.join([*command_prefix("train"), *words, *(["--seed", str(options.seed)] if drawn else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not set(words).isdisjoint(OPTIMIZE):
        return int(import_module("sb3_matrl.zoo.sweeping.optimize").main(words))  # which imports this module
    return run_process(lambda: _start(words))


def run_process(start: Callable[[], TrainingRun]) -> int:
    """
    Start and run a training; mistakes and interruptions become messages.

    :param start: makes the training
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    try:
        with user_errors():
            training = start()
        return training.run()
    except KeyboardInterrupt as error:
        print("interrupted; nothing more was saved", file=sys.stderr)
        return exit_code(error)


def _start(words: Sequence[str]) -> TrainingRun:
    given = given_options(words)
    from sb3_matrl.zoo.training.training_run import TrainingRun  # heavy: after the words are understood

    if "resume" not in given:
        options = new_options(given)
        return TrainingRun.begin(options, command_line(words, options))
    reject_flags(given, (*_OF_STUDIES, *_OF_SEARCHES), "a new run: leave --resume out, or this flag")
    others = {name: value for name, value in given.items() if name not in ("resume", "override")}
    command = shlex.join([*command_prefix("train"), *words])
    return TrainingRun.resume(Path(given["resume"]), others, given.get("override", False), command)


if __name__ == "__main__":
    sys.exit(main())
