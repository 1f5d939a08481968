"""Running normalisation of observations and rewards, as in SB3's ``VecNormalize``, separately for every learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_matrl.common.arguments import LearnerArguments

_EPSILON = 1e-8  # VecNormalize's


@dataclass(frozen=True)
class NormalizerConfig:
    """
    Settings of one learner's normaliser; names and defaults of SB3's ``VecNormalize``, but off by default.

    :param norm_obs: whether to normalise observations
    :param norm_reward: whether to normalise rewards
    :param clip_obs: largest normalised observation, in standard deviations
    :param clip_reward: largest normalised reward
    :param gamma: discount factor of the running return whose variance scales the rewards
    :raises ValueError: if a clip is not positive
    """

    norm_obs: bool = False
    norm_reward: bool = False
    clip_obs: float = 10.0
    clip_reward: float = 10.0
    gamma: float = 0.99

    def __post_init__(self) -> None:
        for name in ("clip_obs", "clip_reward"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Normalizer:
    """
    Running statistics of a learner's observations and rewards, over all its agents and env copies.

    Continuous observations are normalised (``Box`` of floats, in a ``Dict`` such entries); images, discrete ones and action
    masks stay as they are. With ``norm_obs``, the states that a central critic reads from the env are normalised, too.

    :param config: settings
    :param space: observation space of the learner
    :param n_columns: number of agents of the learner times number of env copies
    :param state_size: number of elements of the env's state; 0 for learners that do not read it
    :raises ValueError: if ``norm_obs`` is on and nothing can be normalised
    """

    def __init__(self, config: NormalizerConfig, space: spaces.Space[Any], n_columns: int, state_size: int = 0) -> None:
        self.config = config
        self.states = RunningMeanStd(shape=(state_size,)) if config.norm_obs and state_size else None
        self.observations = dict(self._statistics(space)) if config.norm_obs else {}
        if config.norm_obs and not self.observations:
            raise ValueError(f"norm_obs: there is nothing continuous to normalise in {space}: leave it out")
        self.returns = RunningMeanStd(shape=())
        self.running = np.zeros(n_columns)

    @staticmethod
    def _statistics(space: spaces.Space[Any]) -> Iterator[tuple[str | None, RunningMeanStd]]:
        entries = space.spaces.items() if isinstance(space, spaces.Dict) else [(None, space)]
        for key, entry in entries:
            if isinstance(entry, spaces.Box) and entry.dtype.kind == "f" and not is_image_space(entry):
                yield key, RunningMeanStd(shape=entry.shape)

    def observe(self, observation: Any, seen: np.ndarray) -> None:
        """
        Update the statistics of the observations.

        :param observation: (n_columns, ...), or a dict of such
        :param seen: bool (n_columns,), False for rows of agents that are not alive
        """
        for key, statistics in self.observations.items():
            rows = observation if key is None else observation[key]
            if seen.any():
                statistics.update(rows if seen.all() else rows[seen])

    def observe_states(self, states: np.ndarray) -> None:
        """
        Update the statistics of the env's states.

        :param states: (num_envs, state size)
        """
        if self.states is not None:
            self.states.update(states)

    def normalize_states(self, states: np.ndarray) -> np.ndarray:
        """
        Normalise states of the env; the statistics do not change.

        :param states: (..., state size)
        :return: the same shape, float32
        """
        return states if self.states is None else self._scaled(states, self.states)

    def normalize(self, observation: Any) -> Any:
        """
        Normalise observations; the statistics do not change.

        :param observation: raw, with or without leading axes, or a dict of such
        :return: the same shapes, float32 where normalised
        """
        if not self.observations:
            return observation
        if None in self.observations:
            return self._scaled(observation, self.observations[None])
        return {
            key: self._scaled(value, self.observations[key]) if key in self.observations else value
            for key, value in observation.items()
        }

    def _scaled(self, observation: np.ndarray, statistics: RunningMeanStd) -> np.ndarray:
        scaled = (observation - statistics.mean) / np.sqrt(statistics.var + _EPSILON)
        return np.asarray(np.clip(scaled, -self.config.clip_obs, self.config.clip_obs).astype(np.float32))

    def reward(self, rewards: np.ndarray, acted: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """
        Update the statistics of the running discounted return, and scale rewards by its standard deviation.

        :param rewards: (n_columns,)
        :param acted: bool (n_columns,), rows whose rewards count
        :param ended: bool (n_columns,), rows whose episode is over
        :return: float32 (n_columns,)
        """
        if not self.config.norm_reward:
            return rewards
        self.running = self.running * self.config.gamma + rewards
        if acted.any():
            self.returns.update(self.running if acted.all() else self.running[acted])
        self.running[ended] = 0.0
        scaled = rewards / np.sqrt(self.returns.var + _EPSILON)
        return np.asarray(np.clip(scaled, -self.config.clip_reward, self.config.clip_reward).astype(np.float32))

    def as_vec_normalize(self, venv: VecEnv) -> VecNormalize:
        """
        Normalisation for an agent that is used by itself, as plain SB3.

        :param venv: single-agent environment with the agent's spaces
        :return: SB3's wrapper around it with copies of these statistics, which are not updated
        """
        config = self.config
        keys = [key for key in self.observations if key is not None]
        wrapper = VecNormalize(
            venv,
            False,
            config.norm_obs,
            config.norm_reward,
            config.clip_obs,
            config.clip_reward,
            config.gamma,
            _EPSILON,
            keys or None,
        )
        copies: dict[Any, RunningMeanStd] = deepcopy(self.observations)
        if config.norm_obs:
            wrapper.obs_rms = copies if keys else copies[None]  # type: ignore[assignment]
        wrapper.ret_rms = deepcopy(self.returns)
        return wrapper

    def begin(self) -> None:
        """Begin new episodes in all copies."""
        self.running[:] = 0.0

    def state(self) -> dict[str, Any]:
        """Statistics and running returns as arrays; :meth:`restore` reads them."""
        observations = [_as_arrays(one) for one in self.observations.values()]
        state = {"observations": observations, "returns": _as_arrays(self.returns), "running": self.running.copy()}
        return state if self.states is None else {**state, "states": _as_arrays(self.states)}

    def restore(self, state: Mapping[str, Any], with_running: bool = True) -> None:
        """
        Restore a state.

        :param state: return value of :meth:`state` of a normaliser with the same settings and space
        :param with_running: whether to restore the running returns of the episodes under way
        :raises ValueError: if it does not fit
        """
        try:
            for statistics, saved in zip(self.observations.values(), state["observations"], strict=True):
                _restore(statistics, saved)
            _restore(self.returns, state["returns"])
            if self.states is not None:
                _restore(self.states, state["states"])
            if with_running:
                self.running = _like(self.running, state["running"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a state of this normaliser: {error!r}") from error


def _as_arrays(statistics: RunningMeanStd) -> dict[str, np.ndarray]:
    names = ("mean", "var", "count")
    return {name: np.array(getattr(statistics, name), dtype=np.float64) for name in names}


def _restore(statistics: RunningMeanStd, saved: Mapping[str, Any]) -> None:
    statistics.mean = _like(statistics.mean, saved["mean"])
    statistics.var = _like(statistics.var, saved["var"])
    statistics.count = float(np.asarray(saved["count"]))


def _like(current: np.ndarray, saved: Any) -> np.ndarray:
    array = np.array(saved, dtype=np.float64)
    if array.shape != np.shape(current):
        raise ValueError(f"statistics of shape {array.shape} where {np.shape(current)} are expected")
    return array


_ARGUMENTS = tuple(field.name for field in fields(NormalizerConfig))


def build_normalizers(envs: Mapping[str, VecEnv], arguments: LearnerArguments, state_size: int = 0) -> dict[str, Normalizer]:
    """
    The normalisers of the learners for which something is normalised.

    :param envs: learner -> its spaces and number of columns
    :param arguments: constructor arguments by learner; an algorithm may lack those of the normalisers
    :param state_size: number of elements of the env's state; 0 if the learners do not read it
    :return: learner -> normaliser
    """
    known = [name for name in _ARGUMENTS if name in arguments.values]
    configs = {name: NormalizerConfig(**arguments.all_of(known, name)) for name in envs}
    return {
        name: Normalizer(config, envs[name].observation_space, envs[name].num_envs, state_size)
        for name, config in configs.items()
        if config.norm_obs or config.norm_reward
    }
