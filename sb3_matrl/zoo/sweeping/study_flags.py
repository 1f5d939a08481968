"""Flags of a search that ``sweep`` and ``train --optimize`` have in common, with the names of rl-zoo."""

from __future__ import annotations

from sb3_matrl.zoo.common.cli import StrictParser, count, path, positive_count
from sb3_matrl.zoo.sweeping.sweep_options import DEFAULT_TRIALS, PRUNERS, SAMPLERS


def add_study_flags(parser: StrictParser, prefix: str = "") -> None:
    """
    Add the flags.

    :param parser: parser to which they are added
    :param prefix: words before every help text
    """

    def add(flag: str, text: str, **options: object) -> None:
        parser.add_argument(flag, help=prefix + text, **options)  # type: ignore[arg-type]

    trials = f"trials in total, with those of earlier calls; default: the sweep's run_cap, else the grid or {DEFAULT_TRIALS}"
    add("--n-trials", trials, type=positive_count)
    jobs = "trials at a time, each in a process of its own; the order in which they end then changes what TPE proposes"
    add("--n-jobs", jobs, type=positive_count, default=1)
    add("--study-name", "name of the study; default: name of the sweep")
    add("--storage", "data base of the study, e.g. sqlite:///study.db; default: study.db in the study's folder")
    add("--optimization-log-path", "folder of the study, instead of the one in the log folder", type=path)
    add("--sampler", "default: the sweep's method (tpe for bayes)", choices=SAMPLERS)
    add("--pruner", "stops bad trials early, at evaluations; default: the sweep's early_terminate", choices=PRUNERS)
    add("--n-startup-trials", "random trials before TPE, and before the median pruner", type=count, default=10)
