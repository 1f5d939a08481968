"""
Trained agents that come with the package: train them, keep the weights alone, and measure their returns.

    python -m benchmarks.pretrained_agents

They go to sb3_matrl/zoo/trained_agents, with the record returns.json; docs/pretrained.md has its table. Run folders of the
trainings are in logs/pretrained. Agents are trained one after the other, in one thread, seconds to three minutes each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared import write_record
from sb3_matrl.common.loading import load_model
from sb3_matrl.envs import make_env, matrix_game_v0
from sb3_matrl.evaluation import EvaluationResult, RandomPolicy, evaluate_policy
from sb3_matrl.evaluation.evaluate import structure_of
from sb3_matrl.evaluation.exact_nash_conv import exact_nash_conv
from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.argument_codec import argument_from_json
from sb3_matrl.files.model_files import read_model, write_model
from sb3_matrl.games.one_shot_games import OneShotGame
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo import enjoy, train
from sb3_matrl.zoo.benchmarking.exact_measures import NASH_CONV, exact_measure
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.references import best_team_return
from sb3_matrl.zoo.common.run_folder import RunFolder, find_run_folder
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.playing.match import play, prepare
from sb3_matrl.zoo.playing.players import trained_hyperparameters
from sb3_matrl.zoo.playing.shipped_agents import SHIPPED, find_shipped

LOGS = Path("logs/pretrained")
RECORD = SHIPPED / "returns.json"
EPISODES = 100
CHANCE_EPISODES = 1000
SMALL = ("-params", "policy_kwargs.net_arch:[64, 64]")
MATRIX_GAME = "matrix_game_v0"


@dataclass(frozen=True)
class Task:
    """
    Agents to train.

    :param name: name of the agents
    :param algorithm: name of the algorithm
    :param env_id: id of the environment
    :param title: what there is to see, a sentence
    :param words: further words of the command line of train.py
    """

    name: str
    algorithm: str
    env_id: str
    title: str
    words: tuple[str, ...] = ()


def _matrix_game(name: str, algorithm: str, title: str) -> Task:
    """A matrix game with its tuned settings."""
    return Task(name, algorithm, MATRIX_GAME, title, ("--conf-file", name, "--eval-freq", "1000"))


TASKS = (
    Task(
        "checkers",
        "matrl",
        "checkers_v0",
        "Two agents collect apples, which are worth more to one of them.",
        ("-n", "200000", "--conf-file", "benchmarks/grid_settings.yml", *SMALL),
    ),
    Task("switch", "matrl", "switch_v0", "Four agents pass a narrow bridge one after the other, in both directions."),
    Task(
        "checkers_qmix",
        "qmix",
        "checkers_v0",
        "The same game, learned by value decomposition: one agent leaves apples to the other.",
        ("-n", "200000", *SMALL),
    ),
    _matrix_game("chicken", "matrl", "Chicken: one insists and one gives way, instead of both losing."),
    _matrix_game(
        "climbing", "matrl-optimistic", "Climbing game: they find the best joint action, which lies beside the worst ones."
    ),
    _matrix_game("congestion_4", "matrl", "Four agents choose among four resources, each one another."),
    Task(
        "uneven_rps",
        "matrl",
        MATRIX_GAME,
        "Rock-paper-scissors in which rock wins three points from scissors: in equilibrium both mostly play paper.",
        ("--conf-file", "uneven_rps"),
    ),
    Task(
        "kuhn_poker",
        "il-la",
        "openspiel:kuhn_poker",
        "Kuhn poker: they bluff and call about as often as an equilibrium does.",
        ("--conf-file", "kuhn_poker"),
    ),
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


def ship(run: RunFolder, task: Task) -> None:
    """
    Put the model and the settings of a run into the package, in place of those that are there.

    :param run: run folder
    :param task: agents that were trained
    """
    shipped = replace(run, path=SHIPPED / task.algorithm / task.name)
    shutil.rmtree(shipped.path, ignore_errors=True)
    shipped.path.mkdir(parents=True)
    without_training_state(run.last_model, shipped.last_model)
    for source, target in ((run.arguments, shipped.arguments), (run.config, shipped.config), (run.command, shipped.command)):
        shutil.copyfile(source, target)


def measured(name: str, options: Hyperparameters) -> dict[str, Any]:
    """
    Measure agents that are in the package.

    :param name: name of the agents
    :param options: hyper-parameters of their training
    :return: policy -> mean, standard deviation and 95 % interval of the team return, as ``enjoy.py --pretrained`` prints them;
        ``chance`` and ``optimum``, ``None`` where the returns have a constant sum; ``nash_conv``, only there
    """
    words = enjoy.parse_options(["--pretrained", name, "--n-episodes", str(EPISODES), "--device", "cpu"])
    game = prepare(words)
    played = play(game, words)
    competes = structure_of(played.values()) == "constant-sum"
    return {
        "chance": None if competes else by_chance(game.env_id, options),
        "optimum": None if competes else best_team_return(game.env_id, game.env_kwargs),
        "nash_conv": nash_convs(game.env_id, options, find_shipped(name).last_model) if competes else None,
        **{policy: _numbers(result) for policy, result in played.items()},
    }


def by_chance(env_id: str, options: Hyperparameters) -> float:
    """
    :param env_id: id of the environment
    :param options: hyper-parameters, with the options of the environment
    :return: mean team return of random actions: exact in matrix games, else of 1,000 episodes
    """
    game = _one_shot_game(env_id, options)
    if game is not None:
        return float(game.expected_payoffs(_uniform(game)).sum())
    with closing(make_joint_vec_env(env_id, n_envs=32, env_kwargs=options.env_kwargs)) as env:
        random = RandomPolicy(env.observation_spaces, env.action_spaces, seed=0)
        return evaluate_policy(random, env, CHANCE_EPISODES, deterministic=False, seed=0).mean


def nash_convs(env_id: str, options: Hyperparameters, path: Path) -> dict[str, float] | None:
    """
    :param env_id: id of the environment
    :param options: hyper-parameters, with the options of the environment
    :param path: path of a model
    :return: exact NashConv of the ``trained`` agents and of ``chance``; ``None`` where the game is not known
    """
    measure, game = exact_measure(env_id, options), _one_shot_game(env_id, options)
    if measure is None:
        return None
    trained = measure(load_model(path, device="cpu"))[NASH_CONV]
    if game is not None:
        return {"trained": trained, "chance": game.nash_conv(_uniform(game))}
    with closing(make_env(env_id, options.env_kwargs)) as env:
        random = dict.fromkeys(env.possible_agents, RandomPolicy)
        return {"trained": trained, "chance": exact_nash_conv(random, env).nash_conv}


def _one_shot_game(env_id: str, options: Hyperparameters) -> OneShotGame | None:
    """The game of a matrix game; those here have one round."""
    if env_id != MATRIX_GAME:
        return None
    core = matrix_game_v0.parallel_env(**options.env_kwargs).make_core(1)
    assert isinstance(core, matrix_game_v0.MatrixGameCore)
    return core.options.game


def _uniform(game: OneShotGame) -> list[np.ndarray]:
    return [np.full(count, 1 / count) for count in game.n_actions]


def _numbers(result: EvaluationResult) -> dict[str, Any]:
    low, high = result.confidence_interval()
    agents = {agent: float(mean) for agent, mean in result.agent_means.items()}
    return {"mean": result.mean, "std": result.std, "ci95": [low, high], "agents": agents, "length": result.mean_length}


KINDS = ("sampled", "greedy")
HEADER = ("name", "environment", "algorithm", "steps", "trained in", "random", *KINDS, "best possible", "NashConv")


def table(record: dict[str, Any]) -> str:
    """
    :param record: content of returns.json
    :return: Markdown: name, environment, algorithm, steps, seconds, team returns with intervals, NashConv
    """
    return markdown(HEADER, [_cells(row) for row in record["agents"]])


def _cells(row: dict[str, Any]) -> list[str]:
    returns = [""] * (len(KINDS) + 2)
    if row["chance"] is not None:
        trained = [f"{row[kind]['mean']:.2f} [{row[kind]['ci95'][0]:.2f}, {row[kind]['ci95'][1]:.2f}]" for kind in KINDS]
        returns = [f"{row['chance']:.2f}", *trained, "" if row["optimum"] is None else f"{row['optimum']:.2f}"]
    exact = row["nash_conv"]
    distance = "" if exact is None else f"{exact['trained']:.2f} (random {exact['chance']:.2f})"
    names = [f"`{row[key]}`" for key in ("name", "env", "algorithm")]
    return [*names, f"{row['steps']:,}", f"{row['seconds']:.0f} s", *returns, distance]


def record_of(task: Task, run: RunFolder, seconds: float) -> dict[str, Any]:
    """
    :param task: agents that are in the package
    :param run: their training
    :param seconds: how long it took
    :return: their row of returns.json
    """
    options = trained_hyperparameters(run)
    return {
        "name": task.name,
        "title": task.title,
        "algorithm": task.algorithm,
        "env": task.env_id,
        "env_kwargs": options.env_kwargs,
        "steps": read_model(run.last_model).counters["num_timesteps"],
        "seconds": seconds,
        **measured(task.name, options),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=[task.name for task in TASKS], help="train these only")
    args = parser.parse_args()
    known = json.loads(RECORD.read_text(encoding="utf-8"))["agents"] if RECORD.is_file() else []
    rows = {row["name"]: row for row in known}
    for task in TASKS:
        if args.names is None or task.name in args.names:
            run, seconds = train_agents(task)
            ship(run, task)
            rows[task.name] = record_of(task, run, seconds)
            record = {"episodes": EPISODES, "agents": [rows[task.name] for task in TASKS if task.name in rows]}
            write_record(RECORD, record)
    print(table({"agents": list(rows.values())}))


if __name__ == "__main__":
    main()
