"""Evaluate a model: play whole episodes and collect the returns of all agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.evaluation.statistics import mean_confidence_interval
from sb3_matrl.utils.random_state import isolated_random_streams
from sb3_matrl.vec_env import JointObservation, JointVecEnv, make_joint_vec_env


class JointPredictor(Protocol):
    """Anything with a joint ``predict``: a trained model, a scripted or a random policy."""

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[dict[str, Any], Any]: ...


@dataclass(frozen=True)
class EvaluationResult:
    """
    Returns and lengths of k episodes.

    :param agents: n agents, in the order of the columns of ``agent_returns``
    :param returns: team return of each episode (undiscounted sum over agents and steps), shape (k,)
    :param agent_returns: return of each agent in each episode, shape (k, n)
    :param lengths: steps of each episode, shape (k,)
    """

    agents: tuple[str, ...]
    returns: np.ndarray
    agent_returns: np.ndarray
    lengths: np.ndarray

    @property
    def n_episodes(self) -> int:
        return len(self.returns)

    @property
    def mean(self) -> float:
        """Mean team return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the team return over episodes (``numpy.std``, which divides by k)."""
        return float(self.returns.std())

    @property
    def mean_length(self) -> float:
        """Mean number of steps of an episode."""
        return float(self.lengths.mean())

    @property
    def agent_means(self) -> dict[str, float]:
        """Mean return of each agent."""
        return {agent: float(self.agent_returns[:, i].mean()) for i, agent in enumerate(self.agents)}

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """
        Student-t interval for the mean team return; covers the variance between episodes, not between training runs.

        :param level: confidence level, in (0, 1)
        :return: lower and upper end; both NaN for a single episode
        """
        return mean_confidence_interval(self.returns, level)


def evaluate_policy(
    model: JointPredictor,
    env: VecEnv | Callable[..., Any] | str | Any,
    n_eval_episodes: int = 10,
    deterministic: bool = False,
    seed: int | None = None,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
) -> EvaluationResult:
    """
    Play ``n_eval_episodes`` whole episodes and record the undiscounted returns.

    With several copies, every copy plays a fixed number of episodes, as in SB3's function of this name, so that short
    episodes are not counted more often than long ones.

    The default is ``deterministic=False``, because agents trained with stochastic policies may get stuck when played
    greedily.

    :param model: a trained model, or anything with its ``predict``
    :param env: a :class:`JointVecEnv`, wrapped or not; or any argument of :func:`make_joint_vec_env`, of which one copy is
        made and closed afterwards
    :param n_eval_episodes: number of episodes, at least 1
    :param deterministic: greedy actions instead of sampled ones
    :param seed: seed of the environment and of sampled actions; the global random streams are restored afterwards.
        ``None`` uses the global streams and the environment's current generators.
    :param callback: function called with ``locals()`` and ``globals()`` after every joint step
    :return: episodes ordered by copy, and within a copy in the order played
    :raises ValueError: if ``n_eval_episodes`` is less than 1
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}")
    if not isinstance(env, VecEnv):
        made = make_joint_vec_env(env)
        try:
            return evaluate_policy(model, made, n_eval_episodes, deterministic, seed, callback)
        finally:
            made.close()
    agents = _agents(env)
    streams: AbstractContextManager[None] = nullcontext()
    if seed is not None:
        env.seed(seed)
        streams = isolated_random_streams(seed)
    with streams:
        return _summary(_play(model, env, n_eval_episodes, deterministic, callback), agents)


def _play(
    model: JointPredictor,
    env: VecEnv,
    n_eval_episodes: int,
    deterministic: bool,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None,
) -> list[dict[str, Any]]:
    """Play the episodes and return their ``infos["episode"]``, ordered by copy."""
    targets = [(n_eval_episodes + copy) // env.num_envs for copy in range(env.num_envs)]
    episodes: list[list[dict[str, Any]]] = [[] for _ in targets]
    joint = cast(JointVecEnv, env.unwrapped)
    observations: Any = env.reset()
    state, starts = None, np.ones_like(joint.alive)
    while any(len(done) < target for done, target in zip(episodes, targets, strict=True)):
        actions, state = _choose(model, joint, observations, state, starts, deterministic)
        alive = joint.alive.copy()
        observations, _, dones, infos = env.step(actions)  # type: ignore[arg-type]
        # The episode of an agent that joins later starts now.
        starts = dones[:, None] | (joint.alive & ~alive)
        for copy in np.flatnonzero(dones):
            if len(episodes[copy]) < targets[copy]:
                episodes[copy].append(infos[copy]["episode"])
        if callback is not None:
            callback(locals(), globals())
    return [episode for done in episodes for episode in done]


def _choose(
    model: JointPredictor,
    env: JointVecEnv,
    observations: JointObservation,
    state: Any,
    starts: np.ndarray,
    deterministic: bool,
) -> tuple[dict[str, Any], Any]:
    """
    Choose the actions of all agents; agents whose episodes start at different times are passed one by one.

    :param starts: bool (num_envs, n_agents), whether the agent's episode starts in this step
    :return: actions, and next state
    """
    # Only passed if there are any: scripted policies need no such argument.
    masks: dict[str, Any] = {"action_masks": env.action_masks} if env.action_masks else {}
    if (starts == starts[:, :1]).all():
        return model.predict(observations, state, starts[:, 0], deterministic, **masks)
    actions: dict[str, Any] = {}
    states: dict[str, Any] = dict(state or {})
    for column, agent in enumerate(env.agents):
        chosen, new = model.predict({agent: observations[agent]}, state, starts[:, column], deterministic, **masks)
        actions |= chosen
        states |= new or {}
    return actions, states or None


def _agents(env: VecEnv) -> tuple[str, ...]:
    if not isinstance(env.unwrapped, JointVecEnv):
        raise ValueError(f"evaluate_policy needs a JointVecEnv, got a {type(env.unwrapped).__name__}")
    return tuple(env.unwrapped.agents)


def _summary(episodes: list[dict[str, Any]], agents: tuple[str, ...]) -> EvaluationResult:
    return EvaluationResult(
        agents=agents,
        returns=np.array([episode["r"] for episode in episodes], dtype=np.float64),
        agent_returns=np.array([[episode["agents"][agent] for agent in agents] for episode in episodes], dtype=np.float64),
        lengths=np.array([episode["l"] for episode in episodes], dtype=np.int64),
    )
