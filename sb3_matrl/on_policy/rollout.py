"""Joint collection: one pass through the environment fills the SB3 rollout buffer of every learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor

from sb3_matrl.common.agents import Position, Team
from sb3_matrl.common.finite import REFUSED_BY_TORCH, NonFiniteError
from sb3_matrl.common.frozen import to_space_dtype
from sb3_matrl.on_policy.buffers import is_maskable, is_recurrent
from sb3_matrl.vec_env import JointStep, JointVecEnv

# Called after every joint step with the local variables that SB3's callbacks read; False stops the rollout.
OnStep = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class _Decision:
    """
    Decisions of one learner in all its columns.

    :param observation: normalised observations, (n_columns, ...)
    :param starts: bool (n_columns,), True where the row opens an episode
    :param alive: bool (n_columns,), True where the agent was alive
    :param env_actions: actions for the environment
    :param actions: actions for the rollout buffer
    :param values: values of the observations
    :param log_probs: log-densities of the actions
    :param extras: keyword arguments of the buffer's ``add``
    """

    observation: Any
    starts: np.ndarray
    alive: np.ndarray
    env_actions: np.ndarray
    actions: np.ndarray
    values: th.Tensor
    log_probs: th.Tensor
    extras: dict[str, Any]


class RolloutCollector:
    """
    Plays rollouts with a team of on-policy learners.

    :param env: environment, which has been reset
    :param team: learners and frozen agents; a learner's rollout buffer has one column for every copy of each of its agents
    """

    def __init__(self, env: JointVecEnv, team: Team) -> None:
        self.env = env
        self.team = team

    def collect(self, position: Position, n_steps: int, on_step: OnStep) -> tuple[Position, bool]:
        """
        Play ``n_steps`` joint steps in every copy and fill all learners' rollout buffers, advantages included.

        A truncated agent's last reward is bootstrapped with the value of its final observation; a terminated agent's is not.
        Rows in which an agent did not act are masked.

        :param position: observations and episode starts to begin with
        :param n_steps: steps per copy, the size of the buffers
        :param on_step: called after every step; False stops
        :return: where the rollout ended, and whether it is complete (False if ``on_step`` stopped it)
        :raises NonFiniteError: if a policy's output is NaN or infinite
        :raises ValueError: if the masks of a learner that knows masks cannot be read
        """
        env, team = self.env, self.team
        env.require_masks(self._masked_agents(env.acting), warn=False)
        self._start()
        acted = np.empty((n_steps, env.num_envs, len(env.agents)), dtype=bool)
        for n in range(n_steps):
            self._resample_noise(n)
            alive, acted[n] = env.alive, env.acting
            decisions = {name: self._decide(name, position, n) for name in team.learners}
            actions = self._joint_actions(position, decisions)
            new_obs, rewards, dones, infos = env.step(actions)  # type: ignore[arg-type]
            step = env.last_step
            assert step is not None
            ended = step.terminated | step.truncated | step.dones[:, None] | ~alive
            seen = {"n_steps": n, "actions": actions, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos}
            position = Position(step.observations, ended)
            if not on_step(seen):
                return position, False
            team.observe(step.observations, step.alive)
            for name, decision in decisions.items():
                self._store(name, decision, step, ended)
        env.require_masks(self._masked_agents(acted))
        self._finish(position, acted)
        return position, True

    def _masked_agents(self, acted: np.ndarray) -> list[str]:
        """Agents whose learners know masks, of those that acted at any time: bool (..., n_agents)."""
        rows = acted.reshape(-1, len(self.env.agents))
        has_acted = {agent: bool(rows[:, column].any()) for column, agent in enumerate(self.env.agents)}
        members, learners = self.team.members, self.team.learners
        masked = [agent for name in learners if is_maskable(learners[name].rollout_buffer) for agent in members[name]]
        return [agent for agent in masked if has_acted[agent]]

    def _start(self) -> None:
        for learner in self.team.learners.values():
            learner.policy.set_training_mode(False)
            learner.rollout_buffer.reset()
            if learner.use_sde:
                learner.policy.reset_noise(learner.n_envs)

    def _resample_noise(self, n: int) -> None:
        for learner in self.team.learners.values():
            if learner.use_sde and learner.sde_sample_freq > 0 and n % learner.sde_sample_freq == 0:
                learner.policy.reset_noise(learner.n_envs)

    def _decide(self, name: str, position: Position, n: int) -> _Decision:
        learner, team = self.team.learners[name], self.team
        observation = team.normalized_rows(name, position.observations)
        starts, alive = team.columns(name, position.episode_starts), team.columns(name, self.env.alive)
        states = getattr(learner, "_last_lstm_states", None)
        try:
            env_actions, actions, values, log_probs, extras, states = act(
                learner, observation, starts, self._action_masks(name), states
            )
        except ValueError as error:
            if REFUSED_BY_TORCH not in str(error):
                raise
            raise NonFiniteError(
                f"agent {name!r}, step {n} of the rollout: the policy's output is NaN or infinite, on finite observations"
            ) from error
        if states is not None:
            learner._last_lstm_states = states
        return _Decision(observation, starts, alive, env_actions, actions, values, log_probs, extras)

    def _action_masks(self, name: str) -> np.ndarray | None:
        """Action masks (n_columns, mask_size) for learners that know masks; all True if the env provides none."""
        learner = self.team.learners[name]
        if not is_maskable(learner.rollout_buffer):
            return None
        all_legal = np.ones((self.env.num_envs, learner.rollout_buffer.mask_dims), dtype=bool)
        return np.concatenate([self.env.action_masks.get(agent, all_legal) for agent in self.team.members[name]])

    def _joint_actions(self, position: Position, decisions: dict[str, _Decision]) -> dict[str, np.ndarray]:
        """agent -> (num_envs, *action shape), in the env's order."""
        actions: dict[str, np.ndarray] = {}
        for name, decision in decisions.items():
            members = self.team.members[name]
            actions |= dict(zip(members, np.split(decision.env_actions, len(members)), strict=True))
        for agent, frozen in self.team.frozen.items():
            starts = position.episode_starts[:, self.env.agents.index(agent)]
            actions[agent] = frozen.act(position.observations[agent], starts, self.env.action_masks.get(agent))
        return {agent: actions[agent] for agent in self.env.agents}

    def _store(self, name: str, decision: _Decision, step: JointStep, ended: np.ndarray) -> None:
        """Add one row to a learner's buffer, for the decisions before ``step``."""
        learner = self.team.learners[name]
        rewards, alive, values = self._rewards(name, decision, step, ended), decision.alive, decision.values
        if not alive.all():
            values = values * th.as_tensor(alive, device=values.device).reshape(-1, *[1] * (values.dim() - 1))
            rewards[~alive] = 0.0
        learner.rollout_buffer.add(
            _transposed(learner, decision.observation),
            decision.actions,
            rewards,
            decision.starts,
            values,
            decision.log_probs,
            **decision.extras,
        )

    def _rewards(self, name: str, decision: _Decision, step: JointStep, ended: np.ndarray) -> np.ndarray:
        """Rewards (n_columns,), normalised, with the bootstrapped value where an agent was truncated."""
        team, learner, normalizer = self.team, self.team.learners[name], self.team.normalizers.get(name)
        rewards = team.columns(name, step.rewards).copy()
        if normalizer is not None:
            rewards = normalizer.reward(rewards, decision.alive, team.columns(name, ended))
        cut = team.columns(name, step.truncated & ~step.terminated)
        if cut.any():
            assert step.final_observations is not None
            final = team.normalized_rows(name, step.final_observations)
            for column in np.flatnonzero(cut).tolist():
                # One row at a time as in SB3: a batched product can differ in the last bit.
                rewards[column] += (learner.gamma * _value_at(learner, final, column)).item()
        return rewards

    def _finish(self, position: Position, acted: np.ndarray) -> None:
        """Compute advantages and returns of every buffer, and its mask."""
        for name, learner in self.team.learners.items():
            starts = self.team.columns(name, position.episode_starts)
            states: RNNStates | None = getattr(learner, "_last_lstm_states", None)
            observation = self.team.normalized_rows(name, position.observations)
            recurrent = () if states is None else (states.vf, starts)
            last_values = _values(learner, observation_tensor(learner, observation), *recurrent)
            learner.rollout_buffer.mask = np.stack([self.team.columns(name, row) for row in acted])
            learner.rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=starts)


