"""Draw learning curves: ``sb3-matrl plot train``, ``plot all`` or ``plot from-file``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_matrl.zoo.common.cli import (
    CommandParser,
    StrictParser,
    algorithm,
    environment,
    picture_size,
    positive_count,
    user_errors,
)

if TYPE_CHECKING:
    from sb3_matrl.zoo.plotting.curve_data import RunCurve
    from sb3_matrl.zoo.plotting.curve_panels import Look
    from sb3_matrl.zoo.reporting.run_loading import Run

EXAMPLES = """\
  sb3-matrl plot train logs/matrl/checkers_v0_1 logs/ippo/checkers_v0_1 -y rollout/ep_rew_mean -w 5
  sb3-matrl plot train -a matrl -e checkers_v0 -x seconds -o checkers.svg
  sb3-matrl plot all -a matrl ippo -e checkers_v0 switch_v0 -f logs -o comparison.png
  sb3-matrl plot from-file logs/benchmark/record.json -e checkers_v0 -s ippo matrl -l IPPO MATRL -o checkers.pdf
"""
RETURN = "rollout/ep_rew_mean"


def build_parser() -> CommandParser:
    """:return: parser of the three commands, with rl-zoo's flags where it has them"""
    commands = {"train": _train_parser(), "all": _all_parser(), "from-file": _file_parser()}
    return CommandParser("plot", "Draw learning curves of trainings and benchmarks.", EXAMPLES, commands)


def _train_parser() -> StrictParser:
    purpose = "Draw what trainings logged, one curve per run and key."
    parser = StrictParser("plot", purpose, "  sb3-matrl plot train logs/matrl/checkers_v0_1 -w 5")
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="*", help="run folders; or all runs of --algo and --env")
    _add_run_flags(parser)
    add("-y", "--keys", nargs="+", default=[RETURN], metavar="KEY", help="logged values, keys of progress.csv")
    add("-x", "--x-axis", choices=("steps", "seconds"), default="steps", help="environment steps, or seconds of training")
    add("-w", "--window", type=positive_count, default=1, help="mean of so many rows of the log")
    return _with_look(parser, "training.png")


def _all_parser() -> StrictParser:
    purpose = "Compare algorithms by the evaluations of their runs, over seeds."
    parser = StrictParser("plot", purpose, "  sb3-matrl plot all -a matrl ippo -e checkers_v0 switch_v0")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="*", help="run folders; or all runs of --algos and --envs")
    _add_run_flags(parser)
    data = "also write the curves into this JSON file, from which from-file draws them again"
    parser.add_argument("--data", type=Path, metavar="FILE", help=data)
    return _with_look(_with_statistics(parser), "evaluations.png")


def _file_parser() -> StrictParser:
    purpose = "Draw again what a benchmark or plot all recorded."
    parser = StrictParser("plot", purpose, "  sb3-matrl plot from-file logs/benchmark/record.json")
    add = parser.add_argument
    add("files", metavar="FILE", type=Path, nargs="+", help="record.json of a benchmark, or a file of plot all --data")
    add("-e", "--envs", type=environment, nargs="+", help="environments, in this order; default: all")
    add("-s", "--settings", nargs="+", help="settings or algorithms, in this order; default: all")
    return _with_look(_with_statistics(parser), "evaluations.png")


def _add_run_flags(parser: StrictParser) -> None:
    add = parser.add_argument
    add("-a", "--algos", "--algo", type=algorithm, nargs="+", help="algorithms; default: all that have runs")
    add("-e", "--envs", "--env", type=environment, nargs="+", help="environments; default: all that have runs")
    add("-f", "--exp-folders", "--log-folder", type=Path, nargs="+", default=[Path("logs")], help="folders of the runs")


def _with_statistics(parser: StrictParser) -> StrictParser:
    add = parser.add_argument
    add("--policy", choices=("sampled", "greedy"), default="sampled", help="actions of the evaluations")
    statistic = "mean with Student's 95 %% intervals, or interquartile mean with bootstrap intervals as in benchmarks"
    add("--statistic", choices=("mean", "iqm"), default="mean", help=statistic)
    return parser


