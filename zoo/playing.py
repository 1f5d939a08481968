"""Playing one PettingZoo environment step by step, as a person watches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.evaluation.evaluate import JointPredictor


def play_episodes(
    model: JointPredictor,
    env: ParallelEnv[Any, Any, Any],
    n_episodes: int | None,
    n_timesteps: int | None,
    deterministic: bool,
    seed: int,
    on_frame: Callable[[], object] | None = None,
    on_episode: Callable[[], object] | None = None,
) -> EvaluationResult:
    """
    Play whole episodes, one after the other.

    :param model: has MATRL's ``predict``
    :param env: made with a ``render_mode`` if it is to be shown
    :param n_episodes: how many; ``None`` for as many as ``n_timesteps`` takes
    :param n_timesteps: start no further episode after so many steps
    :param deterministic: greedy actions
    :param seed: of the environment's first episode; the later ones go on from there
    :param on_frame: called after every reset and every step: the environment's ``render``, or what keeps its pictures
    :param on_episode: called after every episode
    :return: what the episodes brought
    """
    episodes: list[tuple[dict[str, float], int]] = []
    while len(episodes) < (n_episodes or len(episodes) + 1):
        if n_timesteps is not None and sum(length for _, length in episodes) >= n_timesteps:
            break
        episodes.append(_play_episode(model, env, deterministic, seed if not episodes else None, on_frame))
        if on_episode is not None:
            on_episode()
    agents = tuple(env.possible_agents)
    returns = np.array([[episode[agent] for agent in agents] for episode, _ in episodes])
    return EvaluationResult(agents, returns.sum(axis=1), returns, np.array([length for _, length in episodes]))


def _play_episode(
    model: JointPredictor,
    env: ParallelEnv[Any, Any, Any],
    deterministic: bool,
    seed: int | None,
    on_frame: Callable[[], object] | None,
) -> tuple[dict[str, float], int]:
    """Returns of the agents, and the number of steps."""
    returns, length, state = dict.fromkeys(env.possible_agents, 0.0), 0, None
    observations, _ = env.reset(seed=seed)
    if on_frame is not None:
        on_frame()
    while env.agents:
        living = {agent: observations[agent] for agent in env.agents}
        actions, state = model.predict(living, state=state, episode_start=np.array([length == 0]), deterministic=deterministic)
        observations, rewards, *_ = env.step(actions)
        for agent, reward in rewards.items():
            returns[agent] += float(reward)
        length += 1
        if on_frame is not None:
            on_frame()
    return returns, length