def act(
    learner: Any, observation: Any, starts: np.ndarray, masks: np.ndarray | None, states: RNNStates | None
) -> tuple[np.ndarray, np.ndarray, th.Tensor, th.Tensor, dict[str, Any], RNNStates | None]:
    """
    Sample actions.

    :param learner: on-policy learner
    :param observation: normalised observations (n_columns, ...)
    :param starts: bool (n_columns,), True where an episode begins
    :param masks: bool (n_columns, mask size), for learners that know masks
    :param states: recurrent states, for recurrent learners
    :return: actions for the env, actions for the buffer, values, log-densities, further arguments of the buffer's ``add``, and
        the next recurrent states
    """
    extras: dict[str, Any] = {}
    tensor = observation_tensor(learner, observation)
    with th.no_grad():
        if is_recurrent(learner.rollout_buffer):
            extras = {"lstm_states": states}
            begins = th.tensor(starts, dtype=th.float32, device=learner.device)
            sampled, values, log_probs, states = learner.policy(tensor, states, begins)
        elif is_maskable(learner.rollout_buffer):
            extras = {"action_masks": masks}
            sampled, values, log_probs = learner.policy(tensor, action_masks=masks)
        else:
            sampled, values, log_probs = learner.policy(tensor)
    actions = sampled.cpu().numpy()
    env_actions = to_env_actions(learner.policy, learner.action_space, actions)
    if isinstance(learner.action_space, spaces.Discrete):
        actions = actions.reshape(-1, 1)
    return env_actions, actions, values, log_probs, extras, states