def _with_look(parser: StrictParser, out: str) -> StrictParser:
    add = parser.add_argument
    add("-max", "--max-timesteps", type=positive_count, help="last step that is drawn")
    add("-l", "--labels", nargs="+", help="names in the legend, one per curve of a panel, in their order")
    add("-o", "--out", "--output", type=Path, default=Path(out), help="picture; its suffix is the format: .png, .svg or .pdf")
    add("--title", help="title of the picture")
    add("--figsize", type=picture_size, nargs=2, metavar=("WIDTH", "HEIGHT"), help="size of a panel in inches")
    add("--fontsize", type=picture_size, default=10.0, help="size of the text in points")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code
    :raises SystemExit: with code 2 on a mistake of the user
    """
    with user_errors():
        given = build_parser().parse_strictly(list(sys.argv[1:] if arguments is None else arguments))
        from sb3_matrl.zoo.plotting.curve_panels import check_suffix  # heavy: after the words are understood

        check_suffix(given.out)
        {"train": plot_logs, "all": plot_runs, "from-file": plot_files}[given.command](given)
    print(f"The curves are in {given.out}.")
    return 0


def plot_logs(given: argparse.Namespace) -> None:
    """
    Draw logged values of single runs.

    :param given: flags
    :raises ValueError: if no run has a key
    """
    import numpy as np

    from sb3_matrl.utils.suggest import unknown
    from sb3_matrl.zoo.plotting.curve_data import constant_sums, elapsed_seconds, smoothed
    from sb3_matrl.zoo.plotting.curve_panels import draw_log
    from sb3_matrl.zoo.reporting.played_games import different_games

    runs = find_runs(given)
    if RETURN in given.keys:
        _warn([*different_games(runs, ["trained"]), *constant_sums(runs)])
    logs = {run.name: run.progress for run in runs if run.progress is not None}
    curves: dict[str, Any] = {}
    for key in given.keys:
        known = sorted({one for log in logs.values() for one in log.numbers if log.has(one)})
        if key not in known:
            raise ValueError(unknown("key of the log", key, known))
        for name, log in logs.items():
            steps, values = log.numbers["time/total_timesteps"], log.numbers.get(key)
            x = elapsed_seconds(log) if given.x_axis == "seconds" else steps
            if values is not None:
                there = np.isfinite(values) & np.isfinite(x) & (steps <= (given.max_timesteps or np.inf))
                curves[name if len(given.keys) == 1 else f"{name}, {key}"] = smoothed(x[there], values[there], given.window)
    empty = [name for name, (x, _) in curves.items() if not len(x)]
    if len(empty) == len(curves):
        raise ValueError(
            f"nothing to draw: no run has {given.window} rows up to the last step, see --window and --max-timesteps"
        )
    _warn(f"{name} has fewer than {given.window} rows up to the last step" for name in empty)
    names = ("environment steps" if given.x_axis == "steps" else "seconds", given.keys[0] if len(given.keys) == 1 else "")
    draw_log(given.out, curves, names, look_of(given, list(curves)))


def plot_runs(given: argparse.Namespace) -> None:
    """
    Draw evaluations of run folders, aggregated over seeds.

    :param given: flags
    :raises ValueError: if a run has no evaluations
    """
    from sb3_matrl.zoo.common.records import write_json
    from sb3_matrl.zoo.plotting.curve_data import constant_sums, curve_of_run, mixed_runs
    from sb3_matrl.zoo.reporting.played_games import different_games

    runs = find_runs(given)
    _warn([*mixed_runs(runs), *different_games(runs, ["evaluated"]), *constant_sums(runs)])
    curves = [curve_of_run(run) for run in runs]
    if given.data is not None:
        write_json(given.data, {"runs": [curve.as_json() for curve in curves]})
    draw_aggregates(given, curves)


def plot_files(given: argparse.Namespace) -> None:
    """
    Draw recorded curves.

    :param given: flags
    :raises ValueError: if a file holds no curves, or not those that are asked for
    """
    from sb3_matrl.zoo.plotting.curve_data import read_curves, repeated_seeds, selected

    files = {file.resolve(): file for file in given.files}  # a file that is given twice counts once
    curves = selected([curve for file in files.values() for curve in read_curves(file)], given.envs, given.settings)
    _warn(repeated_seeds(curves))
    draw_aggregates(given, curves)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def draw_aggregates(given: argparse.Namespace, curves: Sequence[RunCurve]) -> None:
    """
    Draw curves over seeds, and print their last values.

    :param given: flags
    :param curves: curves of runs
    :raises ImportError: if ``--statistic iqm`` needs a package that is missing
    """
    from sb3_matrl.zoo.benchmarking.comparison import few_seeds
    from sb3_matrl.zoo.benchmarking.run_statistics import require_rliable
    from sb3_matrl.zoo.plotting.curve_data import aggregated, final_table, up_to
    from sb3_matrl.zoo.plotting.curve_panels import draw_methods

    if given.statistic == "iqm":
        require_rliable()
    methods = aggregated(up_to(curves, given.max_timesteps), given.policy, given.statistic)
    names = list(dict.fromkeys(curve.method for curve in methods))
    name = "mean" if given.statistic == "mean" else "interquartile mean"
    draw_methods(given.out, methods, f"team return, {given.policy} ({name})", look_of(given, names))
    print(final_table(methods))
    for line in few_seeds(min(curve.n_runs for curve in methods)):
        print(line, file=sys.stderr)


def find_runs(given: argparse.Namespace) -> list[Run]:
    """
    Run folders that are named, or those of some algorithms and environments; these are skipped with a warning if they have no
    results yet.

    :param given: flags
    :raises ValueError: if both are given, or there are no such runs
    :raises FileNotFoundError: if a folder does not exist
    """
    from sb3_matrl.zoo.common.run_folder import runs_below
    from sb3_matrl.zoo.reporting.run_loading import load_run, load_runs, run_names

    if given.runs:
        if given.algos or given.envs:
            raise ValueError("run folders are named, which --algos and --envs would find: leave one of them out")
        return load_runs(list({path.resolve(): path for path in given.runs}.values()))
    for folder in given.exp_folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}: name run folders, or --exp-folders that hold some")
    paths = list({path.resolve(): path for folder in given.exp_folders for path in runs_below(folder)}.values())
    runs, names = [], run_names([path.resolve() for path in paths]) if paths else []
    for path, name in zip(paths, names, strict=True):
        try:
            runs.append(load_run(path, name))
        except ValueError as error:
            print(f"warning: {error}", file=sys.stderr)
    if not runs:
        raise ValueError(f"there are no runs with results in {', '.join(map(str, given.exp_folders))}")
    return _of("env", given.envs, _of("algo", given.algos, runs))


def _of(option: str, wanted: Sequence[str] | None, runs: Sequence[Run]) -> list[Run]:
    """Runs with one of the wanted values of an option, in their order."""
    from sb3_matrl.utils.suggest import unknown

    if wanted is None:
        return list(runs)
    known = list(dict.fromkeys(str(run.arguments.get(option)) for run in runs))
    for value in wanted:
        if value not in known:
            raise ValueError(unknown(f"among the runs the {option}", value, known))
    return [run for value in dict.fromkeys(wanted) for run in runs if run.arguments.get(option) == value]


def look_of(given: argparse.Namespace, names: Sequence[str]) -> Look:
    """
    :param given: flags
    :param names: names of the curves
    :raises ValueError: if there is another number of labels
    """
    from sb3_matrl.zoo.plotting.curve_panels import Look

    if given.labels and len(given.labels) != len(names):
        raise ValueError(
            f"--labels: {len(names)} curves need {len(names)} labels, got {len(given.labels)}: {', '.join(names)}"
        )
    size = None if given.figsize is None else (given.figsize[0], given.figsize[1])
    return Look(given.title, size, given.fontsize, dict(zip(names, given.labels or names, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
