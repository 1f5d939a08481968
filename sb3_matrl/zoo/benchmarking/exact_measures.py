"""Exact values of the agents' policies during a training: welfare and NashConv, where the game can be computed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl.envs import matrix_game_v0, openspiel_ids
from sb3_matrl.envs.making import make_env
from sb3_matrl.evaluation.exact_nash_conv import CHEAP_HISTORIES, evaluate_exactly, exact_game
from sb3_matrl.games.one_shot_games import OneShotGame
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.run_folder import RunFolder

MATRIX_GAME = "matrix_game_v0"
STEPS = "timesteps"
NASH_CONV, WELFARE, WELFARE_SCORE = "nash_conv", "welfare", "welfare_score"
# From a model that is trained to the values of its policies.
Measure = Callable[[Any], dict[str, float]]


def exact_measure(env: str, hyperparameters: Hyperparameters) -> Measure | None:
    """
    Measure of an environment whose game can be computed: a one-shot matrix game, or a small game of OpenSpiel.

    :param env: id of the environment
    :param hyperparameters: hyper-parameters of the training
    :return: function from a model to the values of its policies; ``None`` for other environments, for learners that are not
        on-policy, and where wrappers or normalisers change what they see
    """
    changed = hyperparameters.get("norm_obs") or hyperparameters.env_wrapper
    if "learner_class" not in hyperparameters.values or changed:
        return None
    if env.startswith(openspiel_ids.PREFIX):
        return _table_measure(env, hyperparameters.env_kwargs)
    if env != MATRIX_GAME:
        return None
    core = matrix_game_v0.parallel_env(**hyperparameters.env_kwargs).make_core(1)
    assert isinstance(core, matrix_game_v0.MatrixGameCore)
    return one_shot_measure(core.options.game) if core.options.max_cycles == 1 else None


def _table_measure(env: str, env_kwargs: Mapping[str, Any]) -> Measure | None:
    """NashConv of a game whose information states can be listed."""
    try:
        game = exact_game(make_env(env, env_kwargs), CHEAP_HISTORIES)
    except ValueError:  # too large, or no game of that kind
        return None
    return None if game is None else lambda model: {NASH_CONV: evaluate_exactly(model, game).nash_conv}


def one_shot_measure(game: OneShotGame) -> Measure:
    """
    Measure of a one-shot game, in expected payoffs, exact for the policies that the networks are.

    ``nash_conv`` is the sum of the players' best gains from unilateral deviation, ``welfare`` the sum of their payoffs, and
    ``welfare_score`` the welfare on a scale from uniform play, 0, to the best joint action, 1; games in which all joint
    actions have the same welfare have no score.

    :param game: the game
    :return: function from a model to these values
    """
    uniform = [np.full(count, 1 / count) for count in game.n_actions]
    low, high = float(game.expected_payoffs(uniform).sum()), game.best_welfare()
    scored = high - low > 1e-12 * max(1.0, abs(high))

    def measure(model: Any) -> dict[str, float]:
        strategies = one_shot_strategies(model)
        welfare = float(game.expected_payoffs(strategies).sum())
        values = {NASH_CONV: game.nash_conv(strategies), WELFARE: welfare}
        return values | ({WELFARE_SCORE: (welfare - low) / (high - low)} if scored else {})

    return measure


def one_shot_strategies(model: Any) -> list[np.ndarray]:
    """
    Read mixed strategies out of networks that see nothing but the constant 1.

    :param model: model of on-policy learners, whose observations are not normalised
    :return: probabilities of every agent's actions, float64 (A_i,), which sum to 1
    """
    strategies = []
    for learner in model.agents.values():
        with th.no_grad():
            distribution: Any = learner.policy.get_distribution(th.ones(1, 1, device=learner.device)).distribution
        probabilities = distribution.probs[0].double().cpu().numpy()
        strategies.append(probabilities / probabilities.sum())
    return strategies


def measures_file(folder: RunFolder) -> Path:
    """File of a run's measures."""
    return folder.path / "measures.csv"


class ExactMeasures(BaseCallback):
    """
    Measure the policies before every rollout and at the end of the training, into a file with one line each.

    A training that is resumed from a checkpoint measures again what came after it.

    :param measure: function from a model to values
    :param path: path of the file, CSV
    :param every: smallest number of steps between two measurements, without the last one
    """

    def __init__(self, measure: Measure, path: Path, every: int = 1) -> None:
        super().__init__()
        self._measure = measure
        self._path = path
        self._every = every
        self._last_steps = -1

    def _on_training_start(self) -> None:
        kept = [row for row in _rows(self._path) if row[STEPS] < self.model.num_timesteps]
        self._last_steps = int(kept[-1][STEPS]) if kept else -1
        if not kept:
            self._path.unlink(missing_ok=True)
            return
        with atomic_file(self._path) as file:
            file.write("".join(_line(row, header=index == 0) for index, row in enumerate(kept)).encode())

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps // self._every > self._last_steps // self._every:
            self._record()

    def _on_training_end(self) -> None:
        self._record()

    def _on_step(self) -> bool:
        return True

    def _record(self) -> None:
        steps = self.model.num_timesteps
        if steps == self._last_steps:
            return
        self._last_steps = steps
        row = {STEPS: float(steps), **self._measure(self.model)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(row, header=file.tell() == 0))


def _line(row: Mapping[str, float], header: bool) -> str:
    names = ",".join(row) + "\n" if header else ""
    return names + ",".join(repr(float(value)) for value in row.values()) + "\n"


def _rows(path: Path) -> list[dict[str, float]]:
    """Rows of a file of measures, without a last line that was not written to its end; empty if there is no file."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(whole.splitlines())]


def read_measures(path: Path) -> dict[str, np.ndarray]:
    """
    Read what :class:`ExactMeasures` wrote.

    :param path: path of the file
    :return: name -> values of the m policies measured, shape (m,), ``timesteps`` among them; empty if there is no file
    """
    rows = _rows(path)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}