def to_env_actions(policy: ActorCriticPolicy, space: spaces.Space[Any], actions: np.ndarray) -> np.ndarray:
    """
    Actions as the environment takes them: Box actions unscaled (squashed policies) or clipped, as SB3 does.

    :param policy: policy that sampled the actions
    :param space: action space
    :param actions: sampled actions, (n_columns, ...)
    """
    if isinstance(space, spaces.Box):
        actions = policy.unscale_action(actions) if policy.squash_output else np.clip(actions, space.low, space.high)
    return to_space_dtype(space, actions)


def observation_tensor(learner: Any, observation: Any) -> PyTorchObs:
    """
    Observations as a learner's policy takes them.

    :param learner: on-policy learner
    :param observation: (n_columns, ...), images with their channels first or last
    """
    return obs_as_tensor(_transposed(learner, observation), learner.device)


def _transposed(learner: Any, observation: Any) -> Any:
    """Images with their channels first, as the policy expects them; everything else as it is."""
    space = learner.observation_space
    if isinstance(space, spaces.Dict):
        return {key: maybe_transpose(value, space[key]) for key, value in observation.items()}
    return maybe_transpose(observation, space)


def _value_at(learner: Any, observation: Any, column: int) -> th.Tensor:
    """Value of one column's final observation, with its current recurrent state."""
    one = {key: value[column] for key, value in observation.items()} if isinstance(observation, dict) else observation[column]
    # As SB3 does: the layout of an image in memory decides about the last bit of a convolution.
    tensor = learner.policy.obs_to_tensor(_transposed(learner, one))[0]
    if not is_recurrent(learner.rollout_buffer):
        return _values(learner, tensor)
    states = tuple(state[:, column : column + 1].contiguous() for state in learner._last_lstm_states.vf)
    return _values(learner, tensor, states, np.zeros(1))


def _values(learner: Any, tensor: PyTorchObs, states: Any = None, starts: np.ndarray | None = None) -> th.Tensor:
    recurrent = () if states is None else (states, th.tensor(starts, dtype=th.float32, device=learner.device))
    with th.no_grad():
        values: th.Tensor = learner.policy.predict_values(tensor, *recurrent)
    return values
