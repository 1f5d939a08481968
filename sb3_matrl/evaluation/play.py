"""Playing one PettingZoo environment step by step, as a person watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.evaluation.evaluate import JointPredictor
from sb3_matrl.vec_env.conform import acting_of
from sb3_matrl.vec_env.masks import MASK, MaskReader


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
    returns, length = dict.fromkeys(env.possible_agents, 0.0), 0
    observations, infos = env.reset(seed=seed)
    # Agents begin without a state, also those that come later; those that wait for a while keep theirs.
    states: dict[str, Any] = {}
    if on_frame is not None:
        on_frame()
    while env.agents:
        living, acting = list(env.agents), acting_of(env, list(env.agents), list(env.possible_agents))
        masks = _masks(env, acting, observations, infos)
        # All look, for the recurrent ones among them remember what they see while they wait; so it was in training.
        actions, new = model.predict(
            {agent: observations[agent] for agent in living},
            state=states or None,
            episode_start=np.array([length == 0]),
            deterministic=deterministic,
            # Passed where there are any: scripts need not know of masks.
            **({"action_masks": masks} if masks else {}),
        )
        states.update(new or {})
        observations, rewards, _, _, infos = env.step({agent: np.asarray(actions[agent])[()] for agent in acting})
        for agent, reward in rewards.items():
            returns[agent] += float(reward)
        length += 1
        if on_frame is not None:
            on_frame()
    return returns, length


def _masks(
    env: ParallelEnv[Any, Any, Any], acting: list[str], observations: Mapping[str, Any], infos: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """
    The legal actions of those that act, agent -> bool (mask size,), where observation or info names them.

    :raises ValueError: on a mask of the wrong length, with other values than 0 and 1, or without a legal action
    """
    masks = {}
    for column, agent in enumerate(env.possible_agents):
        if agent not in acting:
            continue
        places = (observations[agent], infos.get(agent))
        told = next((place[MASK] for place in places if isinstance(place, Mapping) and MASK in place), None)
        if told is not None:
            reader = MaskReader(agent, column, env.action_space(agent))
            masks[agent] = reader.single(told, 0, _now)
            reader.require_choice(masks[agent][None], _now)
    return masks


def _now(copy: int) -> str:
    return "now"
