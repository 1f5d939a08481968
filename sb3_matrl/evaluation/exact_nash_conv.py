"""Exact NashConv of policies in environments that know their whole game."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sb3_matrl.envs.making import make_env
from sb3_matrl.evaluation.policy_tables import UnreadablePolicy, policy_table
from sb3_matrl.vec_env import JointVecEnv
from sb3_matrl.vec_env.batched import BatchedBackend

#: Largest number of histories of a game that :func:`exact_nash_conv` traverses by default.
MAX_HISTORIES = 1_000_000
#: Largest number of histories of a game that is evaluated exactly during a training: less than a second per evaluation.
CHEAP_HISTORIES = 20_000


class ExactGame(Protocol):
    """
    A game as its information states, in which policies are tables.

    An environment offers it by a method ``exact_game(max_histories)``, which raises ``ValueError`` if there are more histories
    than that. ``agents`` are the names of the n agents, ``observations`` agent -> (m, ...), and ``masks`` agent -> bool
    (m, n_actions), legal actions.
    """

    agents: list[str]
    observations: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]

    def values(self, policies: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """
        Values of policies.

        :param policies: agent -> probabilities (m, n_actions)
        :return: expected returns (n,), and those of best responses to the policies of the others (n,)
        """
        ...


@dataclass(frozen=True)
class ExactValues:
    """
    Exact values of policies.

    :param agents: names of the n agents
    :param values: expected return of each agent, shape (n,)
    :param best_responses: best expected return of each agent against the policies of the others, shape (n,)
    """

    agents: tuple[str, ...]
    values: np.ndarray
    best_responses: np.ndarray

    @property
    def gains(self) -> np.ndarray:
        """What each agent gains by a best response, shape (n,); 0 in a Nash equilibrium."""
        return np.asarray(self.best_responses - self.values)

    @property
    def nash_conv(self) -> float:
        """NashConv, the sum of all gains (Lanctot et al. 2017, Sec. 2); in two-player zero-sum games twice exploitability."""
        return float(self.gains.sum())


def exact_nash_conv(
    model: Any,
    env: Any,
    env_kwargs: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    max_histories: int = MAX_HISTORIES,
) -> ExactValues:
    """
    Read the policies out of a model in all information states of a game, and compute their exact NashConv.

    :param model: a trained model, or any source of policies for :func:`~sb3_matrl.evaluation.policy_tables.policy_table`,
        such as ``{"player_0": ppo, "player_1": RandomPolicy}``
    :param env: environment that knows its game (``matrix_game_v0``, those of OpenSpiel): id, factory, environment, or
        ``JointVecEnv``
    :param env_kwargs: options of the environment, for an id or factory
    :param deterministic: evaluate the greedy policies instead of the sampled ones
    :param max_histories: largest number of histories of a game that is still traversed
    :return: exact values; ``.nash_conv`` is their NashConv
    :raises ValueError: if the environment does not know its game, the game is too large, or a policy cannot be read
    """
    made = None if _is_env(env) else make_env(env, env_kwargs)
    try:
        game = exact_game(env if made is None else made, max_histories)
    finally:
        if made is not None:
            made.close()
    if game is None:
        raise ValueError(
            f"{env} does not know its whole game: exact NashConv needs an unwrapped environment with a method exact_game(), "
            "such as 'matrix_game_v0' or 'openspiel:kuhn_poker'; otherwise train best responses"
        )
    return evaluate_exactly(model, game, deterministic)


def exact_game(env: Any, max_histories: int = MAX_HISTORIES) -> ExactGame | None:
    """
    The whole game of an environment.

    :param env: an environment, or a ``JointVecEnv`` that steps its rules in batches
    :param max_histories: largest number of histories of a game that is still traversed
    :return: ``None`` if the environment does not know it; wrappers, which may change observations, hide it
    :raises ValueError: if the game is larger
    """
    if isinstance(env, JointVecEnv):
        env = env.backend.env if isinstance(env.backend, BatchedBackend) else None
    if not hasattr(type(env), "exact_game"):
        return None
    game: ExactGame = env.exact_game(max_histories)
    return game


def evaluate_exactly(model: Any, game: ExactGame, deterministic: bool = False) -> ExactValues:
    """
    Exact values of a model's policies.

    :param model: see :func:`exact_nash_conv`
    :param game: the whole game
    :param deterministic: evaluate the greedy policies instead of the sampled ones
    :raises ValueError: if a policy cannot be read
    """
    tables = {
        agent: policy_table(model, agent, game.observations[agent], game.masks[agent], deterministic) for agent in game.agents
    }
    values, best_responses = game.values(tables)
    return ExactValues(tuple(game.agents), values, best_responses)


class NashConvRecord:
    """
    Exact NashConv of a model in the evaluations of a training, where the environment knows its game and that is small.

    :param env: environment of the evaluations
    """

    def __init__(self, env: JointVecEnv) -> None:
        #: NashConv of each evaluation; NaN where it is not known
        self.values: list[float] = []
        try:
            self._game = exact_game(env, CHEAP_HISTORIES)
        except ValueError:  # the game is too large, or OpenSpiel has no information states of it
            self._game = None

    @property
    def is_known(self) -> bool:
        """Whether the last evaluation has a NashConv."""
        return bool(self.values) and not math.isnan(self.values[-1])

    def measure(self, model: Any) -> None:
        """
        Add the present NashConv to the record.

        :param model: trained model
        """
        self.values.append(float("nan"))
        if self._game is None:
            return
        try:
            self.values[-1] = evaluate_exactly(model, self._game).nash_conv
        except UnreadablePolicy:  # a policy with a memory, for example
            self._game = None


def _is_env(env: Any) -> bool:
    return not isinstance(env, str) and hasattr(env, "reset") and not isinstance(env, type)
