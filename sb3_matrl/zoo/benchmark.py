"""Compare algorithms: ``sb3-matrl benchmark --algos matrl ippo --envs checkers_v0 switch_v0 --seeds 5``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.benchmarking.suite_names import ALL_SUITES, suite_names
from sb3_matrl.zoo.common.cli import (
    ENV_IDS,
    VEC_ENVS,
    StrictParser,
    algorithm,
    count,
    device,
    environment,
    path,
    positive_count,
    seed,
    user_errors,
)
from sb3_matrl.zoo.common.locking import locked_folder
from sb3_matrl.zoo.common.yaml_files import parse_pairs, parse_yaml, read_yaml

if TYPE_CHECKING:
    from sb3_matrl.zoo.benchmarking.execution import Outcome
    from sb3_matrl.zoo.benchmarking.plan import BenchmarkOptions, PlannedRun

EXAMPLES = """\
  sb3-matrl benchmark --algos matrl il-la ippo --envs checkers_v0 switch_v0 --seeds 5 --jobs 2
  sb3-matrl benchmark --algos matrl ippo --setting "ippo, 15 epochs: {algo: ippo, n_epochs: 15}" --envs hopper_3x1
  sb3-matrl benchmark --algos matrl ippo vdn qmix --envs checkers_v0 -n 200000
  sb3-matrl benchmark --envs switch_v0 --env-kwargs "switch_v0: {n_agents: 2, clock: true}" --seed-list 7 8 9
  sb3-matrl benchmark --envs checkers_v0 switch_v0 --aggregate --bounds "checkers_v0: [0, 20]"
  sb3-matrl benchmark --suite coordination --seeds 10 --jobs 2
  sb3-matrl benchmark --suite all --tasks chicken kuhn_poker --methods matrl il-la

