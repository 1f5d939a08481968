"""Play episodes in a single PettingZoo environment, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from pettingzoo import AECEnv, ParallelEnv

from sb3_matrl.envs.layers import require_current_observations
from sb3_matrl.envs.parallel import as_parallel
from sb3_matrl.evaluation.evaluate import (
    LONG_EPISODE,
    MAX_EPISODE_STEPS,
    EvaluationResult,
    JointPredictor,
    check_joint_predictor,
    check_max_episode_steps,
    warn_of_cut_episodes,
    warn_of_long_episode,
)
from sb3_matrl.utils.agent_names import agent_name
from sb3_matrl.vec_env import EnvError
from sb3_matrl.vec_env.conform import Life, acting_of, listed_agents, require_visible_turns
from sb3_matrl.vec_env.mask_method import MASK_METHOD, MaskMethod
from sb3_matrl.vec_env.masks import MaskReader, observed_mask_name


def play_episodes(
    model: JointPredictor,
    env: ParallelEnv[Any, Any, Any] | AECEnv[Any, Any, Any],
    n_episodes: int | None = 1,
    n_timesteps: int | None = None,
    deterministic: bool = False,
    seed: int | None = None,
    on_frame: Callable[[], object] | None = None,
    on_episode: Callable[[], object] | None = None,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
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
    :param max_episode_steps: number of steps after which an episode is cut, with a warning; see
        :func:`~sb3_matrl.evaluation.evaluate_policy`. ``None`` waits for the end
    :return: returns and lengths of the episodes; names of agents are text
    :raises ValueError: if the env breaks PettingZoo's rules about live agents, its wrappers hide whose turn it is, a mask is
        wrong, or a number less than 1
    :raises EnvError: if the env raises an error
    :raises TypeError: if the model does not play all agents, or ``env`` is no environment of PettingZoo, but for example a
        function that makes one
    """
    check_joint_predictor(model)
    check_max_episode_steps(max_episode_steps)
    if n_episodes is not None and n_episodes < 1:
        raise ValueError(f"n_episodes must be at least 1, or None, got {n_episodes}")
    env = as_parallel(env)
    require_current_observations(env)
    game = _Game(model, env, deterministic, on_frame, max_episode_steps)
    episodes: list[tuple[list[float], int, bool]] = []
    while len(episodes) < (n_episodes or len(episodes) + 1):
        if n_timesteps is not None and sum(length for _, length, _ in episodes) >= n_timesteps:
            break
        episodes.append(game.play(seed if not episodes else None))
        if on_episode is not None:
            on_episode()
    returns = np.array([episode for episode, _, _ in episodes])
    cut = tuple(index for index, (_, _, was_cut) in enumerate(episodes) if was_cut)
    if cut:
        warn_of_cut_episodes(len(cut), len(episodes), max_episode_steps, stacklevel=2)
    agents, lengths = tuple(map(agent_name, env.possible_agents)), np.array([length for _, length, _ in episodes])
    return EvaluationResult(agents, returns.sum(axis=1), returns, lengths, cut)


