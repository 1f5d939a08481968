"""``train --optimize``: search the hyper-parameters of the training that the rest of the command line describes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.zoo.common.cli import StrictParser, path, user_errors
from sb3_matrl.zoo.common.hyperparameters import schema_fields
from sb3_matrl.zoo.common.invocation import command_prefix
from sb3_matrl.zoo.common.run_folder import safe_name
from sb3_matrl.zoo.common.words import normalise_words
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.sweep import checked_config, on_optuna
from sb3_matrl.zoo.sweeping.study_flags import add_study_flags
from sb3_matrl.zoo.sweeping.sweep_file import ARGS, COMMAND_START, SweepConfig, find_sweep_file, sweep_from_mapping
from sb3_matrl.zoo.sweeping.sweep_options import SweepOptions
from sb3_matrl.zoo.train import OPTIMIZE, build_parser, given_options
from sb3_matrl.zoo.training.options import TrainOptions

# Conf file of an algorithm -> shipped sweep whose parameters are searched.
SPACES = {"matrl": "matrl_checkers", "value_based": "value_checkers", "actor_critic": "maddpg_hopper"}
# Switch that an algorithm may have off -> beginning of the parameters that then have no effect.
_SWITCHES = {"best_response": "br_", "metagame": "payoff_"}
# Seed of trial 0, as of sweeps: not one of those of reported results.
FIRST_SEED = 1000


def search_source(algorithm: str, sweep: str | None, words: Sequence[str], fixed: Collection[str] = ()) -> dict[str, Any]:
    """
    A sweep with the parameters of a file and the command of this training.

    :param algorithm: name of the algorithm
    :param sweep: path of a sweep file or name of a shipped one; ``None`` for the shipped parameters that the algorithm has
    :param words: words of the training, without those of the search
    :param fixed: hyper-parameters among these words, which are left out of shipped parameters
    :return: content of a sweep file
    :raises ValueError: if there are no shipped parameters for the algorithm
    :raises FileNotFoundError: if there is no such file
    """
    shipped = SPACES.get(algorithm_spec(algorithm).conf_file)
    if sweep is None and shipped is None:
        raise ValueError(f"no parameters of {algorithm} to search are shipped: name a sweep file that has some, --sweep FILE")
    source = read_yaml(find_sweep_file(sweep or str(shipped)))
    parameters = source.get("parameters")
    if sweep is None and isinstance(parameters, Mapping):
        effective = {name: spec for name, spec in parameters.items() if _is_effective(str(name), algorithm)}
        parameters = {name: spec for name, spec in effective.items() if not _is_fixed(name, fixed)}
        if not parameters:
            raise ValueError(
                "nothing is left to search: the command line gives all hyper-parameters that --optimize would search"
            )
    kept: dict[str, Any] = {
        name: source[name] for name in ("method", "metric", "early_terminate", "run_cap") if name in source
    }
    return {"program": "zoo/train.py", **kept, "parameters": parameters, "command": [*COMMAND_START, *words, ARGS]}


def _is_effective(parameter: str, algorithm: str) -> bool:
    """Whether an algorithm has a hyper-parameter, and uses it."""
    fixed = algorithm_spec(algorithm).fixed
    unused = any(parameter.startswith(start) for switch, start in _SWITCHES.items() if fixed.get(switch) is False)
    return parameter.partition(".")[0] in schema_fields(algorithm) and not unused


def _is_fixed(parameter: str, fixed: Collection[str]) -> bool:
    """Whether the command line gives a hyper-parameter, the mapping that it is in, or a part of it."""
    return any(f"{one}.".startswith(f"{parameter}.") or f"{parameter}.".startswith(f"{one}.") for one in fixed)


def split_words(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """
    Take the words of the search out of a command line that ``train`` has understood.

    :param words: words of the command line
    :return: flags of the search by name, and the other words in their order
    """
    parser = StrictParser("train", "", "")
    parser.add_argument(*OPTIMIZE, dest="optimize", action="store_true")
    parser.add_argument("--sweep", type=path)
    add_study_flags(parser)
    parser.add_argument("--n-evaluations", type=int)
    known, rest = parser.parse_known_args(normalise_words(words, build_parser()))
    return vars(known), rest


def search_options(given: Mapping[str, Any], search: Mapping[str, Any]) -> SweepOptions:
    """
    :param given: options of the training on the command line
    :param search: flags of the search
    """
    defaults = TrainOptions(seed=FIRST_SEED)
    algo, env = given.get("algo", defaults.algo), given.get("env", defaults.env)
    name = search["study_name"] or safe_name(f"{algo}_{env}")
    kept = ("n_trials", "storage", "sampler", "pruner", "n_startup_trials", "optimization_log_path", "n_jobs", "n_evaluations")
    unused = ("n_timesteps", "eval_freq", "eval_episodes", "out", "summary", "wandb_project_name", "wandb_entity")
    others: dict[str, Any] = {**dict.fromkeys(unused), **{key: search[key] for key in kept}}
    return SweepOptions(
        **others,
        sweep=name,
        study_name=name,
        backend="optuna",
        seed=given.get("seed", FIRST_SEED),
        log_folder=given.get("log_folder", defaults.log_folder),
        comparison_seeds=0,
        comparison_episodes=100,
        # The user typed the command of the trials; only a file that the user names could choose what runs.
        trust=bool(given.get("trust")) or search["sweep"] is None,
    )


def checked_search(words: Sequence[str]) -> tuple[SweepOptions, SweepConfig, TrainOptions]:
    """
    :param words: words of the command line
    :return: options of the study, the sweep, and options of a training with the first values of all parameters
    :raises ValueError: on a mistake in the command line or the sweep
    """
    given = given_options(words)
    for name in ("resume", "trial_id", "run_dir"):
        if name in given:
            raise ValueError(f"--{name.replace('_', '-')} is for one training: leave it out, or --optimize")
    search, rest = split_words(words)
    options = search_options(given, search)
    source = search_source(given.get("algo", TrainOptions(seed=0).algo), search["sweep"], rest, given.get("hyperparams", {}))
    config = replace(sweep_from_mapping(source), trust=options.trust)
    return options, *checked_config(config, options, options.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with user_errors():
            options, config, first = checked_search(words)
        return on_optuna(options, config, first, shlex.join([*command_prefix("train"), *words]))
    except KeyboardInterrupt:
        print("interrupted; no trial had begun", file=sys.stderr)
        return 130
