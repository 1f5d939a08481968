"""Budgets of runs: gradient steps of every agent, and runs that did not get the steps that were asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters

_UPDATES = "/train/n_updates"
_BEST_RESPONSES = "/br/n_updates"


def count_gradient_steps(rows: Iterable[Mapping[str, str]], hyperparameters: Hyperparameters) -> dict[str, int]:
    """
    Gradient steps of every agent: those of its learner, from the epochs in the log, and those of its best responses.

    An upper bound if ``target_kl`` ends an epoch early or agents leave episodes early, for minibatches are not logged.

    :param rows: rows of ``progress.csv``
    :param hyperparameters: hyper-parameters of the run
    :return: agent -> gradient steps; empty if the log has none
    """
    epochs: dict[str, int] = {}
    best_responses: dict[str, int] = {}
    for row in rows:
        for key, value in row.items():
            # The name of an agent may contain slashes; the key is None for cells beyond the last column.
            if not key or not value:
                continue
            if key.endswith(_UPDATES):
                epochs[key.removesuffix(_UPDATES)] = int(float(value))
            elif key.endswith(_BEST_RESPONSES):
                agent = key.removesuffix(_BEST_RESPONSES)
                best_responses[agent] = best_responses.get(agent, 0) + int(float(value))
    return {
        agent: count * minibatches(hyperparameters, agent) + best_responses.get(agent, 0) for agent, count in epochs.items()
    }


def minibatches(hyperparameters: Hyperparameters, agent: str) -> int:
    """
    Gradient steps per update that an agent's learner logs: an epoch of PPO has several minibatches.

    :param hyperparameters: hyper-parameters of the run
    :param agent: name of the agent
    """
    if not _is_ppo(hyperparameters, agent):
        return 1
    batch_size: int = of_agent(hyperparameters["batch_size"], agent)
    return math.ceil(hyperparameters.n_envs * int(hyperparameters["n_steps"]) / batch_size)


def _is_ppo(hyperparameters: Hyperparameters, agent: str) -> bool:
    return bool(of_agent(hyperparameters.get("learner_class"), agent) == "PPO")


def of_agent(value: Any, agent: str) -> Any:
    """
    Value of a hyper-parameter for one agent.

    :param value: one value, or a mapping agent -> value
    :param agent: name of the agent
    """
    return value[agent] if isinstance(value, Mapping) else value


def wrong_budgets(algorithm: str, asked: Hyperparameters, env_steps: int, gradient_steps: Mapping[str, int]) -> list[str]:
    """
    Differences between the steps of a run and those that were asked for: environment steps, and for PPO gradient steps.

    :param algorithm: name of the algorithm
    :param asked: hyper-parameters of the run
    :param env_steps: environment steps of the run
    :param gradient_steps: agent -> gradient steps
    :return: one text for each difference
    """
    rollout = asked.n_envs * asked.get("n_steps", 1)
    iterations = math.ceil(asked.n_timesteps / rollout)
    parts = []
    if env_steps != iterations * rollout:
        parts.append(f"{env_steps} environment steps instead of {iterations * rollout}")
    best_response = algorithm_spec(algorithm).fixed.get("best_response", False)
    for agent, steps in gradient_steps.items():
        if not _is_ppo(asked, agent):
            continue
        epochs = of_agent(asked["n_epochs"], agent) + (of_agent(asked["br_n_epochs"], agent) if best_response else 0)
        planned = iterations * epochs * minibatches(asked, agent)
        if steps != planned:
            parts.append(f"{steps} gradient steps of {agent} instead of {planned}")
    return parts
