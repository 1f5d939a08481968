"""Search hyper-parameters: ``sb3-matrl sweep matrl_checkers``."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_matrl.zoo.common.cli import StrictParser, count, path, positive_count, seed, user_errors
from sb3_matrl.zoo.common.invocation import command_prefix
from sb3_matrl.zoo.common.ray_tasks import require_ray
from sb3_matrl.zoo.sweeping.study_flags import add_study_flags
from sb3_matrl.zoo.sweeping.sweep_options import DEFAULT_TRIALS, SweepOptions

if TYPE_CHECKING:
    from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig
    from sb3_matrl.zoo.training.options import TrainOptions

EXAMPLES = """\
  sb3-matrl sweep zoo/sweeps/matrl_checkers.yaml --n-trials 20
  sb3-matrl sweep matrl_checkers --n-trials 40          (continues the same study, up to 40 trials)
  sb3-matrl sweep matrl_checkers --sampler random --pruner median --study-name random_search
  sb3-matrl sweep matrl_checkers --comparison-seeds 3   (is the best better than the conf file's?)
  sb3-matrl sweep matrl_checkers --backend ray --n-jobs 8 --n-trials 40
  sb3-matrl sweep zoo/sweeps/matrl_checkers.yaml --backend wandb --n-trials 20

The file is in W&B's sweep schema; `wandb sweep FILE` takes it, too. Give the same command again to continue a study that was
stopped or killed. --n-jobs runs several trials at a time. Processes on other machines may work on the same study, too: give
them the same --storage and another --seed.
"""


def build_parser() -> StrictParser:
    """:return: parser with rl-zoo's flags where it has them"""
    parser = StrictParser("sweep", "Search the hyper-parameters of a training.", EXAMPLES)
    _add_search_flags(parser)
    _add_trial_flags(parser)
    _add_output_flags(parser)
    return parser


def _add_search_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("sweep", type=path, metavar="SWEEP", help="sweep file (YAML), or the name of a shipped one")
    backend = "search here, here with trials as tasks of Ray, or by W&B's server and agent"
    add("--backend", choices=["optuna", "ray", "wandb"], default="optuna", help=backend)
    address = "Ray cluster of --backend ray, such as auto; default: RAY_ADDRESS, or a new one on this machine"
    add("--ray-address", metavar="ADDRESS", help=address)
    add_study_flags(parser)
    add("--trust", action="store_true", help="accept an environment module:callable that the sweep file names; its code runs")
    add("--seed", type=seed, default=1000, help="seed of the sampler; trial k trains with seed + k")


def _add_trial_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("-n", "--n-timesteps", type=positive_count, help="steps of a trial; default: those of the sweep")
    often = parser.add_mutually_exclusive_group()
    often.add_argument("--eval-freq", type=positive_count, help="steps between evaluations; default: those of the sweep")
    often.add_argument("--n-evaluations", type=positive_count, help="evaluations per trial, instead of --eval-freq")
    add("--eval-episodes", type=positive_count, help="episodes per evaluation; default: those of the sweep")


def _add_output_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("-f", "--log-folder", type=path, default="logs", help="the study goes to <log folder>/sweeps/<study name>")
    best = "file for the best hyper-parameters, for train --conf-file; default: best.yml in the study's folder"
    add("--out", type=path, help=best)
    add("--summary", type=path, help="file for the record of the study; default: summary.json in its folder")
    comparison = "retrain best and default hyper-parameters with the seeds 0 to N - 1 and compare them; 0: do not"
    add("--comparison-seeds", type=count, default=0, metavar="N", help=comparison)
    add("--comparison-episodes", type=positive_count, default=100, help="episodes of each final evaluation in the comparison")
    add("--wandb-project-name", help="project of Weights & Biases; default: the sweep's, else sb3-matrl")
    add("--wandb-entity", help="user or team of Weights & Biases; default: the sweep's, else that of the account")


def parse_options(words: Sequence[str]) -> SweepOptions:
    """
    :param words: words of the command line, without the program's name
    :raises ValueError: on unknown flags or values that cannot be read
    """
    options = SweepOptions(**vars(build_parser().parse_strictly(words)))
    if options.seed < options.comparison_seeds:
        raise ValueError(
            f"--seed {options.seed} lets trials train with the comparison's seeds 0 to {options.comparison_seeds - 1}; "
            f"give a --seed of at least {options.comparison_seeds}"
        )
    for flag, file in (("--out", options.out), ("--summary", options.summary)):
        if file is not None and Path(file).is_dir():
            raise ValueError(f"{flag} {file} is a folder; give a file")
    if options.backend == "wandb" and options.n_jobs > 1:
        raise ValueError("--n-jobs is for --backend optuna or ray: for W&B's server start `wandb agent` several times")
    return options


def checked_sweep(options: SweepOptions) -> tuple[SweepConfig, TrainOptions]:
    """
    Read the sweep and check all of it.

    :return: the sweep, and options of a training with the first values of all parameters
    :raises ValueError: on a mistake in the file; names the parameter
    :raises OSError: if the file cannot be read
    """
    from sb3_matrl.zoo.sweeping.sweep_file import find_sweep_file, read_sweep

    sweep_file = find_sweep_file(options.sweep)
    return checked_config(replace(read_sweep(sweep_file), trust=options.trust), options, sweep_file.name)


def checked_config(config: SweepConfig, options: SweepOptions, name: str) -> tuple[SweepConfig, TrainOptions]:
    """
    Set the length of the trials and check all parameters.

    :param config: the sweep
    :param options: options of the command line
    :param name: name of the sweep, for errors
    :return: the sweep, and options of a training with the first values of all parameters
    :raises ValueError: on a mistake; names the parameter
    """
    from sb3_matrl.zoo.sweeping.trial import check_parameters, with_budget  # heavy: after the words are understood

    try:
        config = with_budget(config, options.budget)
        return config, check_parameters(config)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def on_wandb(options: SweepOptions, config: SweepConfig) -> int:
    """
    Search with W&B's server and agent.

    :return: exit code of the agent
    """
    from sb3_matrl.zoo.sweeping.wandb_agent import register, run_agent

    project = options.wandb_project_name or config.project or "sb3-matrl"
    with user_errors():
        sweep = register(config, project, options.wandb_entity or config.entity)
    return run_agent(sweep, options.n_trials or config.run_cap or DEFAULT_TRIALS)


def on_optuna(options: SweepOptions, config: SweepConfig, first: TrainOptions, command: str) -> int:
    """
    Search with a local study.

    :param first: options of a training with the first values of all parameters
    :param command: command line that continues the study
    :return: exit code
    """
    with user_errors():
        if importlib.util.find_spec("optuna") is None:
            raise ImportError(f"--backend {options.backend} needs Optuna: pip install 'sb3-matrl[sweep]'")
        if options.backend == "ray":
            require_ray()
        from sb3_matrl.zoo.sweeping.local import LocalSweep

        sweep = LocalSweep(options, config, first)
    return sweep.run(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with user_errors():
            options = parse_options(words)
            config, first = checked_sweep(options)
        if options.backend == "wandb":
            return on_wandb(options, config)
        return on_optuna(options, config, first, shlex.join([*command_prefix("sweep"), *words]))
    except KeyboardInterrupt:
        print("interrupted; no trial had begun", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
