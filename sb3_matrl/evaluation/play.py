"""Play episodes in a single PettingZoo environment, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from sb3_matrl.evaluation.evaluate import EvaluationResult, JointPredictor
from sb3_matrl.vec_env.conform import acting_of
from sb3_matrl.vec_env.masks import MASK, MaskReader


def play_episodes(
    model: JointPredictor,
    env: ParallelEnv[Any, Any, Any],
    n_episodes: int | None = 1,
    n_timesteps: int | None = None,
    deterministic: bool = False,
    seed: int | None = None,
    on_frame: Callable[[], object] | None = None,
    on_episode: Callable[[], object] | None = None,
) -> EvaluationResult:
    """
    Play whole episodes, one after the other.

    :param model: a trained model, or anything with its ``predict``
    :param env: environment, made with a ``render_mode`` if it is to be shown
    :param n_episodes: number of episodes; ``None`` for as many as ``n_timesteps`` takes
    :param n_timesteps: number of steps after which no further episode starts
    :param deterministic: greedy actions instead of sampled ones
    :param seed: seed of the environment's first episode; later episodes continue with the environment's own generator
    :param on_frame: function called after every reset and every step, such as the environment's ``render``
    :param on_episode: function called after every episode
    :return: returns and lengths of the episodes
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
    """
    Play one episode.

    :return: return of each agent, and number of steps
    """
    returns, length = dict.fromkeys(env.possible_agents, 0.0), 0
    observations, infos = env.reset(seed=seed)
    # An agent starts without a state, also if it joins later; a waiting agent keeps its state.
    states: dict[str, Any] = {}
    if on_frame is not None:
        on_frame()
    while env.agents:
        alive, acting = list(env.agents), acting_of(env, list(env.agents), list(env.possible_agents))
        masks = _action_masks(env, acting, observations, infos)
        # As in training, waiting agents are passed too: recurrent policies remember what they observe while waiting.
        actions, new = model.predict(
            {agent: observations[agent] for agent in alive},
            state=states or None,
            episode_start=np.array([length == 0]),
            deterministic=deterministic,
            # Only passed if there are any: scripted policies need no such argument.
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


def _action_masks(
    env: ParallelEnv[Any, Any, Any], acting: list[str], observations: Mapping[str, Any], infos: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """
    Read the masks of the acting agents from their observations or infos.

    :return: agent -> bool (mask size,), for agents that have a mask
    :raises ValueError: if a mask has the wrong length, values other than 0 and 1, or no legal action
    """
    masks = {}
    for column, agent in enumerate(env.possible_agents):
        if agent not in acting:
            continue
        places = (observations[agent], infos.get(agent))
        mask = next((place[MASK] for place in places if isinstance(place, Mapping) and MASK in place), None)
        if mask is not None:
            reader = MaskReader(agent, column, env.action_space(agent))
            masks[agent] = reader.single(mask, 0, _now)
            reader.require_choice(masks[agent][None], _now)
    return masks


def _now(copy: int) -> str:
    return "now"