Give the same command again to continue a benchmark that was interrupted.
"""

# Compared where nothing else is asked for: MATRL and its ablations.
DEFAULT_ALGOS = ("matrl", "matrl-no-br", "il-la", "ippo")
IN_USE = "is in use by another benchmark, or by a run that one left behind"
INTERRUPTED = "interrupted: finished runs are kept; give the same command again to continue"

# Flags that a suite leaves to the user, and those that have other defaults in it.
SUITE_FLAGS = (
    *("suite", "tasks", "methods", "seeds", "seed_list", "n_timesteps", "eval_episodes", "vec_env", "device"),
    *("num_threads", "jobs", "backend", "ray_address", "out", "settings"),
)
SUITE_DEFAULTS = {"out": "logs/suite", "seeds": 10}

# Flags for name: value pairs.
NAMED = ("setting", "env_kwargs", "bounds")


def build_parser() -> StrictParser:
    """:return: parser of the flags; those that train has too mean the same"""
    parser = StrictParser("benchmark", "Train several methods with several seeds, and compare them.", EXAMPLES)
    _add_method_flags(parser)
    _add_suite_flags(parser)
    _add_run_flags(parser)
    _add_report_flags(parser)
    return parser


def _named(metavar: str) -> dict[str, Any]:
    """Arguments of a flag for ``name: value`` pairs."""
    return {"action": "extend", "nargs": "+", "type": one_pair, "default": [], "metavar": metavar}


def _add_method_flags(parser: StrictParser) -> None:
    """Flags of methods, environments and seeds."""
    add = parser.add_argument
    names, default = ", ".join(algorithm_names()), ", ".join(DEFAULT_ALGOS)
    add("--algos", type=algorithm, nargs="+", help=f"algorithms, some of {names}; default: {default}, or none with --setting")
    setting = "method with changed hyper-parameters; its algo is one of them unless the name says it"
    add("--setting", help=setting, **_named("NAME: {KEY: VALUE}"))
    add("--settings", type=path, help="YAML file of such settings, or of a whole benchmark with the flags as keys; flags win")
    envs = f"environments, each {ENV_IDS}"
    add("--envs", type=environment, nargs="+", default=["checkers_v0"], help=envs)
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=positive_count, default=5, help="number of seeds: 0, 1, ...")
    seeds.add_argument("--seed-list", type=seed, nargs="+", help="these seeds instead")


def _add_suite_flags(parser: StrictParser) -> None:
    """Flags of the shipped suites."""
    add = parser.add_argument
    suite = "shipped tasks with their methods, settings and budgets, instead of --algos and --envs; 10 seeds by default"
    add("--suite", choices=[*suite_names(), ALL_SUITES], help=suite)
    add("--tasks", nargs="+", metavar="TASK", help="these tasks of the suite only")
    add("--methods", nargs="+", metavar="METHOD", help="these methods of the suite only, and the one they are compared with")


def _add_run_flags(parser: StrictParser) -> None:
    """Flags of every run, and of the machine."""
    add = parser.add_argument
    add("-n", "--n-timesteps", type=positive_count, help="steps of each run over all copies; default: those of the conf file")
    pairs: dict[str, Any] = {"action": "extend", "nargs": "+", "default": [], "metavar": "KEY:VALUE"}
    add("-params", "--hyperparams", help="hyper-parameters to change in all settings, as YAML", **pairs)
    add("--env-kwargs", help="options of an environment", **_named("ENV: {KEY: VALUE}"))
    conf_file = "hyper-parameters: a YAML file keyed by env id, or the name of a shipped one; default: that of the algorithm"
    add("--conf-file", type=path, help=conf_file)
    add("--eval-freq", type=count, default=10_000, help="steps between evaluations; -1: only at the end")
    add("--eval-episodes", type=positive_count, default=20, help="episodes per evaluation, sampled and greedy each")
    add("--vec-env", choices=VEC_ENVS, default="auto", help="how copies are stepped")
    add("--device", type=device, default="auto", help="auto, cpu, cuda, ...")
    add("--num-threads", type=positive_count, default=1, help="threads of each run")
    add("--jobs", type=positive_count, help="runs at a time; default: one per CPU of this machine, or of the Ray cluster")
    add("--trust", action="store_true", help="accept environments module:callable of the settings file, whose code then runs")
    add("--backend", choices=["local", "ray"], default="local", help="runs as processes of this machine, or as tasks of Ray")
    address = "Ray cluster of --backend ray, such as auto; default: RAY_ADDRESS, or a new one on this machine"
    add("--ray-address", metavar="ADDRESS", help=address)


def _add_report_flags(parser: StrictParser) -> None:
    """Flags of the results."""
    add = parser.add_argument
    add("--out", type=path, default="logs/benchmark", help="folder of the runs, tables and pictures")
    add("--reference", help="setting that the others are compared with; default: ippo if it takes part, else the first one")
    add("--aggregate", action="store_true", help="add a table of normalised scores over all environments")
    bounds = "returns that become 0 and 1 there; default: those of chance and of the best run"
    add("--bounds", help=bounds, **_named("ENV: [LOW, HIGH]"))


def one_pair(text: str) -> tuple[str, Any]:
    """``name: value`` as YAML; names may contain colons that no space follows."""
    try:
        content = parse_yaml(text)
    except ValueError:
        content = None
    if not isinstance(content, dict) or len(content) != 1:
        raise argparse.ArgumentTypeError(f"expected one 'name: {{key: value}}' as YAML, got {text!r}")
    ((name, value),) = content.items()
    return str(name), value


def mapping(pairs: Iterable[tuple[str, Any]], flag: str) -> dict[str, Any]:
    """
    :param pairs: names and values of the command line
    :param flag: flag that errors name
    :raises ValueError: on a name given twice
    """
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{flag}: {name!r} is given twice")
        content[name] = value
    return content


def parse_words(words: Sequence[str]) -> argparse.Namespace:
    """
    Read the command line and the file of settings, whose values the command line overrides.

    :param words: words of the command line, without the program's name
    :return: flags by name; ``setting``, ``env_kwargs``, ``bounds`` and ``hyperparams`` are mappings
    :raises ValueError: on flags or keys that are unknown, or values that cannot be read
    :raises OSError: if the file of settings cannot be read
    """
    parser = build_parser()
    given = _read_mappings(parser.parse_given(words))
    of_file = _read_settings(given.get("settings"), parser)
    if "envs" not in given and not given.get("trust"):
        _check_envs(of_file.get("envs", []), given.get("settings"))
    merged = {**_read_mappings(vars(parser.parse_strictly([]))), **of_file}
    if "seeds" in given:
        merged["seed_list"] = None  # of the file
    merged.update(_suite_defaults({**of_file, **given}))
    for name, value in given.items():
        merged[name] = {**merged[name], **value} if isinstance(value, dict) else value
    return argparse.Namespace(**merged)


def _suite_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Defaults of flags that are not given, if there is a suite.

    :raises ValueError: on a flag that contradicts the suite, or needs one
    """
    if "suite" not in given:
        for name in ("tasks", "methods"):
            if name in given:
                raise ValueError(f"--{name} needs --suite")
        return {}
    for name in given:
        if name not in SUITE_FLAGS:
            raise ValueError(f"--suite has its own --{name.replace('_', '-')}: leave one of them out")
    return {name: value for name, value in SUITE_DEFAULTS.items() if name not in given}


