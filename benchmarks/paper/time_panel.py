"""Fig. 5b: run times of all methods for 20,000 environment steps with 50 gradient steps, in games of two to four agents."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.paper.claims import FAILS, HOLDS, OPEN, Claim, overall
from benchmarks.paper.curve_panels import STUDIES
from benchmarks.paper.sections import Panel, PanelOptions, Picture, Section, Table, Task
from benchmarks.shared import zoo_settings
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.benchmarking.plan import Setting, read_settings
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.tournaments.line_file import LineFile

ENV_STEPS, GRADIENT_STEPS = 20_000, 50
GRIDS, ROBOTS = "paper_grids.yml", "paper_robots.yml"
SWITCH = "switch_v0"
# The paper's words: "approximately 1.1-1.2 times slower".
PRINTED = (1.1, 1.2)
# A range of fewer ratios says too little.
ENOUGH_ROUNDS = 3
PICTURE = "run_times.png"


@dataclass(frozen=True)
class Times(PanelOptions):
    """
    :param rounds: measurements of every method, by turns
    :param off_policy_rounds: number of these in which methods with a replay buffer take part, on which the paper has no claim;
        0 for all
    :param agents: numbers of agents in Switch
    :param robots: robots for the methods with continuous actions
    """

    rounds: int
    off_policy_rounds: int = 0
    agents: tuple[int, ...] = (2, 3, 4)
    robots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """
    One measurement.

    :param env: environment
    :param agents: number of agents in Switch; 0 for robots
    :param method: name of the algorithm
    :param round: number of the round, which is the seed
    """

    env: str
    agents: int
    method: str
    round: int

    @property
    def world(self) -> str:
        """Name of the environment in the tables."""
        return f"Switch, {self.agents} agents" if self.agents else self.env


def methods(study: str) -> list[Setting]:
    """
    :param study: settings file in benchmarks/studies
    :return: its settings, each algorithm once and under its own name
    """
    content = read_yaml(STUDIES / study)
    return [Setting(one.algo, one.algo, one.changes) for one in read_settings([], content["settings"])]


def settings_of(job: Job) -> Hyperparameters:
    """
    The study's settings, with 50 gradient steps in 20,000 environment steps for every method.

    :param job: the measurement
    """
    study, conf_file = (GRIDS, "paper") if job.agents else (ROBOTS, None)
    setting = next(one for one in methods(study) if one.name == job.method)
    found = zoo_settings(setting.algo, job.env, conf_file, **setting.changes)
    changes: dict[str, Any] = {"n_timesteps": ENV_STEPS}
    if job.agents:
        changes["env_kwargs"] = {**found.env_kwargs, "n_agents": job.agents}
    if "buffer_size" in found.values:
        every = ENV_STEPS // GRADIENT_STEPS // found.n_envs
        changes |= {"train_freq": every, "gradient_steps": 1, "learning_starts": 1, "buffer_size": ENV_STEPS}
    else:
        epochs = GRADIENT_STEPS * found.n_envs * int(found["n_steps"]) // ENV_STEPS
        response = round(epochs / 3) if algorithm_spec(setting.algo).fixed.get("best_response") else 0
        changes |= {"n_epochs": epochs - response, **({"br_n_epochs": response} if response else {})}
    return found.changed(**changes)


def measure_time(job: Job, env_steps: int = ENV_STEPS) -> float:
    """
    Train once.

    :param job: the measurement
    :param env_steps: environment steps
    :return: seconds of ``learn``
    :raises RuntimeError: if it takes another number of steps
    """
    settings = settings_of(job)
    spec = algorithm_spec(settings.algorithm)
    arguments = {**settings.model_arguments(), **spec.fixed}
    model: Any = spec.load_class()(env=job.env, seed=job.round, device="cpu", **arguments)
    start = time.perf_counter()
    model.learn(env_steps, log_interval=None)
    seconds = time.perf_counter() - start
    done = model.num_timesteps
    model.env.close()
    del model
    gc.collect()
    if done != env_steps:
        raise RuntimeError(f"{job.method} took {done} environment steps instead of {env_steps}: times cannot be compared")
    return seconds


def jobs_of(options: Times) -> list[Job]:
    """All measurements, round by round; who begins changes from round to round."""
    worlds = [(SWITCH, agents, GRIDS) for agents in options.agents] + [(env, 0, ROBOTS) for env in options.robots]
    found = []
    for number in range(options.rounds):
        for env, agents, study in worlds:
            names = [one.name for one in methods(study)]
            turn = number % len(names)
            jobs = [Job(env, agents, name, number) for name in names[turn:] + names[:turn]]
            is_last = 0 < options.off_policy_rounds <= number
            found += [job for job in jobs if not (is_last and "buffer_size" in settings_of(job).values)]
    return found


def measure(task: Task) -> dict[str, Any]:
    """
    Measure what is not measured yet, one at a time.

    :param task: options and folder
    """
    th.set_num_threads(1)
    wanted = jobs_of(task.options)
    subject = {"env_steps": ENV_STEPS, "gradient_steps": GRADIENT_STEPS}
    file = LineFile(task.folder / "times.jsonl", subject, "remove the file")
    seconds = {Job(**part["job"]): float(part["seconds"]) for part in file.parts}
    for job in tqdm(_left(wanted, seconds), desc="run times", unit="run", disable=None):
        seconds[job] = measure_time(job)
        file.add({"job": asdict(job), "seconds": seconds[job]})
    table: dict[str, dict[str, list[float]]] = {}
    for job in sorted(wanted, key=lambda job: job.round):
        table.setdefault(job.world, {}).setdefault(job.method, []).append(seconds[job])
    draw(task.folder / PICTURE, table)
    return {"times": table}


def _left(wanted: Sequence[Job], known: Mapping[Job, float]) -> list[Job]:
    """Measurements that are left; each algorithm trains for a moment before them, so that none pays for first imports."""
    left = [job for job in wanted if job not in known]
    for job in {job.method: job for job in left}.values():
        settings = settings_of(job)
        part = settings["train_freq"] if "buffer_size" in settings.values else settings["n_steps"]
        measure_time(job, settings.n_envs * int(part))
    return left


def draw(path: Path, table: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """
    Draw the medians as bars, with the range over the rounds.

    :param path: path of the picture
    :param table: environment -> method -> seconds of every round
    """
    figure = Figure(figsize=(2.6 * len(table) + 1.0, 3.6), layout="constrained")
    panels = figure.subplots(1, len(table), squeeze=False)[0]
    for axes, (world, by_method) in zip(panels, table.items(), strict=True):
        names = list(by_method)
        middle = np.array([np.median(by_method[name]) for name in names])
        ends = np.array([[min(by_method[name]), max(by_method[name])] for name in names]).T
        colours = ["#0072B2" if name == "matrl" else "#9aa5b1" for name in names]
        axes.barh(
            names[::-1], middle[::-1], xerr=abs(ends - middle)[:, ::-1], color=colours[::-1], error_kw={"linewidth": 1.0}
        )
        axes.set(title=world, xlabel="seconds")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=130, format="png")


def section(record: Mapping[str, Any]) -> Section:
    """
    :param record: as :func:`measure` returns it, and the options
    """
    text = (
        f"Seconds of {ENV_STEPS:,} environment steps and {GRADIENT_STEPS} gradient steps per agent, best responses included, "
        f"for every method: median of up to {record['options']['rounds']} rounds, in which the methods take turns, and range. "
        "One thread; batches and networks are those of the learning curves; each method with the fastest backend that it has "
        "(`backend: auto`). The claim holds if the range of every ratio, over three rounds or more, meets 1.1 to 1.2."
    )
    tables = []
    for world, by_method in record["times"].items():
        rows = [[name, _range(times), *_ratios(by_method, name)] for name, times in by_method.items()]
        tables.append(Table([world, "seconds", "matrl / method"], rows))
    picture = Picture(PICTURE, f"Seconds of {ENV_STEPS:,} environment steps with {GRADIENT_STEPS} gradient steps")
    return Section([text], tables, pictures=[picture], claims=[claim(record["times"])])


def _range(values: Sequence[float]) -> str:
    return f"{np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def _ratios(by_method: Mapping[str, Sequence[float]], name: str) -> list[str]:
    return [""] if name == "matrl" else [_range(_by_round(by_method, name))]


def _by_round(by_method: Mapping[str, Sequence[float]], name: str) -> list[float]:
    """MATRL's time divided by that of the method, in every round that both have."""
    return [ours / theirs for ours, theirs in zip(by_method["matrl"], by_method[name], strict=False)]


def _comparisons(seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[tuple[str, list[float]]]:
    for world, by_method in seconds.items():
        for other in ("ippo", "il-la"):
            yield f"{other} in {world}", _by_round(by_method, other)


def claim(seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> Claim:
    """
    :param seconds: environment -> method -> seconds of every round
    :return: the paper's claim about MATRL's run time; a comparison goes its way if the range of the ratio over the rounds
        meets the printed one
    """
    verdicts, parts = [], []
    for name, ratios in _comparisons(seconds):
        meets = min(ratios) <= PRINTED[1] and max(ratios) >= PRINTED[0]
        verdicts.append(OPEN if len(ratios) < ENOUGH_ROUNDS else HOLDS if meets else FAILS)
        parts.append(f"{name} {_range(ratios)}")
    text = "With equal numbers of steps, MATRL takes 1.1 to 1.2 times as long as IL and IL-LA"
    return Claim(text, overall(verdicts), f"MATRL's time divided by that of {'; '.join(parts)}.")


PANELS = (Panel("fig5b", "Fig. 5b: run times", Times, measure, section),)
