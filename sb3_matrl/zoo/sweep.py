"""Search hyper-parameters: ``python zoo/sweep.py zoo/sweeps/matrl_checkers.yaml``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from sb3_matrl.zoo.common.cli import StrictParser, count, positive_count, seed, user_errors
from sb3_matrl.zoo.sweeping.sweep_file import SweepConfig, find_sweep_file, read_sweep
from sb3_matrl.zoo.sweeping.sweep_options import DEFAULT_TRIALS, PRUNERS, SAMPLERS, SweepOptions
from sb3_matrl.zoo.sweeping.trial import check_parameters, with_budget
from sb3_matrl.zoo.sweeping.wandb_agent import register, run_agent
from sb3_matrl.zoo.training.options import TrainOptions

EXAMPLES = """\
  python zoo/sweep.py zoo/sweeps/matrl_checkers.yaml --n-trials 20
  python zoo/sweep.py matrl_checkers --n-trials 40          (goes on with the same study, up to 40 trials)
  python zoo/sweep.py matrl_checkers --sampler random --pruner median --study-name random_search
  python zoo/sweep.py matrl_checkers --comparison-seeds 3   (is the best better than the conf file's?)
  python zoo/sweep.py zoo/sweeps/matrl_checkers.yaml --backend wandb --n-trials 20

The file is in W&B's sweep schema; `wandb sweep FILE` takes it, too. A study that was stopped or killed goes on when the
same command is given again. Several processes may work on one study: give the others the same command and another --seed.
"""


def build_parser() -> StrictParser:
    """The flags, with rl-zoo's names where it has them."""
    parser = StrictParser("Search the hyper-parameters of train.py.", EXAMPLES)
    add = parser.add_argument
    add("sweep", metavar="SWEEP", help="sweep file (YAML), or the name of a shipped one")
    add("--backend", choices=["optuna", "wandb"], default="optuna", help="search here, or by W&B's server and agent")
    trials = (
        f"trials in total, with those of earlier calls; None: the sweep's run_cap, else the whole grid or {DEFAULT_TRIALS}"
    )
    add("--n-trials", type=positive_count, help=trials)
    add("--study-name", help="name of the study; None: name of the file")
    add("--storage", help="data base of the study, e.g. sqlite:///study.db; None: study.db in the study's folder")
    add("--sampler", choices=SAMPLERS, help="None: the sweep's method (tpe for bayes)")
    add("--pruner", choices=PRUNERS, help="stops bad trials early, at evaluations; None: the sweep's early_terminate")
    add("--n-startup-trials", type=count, default=10, help="random trials before TPE, and before the median pruner")
    add("--seed", type=seed, default=1000, help="of the sampler; trial k trains with seed + k")
    add("-n", "--n-timesteps", type=positive_count, help="steps of a trial; None: what the sweep says")
    often = parser.add_mutually_exclusive_group()
    often.add_argument("--eval-freq", type=positive_count, help="steps between evaluations; None: what the sweep says")
    often.add_argument("--n-evaluations", type=positive_count, help="evaluations per trial, instead of --eval-freq")
    add("--eval-episodes", type=positive_count, help="episodes per evaluation; None: what the sweep says")
    add("-f", "--log-folder", default="logs", help="the study goes to <log folder>/sweeps/<study name>")
    add("--optimization-log-path", help="folder of the study, instead of the one in the log folder")
    add("--out", help="file for the best hyper-parameters, for train.py --conf-file; None: best.yml in the study's folder")
    add("--summary", help="file for the record of the study; None: summary.json in its folder")
    comparison = "retrain best and default hyper-parameters with the seeds 0 to N - 1 and compare them; 0: do not"
    add("--comparison-seeds", type=count, default=0, metavar="N", help=comparison)
    add("--comparison-episodes", type=positive_count, default=100, help="episodes of each final evaluation in the comparison")
    add("--wandb-project-name", help="project of Weights & Biases; None: the sweep's, else sb3-matrl")
    add("--wandb-entity", help="user or team of Weights & Biases; None: the sweep's, else the account's default")
    return parser


def parse_options(words: Sequence[str]) -> SweepOptions:
    """
    :param words: of the command line, without the program's name
    :raises ValueError: on unknown flags or values that cannot be read
    """
    options = SweepOptions(**vars(build_parser().parse_strictly(words)))
    if options.seed < options.comparison_seeds:
        raise ValueError(
            f"--seed {options.seed} lets trials train with the comparison's seeds 0 to {options.comparison_seeds - 1}; "
            f"give a --seed of at least {options.comparison_seeds}"
        )
    return options


def checked_sweep(options: SweepOptions) -> tuple[SweepConfig, TrainOptions]:
    """
    Read the sweep and check all of it.

    :return: the sweep, and options of a training with the first values of all parameters
    :raises ValueError: on anything that is wrong; names the parameter
    :raises OSError: when the file cannot be read
    """
    path = find_sweep_file(options.sweep)
    config = read_sweep(path)
    try:
        config = with_budget(config, options.budget)
        return config, check_parameters(config)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def on_wandb(options: SweepOptions, config: SweepConfig) -> int:
    """
    Search by W&B's server and agent.

    :return: exit code of the agent
    """
    project = options.wandb_project_name or config.project or "sb3-matrl"
    with user_errors():
        sweep = register(config, project, options.wandb_entity or config.entity)
    return run_agent(sweep, options.n_trials or config.run_cap or DEFAULT_TRIALS)


def on_optuna(options: SweepOptions, config: SweepConfig, first: TrainOptions, words: Sequence[str]) -> int:
    """
    Search by a local study.

    :param first: options of a training with the first values of all parameters
    :param words: of the command line
    :return: exit code
    """
    with user_errors():
        if importlib.util.find_spec("optuna") is None:
            raise ImportError("--backend optuna needs Optuna: pip install 'sb3-matrl[sweep]'")
        from sb3_matrl.zoo.sweeping.local import LocalSweep

        sweep = LocalSweep(options, config, first)
    return sweep.run(words)


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
            config, first = checked_sweep(options)
        if options.backend == "wandb":
            return on_wandb(options, config)
        return on_optuna(options, config, first, words)
    except KeyboardInterrupt:
        print("interrupted; no trial had begun", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