def _read_settings(file: str | None, parser: StrictParser) -> dict[str, Any]:
    from sb3_matrl.zoo.benchmarking.settings_file import flag_words

    if file is None:
        return {}
    try:
        return _read_mappings(parser.parse_given(flag_words(read_yaml(Path(file)), parser.flags)))
    except ValueError as error:
        raise ValueError(f"{Path(file).name}: {error}") from None


def _check_envs(envs: Sequence[str], file: str | None) -> None:
    """
    :raises ValueError: if the settings file names an environment ``module:callable``
    """
    from sb3_matrl.zoo.common.trusted_envs import check_env_of_file  # heavy

    for env in envs:
        if ":" in env:
            check_env_of_file(env, Path(file or "").name, flag="--envs")


def _read_mappings(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags with mappings in place of the words for them."""
    read = {name: mapping(flags[name], f"--{name.replace('_', '-')}") for name in NAMED if name in flags}
    if "hyperparams" in flags:
        read["hyperparams"] = parse_pairs(flags["hyperparams"], "--hyperparams")
    return {**flags, **read}


def benchmark_options(given: argparse.Namespace) -> BenchmarkOptions:
    """
    :param given: flags, as :func:`parse_words` returns them
    :raises ValueError: on flags that contradict each other
    """
    from sb3_matrl.zoo.benchmarking.plan import BenchmarkOptions, read_settings

    algos = given.algos if given.algos is not None else ([] if given.setting else DEFAULT_ALGOS)
    for env, values in given.env_kwargs.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"--env-kwargs: {env} needs a mapping of options, got {values!r}")
    return BenchmarkOptions(
        settings=read_settings(algos, given.setting),
        envs=tuple(given.envs),
        seeds=asked_seeds(given),
        **{name: getattr(given, name) for name in ("out", "n_timesteps", "hyperparams", "env_kwargs", "conf_file")},
        **{name: getattr(given, name) for name in ("eval_freq", "eval_episodes", "vec_env", "device", "num_threads")},
    )


def asked_seeds(given: argparse.Namespace) -> tuple[int, ...]:
    """
    :param given: flags
    :raises ValueError: if a seed is given twice
    """
    seeds = tuple(given.seed_list or range(given.seeds))
    if len(set(seeds)) < len(seeds):
        raise ValueError("--seed-list: a seed is given twice")
    return seeds


def reference_setting(options: BenchmarkOptions, asked: str | None) -> str:
    """
    :param asked: name given by the user
    :return: name of the setting that the others are compared with
    :raises ValueError: if no setting has that name
    """
    names = [setting.name for setting in options.settings]
    if asked is not None and asked not in names:
        raise ValueError("--reference: " + unknown("setting", asked, names))
    return asked or ("ippo" if "ippo" in names else names[0])


def read_bounds(given: Mapping[str, Any], envs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """
    :param given: environment -> ``[low, high]``
    :param envs: environments of the benchmark
    :raises ValueError: if an environment does not take part, or a value is no such pair
    """
    bounds = {}
    for env, value in given.items():
        if env not in envs:
            raise ValueError("--bounds: " + unknown("env", env, envs))
        try:
            low, high = map(float, value)
        except (TypeError, ValueError):
            low = high = 0.0
        if not low < high:
            raise ValueError(f"--bounds: {env} needs [low, high] with low < high, got {value!r}")
        bounds[env] = (low, high)
    return bounds


def run_benchmark(
    runs: Sequence[PlannedRun], out: Path, backend: str, jobs: int | None = None, ray_address: str | None = None
) -> Outcome:
    """
    Run everything that is not finished.

    :param runs: all runs
    :param out: folder of the benchmark
    :param backend: ``local`` or ``ray``
    :param jobs: runs at a time; ``None`` for one per CPU
    :param ray_address: address of the Ray cluster; see :func:`~sb3_matrl.zoo.common.ray_tasks.ray_cluster`
    """
    from sb3_matrl.zoo.benchmarking.display import ProgressDisplay
    from sb3_matrl.zoo.benchmarking.execution import Outcome, execute
    from sb3_matrl.zoo.benchmarking.forked_runs import local_launcher
    from sb3_matrl.zoo.benchmarking.plan import split_finished
    from sb3_matrl.zoo.benchmarking.ray_backend import gpus_of, ray_launcher
    from sb3_matrl.zoo.common.ray_tasks import ray_cluster

    with ExitStack() as stack:
        with user_errors():
            lock = stack.enter_context(locked_folder(out, IN_USE))
            finished, left = split_finished(runs)
        if not left:
            print(f"all {len(finished)} runs were finished before", file=sys.stderr)
            return Outcome()
        n_jobs = jobs or os.cpu_count() or 1
        if backend == "local":
            launch = local_launcher(lock)
        else:
            with user_errors():
                cluster = stack.enter_context(ray_cluster(ray_address, n_jobs))
                cluster.check_resources(max(gpus_of(run.options.device) for run in left))
            launch, n_jobs = ray_launcher(cluster), jobs or max(cluster.cpus, 1)
        display = stack.enter_context(ProgressDisplay(finished, left))
        return execute(left, launch, n_jobs, display)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: words of the command line; those of the process by default
    :return: exit code: 0; 1 if a run failed; 130 or 143 if a signal ended the benchmark
    :raises SystemExit: with code 2 on a mistake of the user
    """
    with user_errors():
        given = parse_words(list(sys.argv[1:] if arguments is None else arguments))
        _require_packages(given)
        runs, write_report = _prepare(given)
    try:
        outcome = run_benchmark(runs, Path(given.out), given.backend, given.jobs, given.ray_address)
        if outcome.signal is not None:
            print(INTERRUPTED, file=sys.stderr)
            return 128 + outcome.signal
        write_report()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    if outcome.failed:
        names = "".join(f"\n  {run.name}: {run.log}" for run in outcome.failed)
        message = f"{len(outcome.failed)} of {len(runs)} runs failed; give the same command again to continue them:{names}"
        print(message, file=sys.stderr)
    return 1 if outcome.failed else 0


def _prepare(given: argparse.Namespace) -> tuple[list[PlannedRun], Callable[[], None]]:
    """All runs, and a function that writes and prints the report of the finished ones."""
    from sb3_matrl.zoo.benchmarking.plan import plan_runs  # heavy: after the words are understood
    from sb3_matrl.zoo.benchmarking.suite_run import prepare_suite

    if given.suite is not None:
        return prepare_suite(given, asked_seeds(given))
    options = benchmark_options(given)
    reference = reference_setting(options, given.reference)
    bounds = read_bounds(given.bounds, options.envs)
    runs = plan_runs(options)
    return runs, lambda: _write_report(options, runs, reference, bounds if given.aggregate or bounds else None)


def _require_packages(given: argparse.Namespace) -> None:
    from sb3_matrl.zoo.benchmarking.run_statistics import require_rliable
    from sb3_matrl.zoo.common.ray_tasks import require_ray

    require_rliable()
    if given.backend == "ray":
        require_ray()


def _write_report(
    options: BenchmarkOptions, runs: Sequence[PlannedRun], reference: str, bounds: dict[str, tuple[float, float]] | None
) -> None:
    from sb3_matrl.zoo.benchmarking.artifacts import write_report
    from sb3_matrl.zoo.benchmarking.run_results import read_result

    results = [read_result(run) for run in runs if run.result.exists()]
    if results:
        write_report(options, results, reference, bounds)


if __name__ == "__main__":
    sys.exit(main())