class _Game:
    """
    Plays episodes in one environment; agents are named as the environment does.

    :param model: a trained model, or anything with its ``predict``
    :param env: environment
    :param deterministic: greedy actions instead of sampled ones
    :param on_frame: function called after every reset and every step
    :param limit: number of steps after which an episode is cut; ``None`` for no limit
    """

    def __init__(
        self,
        model: JointPredictor,
        env: ParallelEnv[Any, Any, Any],
        deterministic: bool,
        on_frame: Callable[[], object] | None,
        limit: int | None,
    ) -> None:
        self.model = model
        self.env = env
        self.deterministic = deterministic
        self.on_frame = on_frame or (lambda: None)
        self.limit = limit
        self.agents = list(env.possible_agents)
        self._life = Life(self.agents)
        self._masks = _Masks(env, self.agents)

    def play(self, seed: int | None) -> tuple[list[float], int, bool]:
        """
        Play one episode.

        :param seed: seed of the environment, or ``None``
        :return: return of each agent, number of steps, and whether the episode was cut
        """
        returns, length = dict.fromkeys(self.agents, 0.0), 0
        with _errors_named("reset"):
            observations, infos = self.env.reset(seed=seed)
        require_visible_turns(self.env)
        self._life.begin(list(self.env.possible_agents), listed_agents(self.env))
        # An agent starts without a state, also if it joins later; a waiting agent keeps its state.
        states: dict[Any, Any] = {}
        self.on_frame()
        while self._life.live and (self.limit is None or length < self.limit):
            actions = self._choose(observations, infos, states, first=length == 0)
            with _errors_named("step"):
                observations, rewards, terminations, truncations, infos = self.env.step(actions)
            before = self._life.live
            self._life.advance(listed_agents(self.env), terminations, truncations)
            for agent in before:
                returns[agent] += self._life.reward(agent, rewards)
            length += 1
            if length == LONG_EPISODE and self.limit != LONG_EPISODE:
                warn_of_long_episode(self.limit, stacklevel=3)
            self.on_frame()
        return list(returns.values()), length, bool(self._life.live)

    def _choose(self, observations: Mapping[Any, Any], infos: Any, states: dict[Any, Any], first: bool) -> dict[Any, Any]:
        """
        Choose the actions of the acting agents.

        :param states: agent -> recurrent state; updated
        :param first: whether the episode begins
        """
        acting = acting_of(self.env, self._life.live, self.agents)
        masks = self._masks.read(acting, observations, infos)
        # As in training, waiting agents are passed too: recurrent policies remember what they observe while waiting.
        actions, new = self.model.predict(
            {agent: observations[agent] for agent in self._life.live},
            state=states or None,
            episode_start=np.array([first]),
            deterministic=self.deterministic,
            # Only passed if there are any: scripted policies need no such argument.
            **({"action_masks": masks} if masks else {}),
        )
        states.update(new or {})
        return {agent: np.asarray(actions[agent])[()] for agent in acting}


class _Masks:
    """
    Reads the action masks of one environment from observations, infos or its method; see
    :class:`~sb3_matrl.vec_env.masks.ActionMasks`.

    :param env: environment
    :param agents: possible agents, as the environment names them
    """

    def __init__(self, env: ParallelEnv[Any, Any, Any], agents: list[Any]) -> None:
        self._method = MaskMethod.of(env)
        spaces = {agent: (env.observation_space(agent), env.action_space(agent)) for agent in agents}
        self._names = {agent: observed_mask_name(*both) for agent, both in spaces.items()}
        self._readers = {
            agent: MaskReader(agent_name(agent), column, action_space)
            for column, (agent, (_, action_space)) in enumerate(spaces.items())
        }

    def read(self, acting: list[Any], observations: Mapping[Any, Any], infos: Any) -> dict[Any, np.ndarray]:
        """
        :param acting: agents that choose the next action
        :param observations: agent -> observation
        :param infos: agent -> info
        :return: agent -> bool (mask size,), for agents that have a mask
        :raises ValueError: if a mask has the wrong length, values other than 0 and 1, or no legal action
        """
        returned = self._method.masks(acting) if self._method else {}
        masks = {}
        for agent in acting:
            place, name = self._place_of(agent, observations, infos or {}, returned)
            if name is not None:
                masks[agent] = self._readers[agent].single(place[name], 0, _now)
                self._readers[agent].require_choice(masks[agent][None], _now)
        return masks

    def _place_of(
        self, agent: Any, observations: Mapping[Any, Any], infos: Mapping[Any, Any], returned: dict[str, Any]
    ) -> tuple[Any, str | None]:
        """Observation or info that holds the mask, and the name of the mask in it; ``None`` if there is no mask."""
        if self._names[agent] is not None:
            return observations[agent], self._names[agent]
        by_method = {MASK_METHOD: returned[agent_name(agent)]} if agent_name(agent) in returned else {}
        info = by_method | dict(infos.get(agent) or {})
        return info, self._readers[agent].name_in(info)


@contextmanager
def _errors_named(method: str) -> Iterator[None]:
    """Name the method of the environment that raised an error; its exit must not end the program either."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise EnvError(f"{method}() raised {type(error).__name__}: {error}") from error


def _now(copy: int) -> str:
    return "now"
