"""
Trained agents that come with the package: train them, keep the weights alone, and measure their returns.

    python -m benchmarks.pretrained_agents

They go to sb3_matrl/zoo/trained_agents, with the record returns.json; docs/pretrained.md has its table. Run folders of the
trainings are in logs/pretrained. Agents are trained one after the other, in one thread, less than two minutes each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.shared import write_record
from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.argument_codec import argument_from_json
from sb3_matrl.files.model_files import read_model, write_model
from sb3_matrl.zoo import enjoy, train
from sb3_matrl.zoo.common.references import References
from sb3_matrl.zoo.common.run_folder import RunFolder, find_run_folder
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.playing.match import play, prepare
from sb3_matrl.zoo.playing.players import trained_hyperparameters
from sb3_matrl.zoo.playing.shipped_agents import SHIPPED

LOGS = Path("logs/pretrained")
RECORD = SHIPPED / "returns.json"
EPISODES = 100
SMALL = "policy_kwargs.net_arch:[64, 64]"


@dataclass(frozen=True)
class Task:
    """
    Agents to train.

    :param algorithm: name of the algorithm
    :param env_id: id of the environment
    :param words: further words of the command line of train.py
    """

    algorithm: str
    env_id: str
    words: tuple[str, ...] = ()


TASKS = (
    Task("matrl", "checkers_v0", ("-n", "200000", "-params", SMALL)),
    Task("matrl", "matrix_game_v0", ("--conf-file", "congestion_4", "--eval-freq", "1000")),
)


def without_training_state(path: Path, target: Path) -> None:
    """
    Copy a model without what only a further training needs: states of optimisers, the unfinished rollout.

    :param path: path of the model
    :param target: path of the copy, a tenth to a fifth as large
    """
    saved = read_model(path)
    parameters = {
        learner: {part: _fresh(state) for part, state in parts.items()} for learner, parts in saved.parameters.items()
    }
    documents, _ = read_archive(path)
    arguments = {name: argument_from_json(value, name) for name, value in saved.arguments.items()}
    small = replace(saved, arguments=arguments, parameters=parameters, training=None)
    write_model(target, small, {"run": documents["run"]})


def _fresh(state: Any) -> Any:
    """The state dict of an optimiser as before its first step; others as they are."""
    is_optimizer = isinstance(state, dict) and state.keys() == {"state", "param_groups"}
    return {**state, "state": {}} if is_optimizer else state


def train_agents(task: Task) -> tuple[RunFolder, float]:
    """
    :param task: agents to train
    :return: run folder, and seconds of the training with its evaluations
    """
    start = time.perf_counter()
    words = ["--algo", task.algorithm, "--env", task.env_id, "--seed", "0", "--device", "cpu", "-f", str(LOGS)]
    if train.main([*words, "--save-every-minutes", "0", "--verbose", "0", *task.words]) != 0:
        raise RuntimeError(f"the training of {task.algorithm} on {task.env_id} did not end")
    return find_run_folder(LOGS, task.algorithm, task.env_id), time.perf_counter() - start


def ship(run: RunFolder, algorithm: str) -> None:
    """
    Put the model and the settings of a run into the package, in place of those that are there.

    :param run: run folder
    :param algorithm: name of the algorithm
    """
    shipped = replace(run, path=SHIPPED / algorithm / f"{run.env_id}_1")
    shutil.rmtree(shipped.path, ignore_errors=True)
    shipped.path.mkdir(parents=True)
    without_training_state(run.last_model, shipped.last_model)
    for source, target in ((run.arguments, shipped.arguments), (run.config, shipped.config), (run.command, shipped.command)):
        shutil.copyfile(source, target)


def returns(task: Task) -> dict[str, Any]:
    """
    :param task: agents that are in the package
    :return: policy -> mean, standard deviation and 95 % interval of the team return, as ``enjoy.py --pretrained`` prints them
    """
    words = ["--algo", task.algorithm, "--env", task.env_id, "--pretrained", "--n-episodes", str(EPISODES), "--device", "cpu"]
    options = enjoy.parse_options(words)
    return {policy: _numbers(result) for policy, result in play(prepare(options), options).items()}


def _numbers(result: EvaluationResult) -> dict[str, Any]:
    low, high = result.confidence_interval()
    agents = {agent: float(mean) for agent, mean in result.agent_means.items()}
    return {"mean": result.mean, "std": result.std, "ci95": [low, high], "agents": agents, "length": result.mean_length}


def table(record: dict[str, Any]) -> str:
    """
    :param record: content of returns.json
    :return: Markdown: environment, algorithm, steps, seconds, returns with intervals, optimum
    """
    rows = []
    for row in record["agents"]:
        cells = [f"{row[kind]['mean']:.2f} [{row[kind]['ci95'][0]:.2f}, {row[kind]['ci95'][1]:.2f}]" for kind in KINDS]
        optimum = "" if row["optimum"] is None else f"{row['optimum']:.2f}"
        options = ", ".join(f"{name}: {value}" for name, value in row["env_kwargs"].items())
        steps, seconds = f"{row['steps']:,}", f"{row['seconds']:.0f} s"
        rows.append([f"`{row['env']}`", f"`{row['algorithm']}`", options, steps, seconds, *cells, optimum])
    return markdown(["environment", "algorithm", "options", "steps", "trained in", *KINDS, "best possible"], rows)


KINDS = ("sampled", "greedy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=[task.env_id for task in TASKS], help="train these only")
    args = parser.parse_args()
    known = json.loads(RECORD.read_text(encoding="utf-8"))["agents"] if RECORD.is_file() else []
    rows = {(row["algorithm"], row["env"]): row for row in known}
    for task in TASKS:
        if args.envs is None or task.env_id in args.envs:
            run, seconds = train_agents(task)
            ship(run, task.algorithm)
            rows[task.algorithm, task.env_id] = {
                "algorithm": task.algorithm,
                "env": task.env_id,
                "env_kwargs": trained_hyperparameters(run).env_kwargs,
                "steps": read_model(run.last_model).counters["num_timesteps"],
                "seconds": seconds,
                "optimum": References.read(run.references).optimum,
                **returns(task),
            }
    order = [(task.algorithm, task.env_id) for task in TASKS]
    record = {"episodes": EPISODES, "agents": [rows[key] for key in order if key in rows]}
    write_record(RECORD, record)
    print(table(record))


if __name__ == "__main__":
    main()
