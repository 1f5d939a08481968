"""Evaluate a model: play whole episodes and collect the returns of all agents."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.envs.parallel import is_environment
from sb3_matrl.evaluation.statistics import mean_confidence_interval, score_margins, win_rates
from sb3_matrl.utils.random_state import isolated_random_streams
from sb3_matrl.utils.reward_structure import RewardStructure, reward_structure
from sb3_matrl.vec_env import JointObservation, JointVecEnv, make_joint_vec_env

#: Steps after which an evaluated episode is cut by default: a game of the Arcade Learning Environment takes no more.
MAX_EPISODE_STEPS = 27_000
#: Steps after which a warning says that an evaluation waits for the end of an episode.
LONG_EPISODE = 10_000


class JointPredictor(Protocol):
    """Anything with a joint ``predict``: a trained model, a scripted or a random policy."""

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[dict[str, Any], Any]:
        """
        Choose the actions of all agents, as SB3's ``predict`` does for one.

        :param observation: agent -> observations of all copies, or of a single environment
        :param state: return value of the previous call, for players with a memory; ``None`` at the beginning
        :param episode_start: whether an episode begins, bool (copies,)
        :param deterministic: greedy actions instead of sampled ones
        :return: agent -> actions; and the state for the next call
        """
        ...


@dataclass(frozen=True)
class EvaluationResult:
    """
    Returns and lengths of k episodes.

    :param agents: n agents, in the order of the columns of ``agent_returns``
    :param returns: team return of each episode (undiscounted sum over agents and steps), shape (k,)
    :param agent_returns: return of each agent in each episode, shape (k, n)
    :param lengths: steps of each episode, shape (k,)
    :param cut: indices of the episodes that had no end and were cut; their returns are those up to the cut
    """

    agents: tuple[str, ...]
    returns: np.ndarray
    agent_returns: np.ndarray
    lengths: np.ndarray
    cut: tuple[int, ...] = ()

    @property
    def n_episodes(self) -> int:
        """Number of episodes k."""
        return len(self.returns)

    @property
    def was_cut(self) -> np.ndarray:
        """Whether each episode was cut, bool (k,)."""
        return np.isin(np.arange(self.n_episodes), self.cut)

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

    @property
    def win_rates(self) -> dict[str, float]:
        """Share of the episodes that each agent won, see :func:`~sb3_matrl.evaluation.statistics.win_rates`."""
        return dict(zip(self.agents, win_rates(self.agent_returns).tolist(), strict=True))

    @property
    def score_margins(self) -> dict[str, float]:
        """Mean lead of each agent over the mean of the others."""
        return dict(zip(self.agents, score_margins(self.agent_returns).tolist(), strict=True))

    def confidence_interval(self, level: float = 0.95) -> tuple[float, float]:
        """
        Student-t interval for the mean team return; covers the variance between episodes, not between training runs.

        :param level: confidence level, in (0, 1)
        :return: lower and upper end; both NaN for a single episode
        """
        return mean_confidence_interval(self.returns, level)


def structure_of(results: Iterable[EvaluationResult]) -> RewardStructure:
    """
    Tell from the episodes of several evaluations how the agents' rewards depend on each other.

    :param results: evaluations of the same agents, with different policies where there are any
    :return: see :func:`~sb3_matrl.utils.reward_structure.reward_structure`
    """
    returns = [result.agent_returns for result in results]
    return reward_structure(np.concatenate(returns) if returns else np.empty((0, 0)))


def evaluate_policy(
    model: JointPredictor,
    env: VecEnv | Callable[..., Any] | str | Any,
    n_eval_episodes: int = 10,
    deterministic: bool = False,
    seed: int | None = None,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
) -> EvaluationResult:
    """
    Play ``n_eval_episodes`` whole episodes and record the undiscounted returns.

    With several copies, every copy plays a fixed number of episodes, as in SB3's function of this name, so that short
    episodes are not counted more often than long ones.

    The default is ``deterministic=False``, because agents trained with stochastic policies may get stuck when played
    greedily.

    :param model: a trained model, or anything with its ``predict``
    :param env: a :class:`JointVecEnv`, wrapped or not; or any argument of :func:`make_joint_vec_env`, of which one copy is
        made and closed afterwards. An env that is given as an object is not closed
    :param n_eval_episodes: number of episodes, at least 1
    :param deterministic: greedy actions instead of sampled ones
    :param seed: seed of the environment and of sampled actions; the global random streams are restored afterwards.
        ``None`` uses the global streams and the environment's current generators.
    :param callback: function called with ``locals()`` and ``globals()`` after every joint step; ``episodes`` among the former
        holds the statistics of the finished episodes, one list for each copy
    :param max_episode_steps: number of steps after which an episode is cut, with a warning; its return so far counts, and
        :attr:`EvaluationResult.cut` lists it. ``None`` waits for the end
    :return: episodes ordered by copy, and within a copy in the order played
    :raises TypeError: if the model does not play all agents
    :raises ValueError: if ``n_eval_episodes`` or ``max_episode_steps`` is less than 1
    """
    check_joint_predictor(model)
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}")
    check_max_episode_steps(max_episode_steps)
    if not isinstance(env, VecEnv):
        made = make_joint_vec_env(env)
        try:
            return evaluate_policy(model, made, n_eval_episodes, deterministic, seed, callback, max_episode_steps)
        finally:
            if not is_environment(env):  # an env that was given stays open
                made.close()
    agents = _agents(env)
    streams: AbstractContextManager[None] = nullcontext()
    if seed is not None:
        env.seed(seed)
        streams = isolated_random_streams(seed)
    joint = cast(JointVecEnv, env.unwrapped)
    wanted = _WantedEpisodes(joint, n_eval_episodes, max_episode_steps)
    with streams:
        _play(model, env, joint, wanted, deterministic, callback)
    return wanted.summary(agents)


def check_joint_predictor(model: Any) -> None:
    """
    :param model: what is to play all agents
    :raises TypeError: if it has no ``predict``, or is a model or policy of plain SB3, which plays one agent
    """
    of_one_agent = isinstance(model, BaseAlgorithm | BasePolicy) and not hasattr(model, "possible_agents")
    if of_one_agent or not hasattr(model, "predict"):
        raise TypeError(
            f"expected a model that plays all agents, got a {type(model).__name__}: MixedPolicy puts agents of several models "
            "together, and cross_play takes models of plain SB3 and functions"
        )


def check_max_episode_steps(limit: int | None) -> None:
    """
    :param limit: number of steps after which an episode is cut
    :raises ValueError: if the number is less than 1
    """
    if limit is not None and limit < 1:
        raise ValueError(f"max_episode_steps must be at least 1, or None for no limit, got {limit}")


def warn_of_long_episode(limit: int | None, stacklevel: int) -> None:
    """Say what an evaluation is waiting for; called when an episode has :data:`LONG_EPISODE` steps."""
    then = "its end is awaited" if limit is None else f"it is cut after {limit} (max_episode_steps)"
    warnings.warn(f"an evaluated episode has not ended after {LONG_EPISODE} steps; {then}", stacklevel=stacklevel + 1)


def warn_of_cut_episodes(cut: int, of: int, limit: int | None, stacklevel: int) -> None:
    """Say that episodes had no end."""
    warnings.warn(
        f"{cut} of {of} evaluated episodes had no end after {limit} steps and were cut: their returns are those so far. Does "
        "the env end its episodes? A longer one needs a larger max_episode_steps",
        stacklevel=stacklevel + 1,
    )


class _WantedEpisodes:
    """
    Episodes that an evaluation is to play in each copy, and those that have been played.

    An episode without an end is cut, but one copy cannot be reset alone: the copy waits for the end of the others' episodes,
    or for an end of its own.

    :param env: environment that is evaluated
    :param n_episodes: number of episodes, divided among the copies
    :param limit: number of steps after which an episode is cut; ``None`` for no limit
    """

    def __init__(self, env: JointVecEnv, n_episodes: int, limit: int | None) -> None:
        self._env = env
        self._limit = limit
        self._targets = np.array([(n_episodes + copy) // env.num_envs for copy in range(env.num_envs)])
        self.played: list[list[dict[str, Any]]] = [[] for _ in self._targets]
        self._cut: list[list[bool]] = [[] for _ in self._targets]
        self._wanted = self._targets > 0
        self._waits = np.zeros(env.num_envs, dtype=bool)
        self._warned = limit is not None and limit <= LONG_EPISODE

    @property
    def complete(self) -> bool:
        """Whether all episodes have been played."""
        return not self._wanted.any()

    @property
    def all_wait(self) -> bool:
        """Whether all copies with episodes to play wait for a reset."""
        return not self.complete and bool(self._waits[self._wanted].all())

    def after_reset(self) -> None:
        """Continue with a new episode in every copy."""
        self._waits[:] = False

    def after_step(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        Record the episodes that ended in a step or reached the limit.

        :param dones: bool (num_envs,)
        :param infos: infos of the copies
        """
        for copy in np.flatnonzero(dones).tolist():
            if self._wanted[copy] and not self._waits[copy]:
                self._record(copy, infos[copy]["episode"], cut=False)
            self._waits[copy] = False
        lengths = self._env.episode_lengths
        if self._limit is not None and (lengths >= self._limit).any():
            for copy in np.flatnonzero((lengths >= self._limit) & self._wanted & ~self._waits).tolist():
                self._record(copy, self._env.running_episode(copy), cut=True)
                self._waits[copy] = True
        if not self._warned and (lengths[self._wanted] >= LONG_EPISODE).any():
            self._warned = True
            warn_of_long_episode(self._limit, stacklevel=4)

    def _record(self, copy: int, episode: dict[str, Any], cut: bool) -> None:
        self.played[copy].append(episode)
        self._cut[copy].append(cut)
        self._wanted[copy] = len(self.played[copy]) < self._targets[copy]

    def summary(self, agents: tuple[str, ...]) -> EvaluationResult:
        """
        Results of all episodes, with a warning if some were cut.

        :param agents: agents in the order of the columns
        """
        episodes = [episode for played in self.played for episode in played]
        flags = [flag for of_copy in self._cut for flag in of_copy]
        if any(flags):
            warn_of_cut_episodes(sum(flags), len(flags), self._limit, stacklevel=3)
        returns = [[episode["agents"][agent] for agent in agents] for episode in episodes]
        return EvaluationResult(
            agents=agents,
            returns=np.array([episode["r"] for episode in episodes], dtype=np.float64),
            agent_returns=np.array(returns, dtype=np.float64),
            lengths=np.array([episode["l"] for episode in episodes], dtype=np.int64),
            cut=tuple(np.flatnonzero(flags).tolist()),
        )


def _play(
    model: JointPredictor,
    env: VecEnv,
    joint: JointVecEnv,
    wanted: _WantedEpisodes,
    deterministic: bool,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None,
) -> None:
    """
    Play the wanted episodes.

    :param joint: the env without its wrappers
    """
    episodes = wanted.played  # among the locals that the callback gets
    observations: Any = env.reset()
    state, starts = None, np.ones_like(joint.alive)
    while not wanted.complete:
        actions, state = _choose(model, joint, observations, state, starts, deterministic)
        alive = joint.alive.copy()
        observations, _, dones, infos = env.step(actions)  # type: ignore[arg-type]
        # The episode of an agent that joins later starts now.
        starts = dones[:, None] | (joint.alive & ~alive)
        wanted.after_step(dones, infos)
        if callback is not None:
            callback(locals(), globals())
        if wanted.all_wait:
            observations = env.reset()
            state, starts = None, np.ones_like(joint.alive)
            wanted.after_reset()


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
