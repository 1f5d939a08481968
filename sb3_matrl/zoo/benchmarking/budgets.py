"""Budgets of runs: gradient steps of every agent, and runs that did not get the steps that were asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters

_UPDATES = "/train/n_updates"
_BEST_RESPONSES = "/br/n_updates"
_OPTIMISTIC = f"/optimistic{_UPDATES}"
# Updates of off-policy algorithms, which all agents take together, and what is logged of every agent.
_TEAM_UPDATES = "train/n_updates"
_RETURNS = re.compile(r"eval/(.+)/mean_reward")


def count_gradient_steps(rows: Iterable[Mapping[str, str]], hyperparameters: Hyperparameters) -> dict[str, int]:
    """
    Gradient steps of every agent: those of its learner, from the epochs in the log, and those of its best responses.

    An upper bound if ``target_kl`` ends an epoch early or agents leave episodes early, for minibatches are not logged.
    Those of off-policy algorithms are counted in the log itself.

    :param rows: rows of ``progress.csv``
    :param hyperparameters: hyper-parameters of the run
    :return: agent -> gradient steps; empty if the log has none
    """
    epochs: dict[str, int] = {}
    trials: dict[str, int] = {}  # optimistic steps
    best_responses: dict[str, int] = {}
    agents: dict[str, None] = {}
    team = 0
    for row in rows:
        for key, value in row.items():
            # The name of an agent may contain slashes; the key is None for cells beyond the last column.
            if not key or not value:
                continue
            if key == _TEAM_UPDATES:
                team = int(float(value))
            elif match := _RETURNS.fullmatch(key):
                agents[match[1]] = None
            elif key.endswith(_OPTIMISTIC):
                agent = key.removesuffix(_OPTIMISTIC)
                trials[agent] = trials.get(agent, 0) + optimistic_epochs(hyperparameters, agent)
            elif key.endswith(_UPDATES):
                epochs[key.removesuffix(_UPDATES)] = int(float(value))
            elif key.endswith(_BEST_RESPONSES):
                agent = key.removesuffix(_BEST_RESPONSES)
                best_responses[agent] = best_responses.get(agent, 0) + int(float(value))
    if is_off_policy(hyperparameters):
        return dict.fromkeys(agents, team)
    return {
        agent: (epochs.get(agent, 0) + trials.get(agent, 0)) * minibatches(hyperparameters, agent)
        + best_responses.get(agent, 0)
        for agent in {**epochs, **trials}
    }


def optimistic_epochs(hyperparameters: Hyperparameters, agent: str) -> int:
    """
    Epochs of an agent's optimistic step.

    :param hyperparameters: hyper-parameters of the run
    :param agent: name of the agent
    """
    given: int | None = hyperparameters.get("optimistic_n_epochs")
    return int(of_agent(hyperparameters["n_epochs"], agent)) if given is None else given


def is_off_policy(hyperparameters: Hyperparameters) -> bool:
    """Whether hyper-parameters are those of an algorithm that learns from a replay buffer."""
    return "buffer_size" in hyperparameters.values


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
    Differences between the steps of a run and those that were asked for: environment steps, and for PPO and off-policy
    algorithms gradient steps.

    :param algorithm: name of the algorithm
    :param asked: hyper-parameters of the run
    :param env_steps: environment steps of the run
    :param gradient_steps: agent -> gradient steps
    :return: one text for each difference
    """
    if is_off_policy(asked):
        return _wrong_off_policy(asked, env_steps, gradient_steps)
    rollout = asked.n_envs * asked.get("n_steps", 1)
    iterations = math.ceil(asked.n_timesteps / rollout)
    parts = []
    if env_steps != iterations * rollout:
        parts.append(f"{env_steps} environment steps instead of {iterations * rollout}")
    fixed = algorithm_spec(algorithm).fixed
    strategies = fixed.get("strategies", asked.get("strategies", ("current", "predicted")))
    for agent, steps in gradient_steps.items():
        if not _is_ppo(asked, agent):
            continue
        epochs = of_agent(asked["n_epochs"], agent) if "predicted" in strategies else 0
        epochs += optimistic_epochs(asked, agent) if "optimistic" in strategies else 0
        epochs += of_agent(asked["br_n_epochs"], agent) if fixed.get("best_response", False) else 0
        planned = iterations * epochs * minibatches(asked, agent)
        if steps != planned:
            parts.append(f"{steps} gradient steps of {agent} instead of {planned}")
    return parts


def _wrong_off_policy(asked: Hyperparameters, env_steps: int, gradient_steps: Mapping[str, int]) -> list[str]:
    """As :func:`wrong_budgets`; without a difference where episodes, whose lengths nobody knows, trigger the updates."""
    frequency = asked["train_freq"]
    frequency, unit = frequency if isinstance(frequency, list) else (frequency, "step")
    if unit != "step":
        return []
    block = asked.n_envs * frequency
    blocks = math.ceil(asked.n_timesteps / block)
    parts = [] if env_steps == blocks * block else [f"{env_steps} environment steps instead of {blocks * block}"]
    trained = blocks - min(asked["learning_starts"] // block, blocks)
    planned = trained * (asked["gradient_steps"] if asked["gradient_steps"] >= 0 else block)
    wrong = {agent: steps for agent, steps in gradient_steps.items() if steps != planned}
    return parts + [f"{steps} gradient steps of {agent} instead of {planned}" for agent, steps in wrong.items()]
