"""Who acts in a rollout: one learner by itself, as SB3 does, or a stack of learners together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

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
from sb3_matrl.on_policy.central_policies import ObservationAndState
from sb3_matrl.on_policy.critic_states import CriticStates
from sb3_matrl.vec_env import JointStep, JointVecEnv


class Actor(Protocol):
    """One or several learners in a rollout: chooses their actions and fills their rollout buffers."""

    def start(self, n_steps: int) -> None:
        """
        Begin a rollout with empty buffers.

        :param n_steps: steps per copy
        """
        ...

    def act(self, position: Position, n: int) -> dict[str, np.ndarray]:
        """
        Choose the actions of step ``n``.

        :param position: observations and episode starts
        :param n: index of the step in the rollout
        :return: agent -> (num_envs, *action shape)
        :raises NonFiniteError: if a policy's output is NaN or infinite
        """
        ...

    def store(self, n: int, step: JointStep, ended: np.ndarray, final_states: np.ndarray | None) -> None:
        """
        Store what followed the actions of step ``n``.

        :param n: index of the step in the rollout
        :param step: joint step
        :param ended: bool (num_envs, n_agents), agents whose episode is over
        :param final_states: float32 (num_envs, size), what central critics see of the truncated agents' final moment; ``None``
            without them, and if no agent was truncated
        """
        ...

    def finish(self, position: Position, acted: np.ndarray) -> None:
        """
        Compute advantages and returns, and the buffers' masks.

        :param position: where the rollout ended
        :param acted: bool (n_steps, num_envs, n_agents), agents that chose an action
        :raises NonFiniteError: if a policy's output was NaN or infinite
        """
        ...


@dataclass(frozen=True)
class _Decision:
    """
    Decisions of one learner in all its columns.

    :param observation: normalised observations, (n_columns, ...)
    :param critic_states: what a central critic sees, (n_columns, state size); ``None`` without one
    :param starts: bool (n_columns,), True where the row opens an episode
    :param alive: bool (n_columns,), True where the agent was alive
    :param env_actions: actions for the environment
    :param actions: actions for the rollout buffer
    :param values: values of the observations
    :param log_probs: log-densities of the actions
    :param extras: keyword arguments of the buffer's ``add``
    """

    observation: Any
    critic_states: np.ndarray | None
    starts: np.ndarray
    alive: np.ndarray
    env_actions: np.ndarray
    actions: np.ndarray
    values: th.Tensor
    log_probs: th.Tensor
    extras: dict[str, Any]


class LearnerActor:
    """
    A learner that acts by itself, step by step as in SB3.

    :param env: environment
    :param team: all learners
    :param name: name of the learner
    :param states: source of the states that a central critic sees; ``None`` if the learner has none
    """

    def __init__(self, env: JointVecEnv, team: Team, name: str, states: CriticStates | None = None) -> None:
        self.env, self.team, self.name, self.states = env, team, name, states
        self.learner = team.learners[name]
        self._decision: _Decision | None = None

    def start(self, n_steps: int) -> None:
        """See :class:`Actor`."""
        self.learner.policy.set_training_mode(False)
        self.learner.rollout_buffer.reset()
        if self.learner.use_sde:
            self.learner.policy.reset_noise(self.learner.n_envs)

    def act(self, position: Position, n: int) -> dict[str, np.ndarray]:
        """See :class:`Actor`."""
        learner = self.learner
        if learner.use_sde and learner.sde_sample_freq > 0 and n % learner.sde_sample_freq == 0:
            learner.policy.reset_noise(learner.n_envs)
        self._decision = self._decide(position, n)
        members = self.team.members[self.name]
        return dict(zip(members, np.split(self._decision.env_actions, len(members)), strict=True))

    def _decide(self, position: Position, n: int) -> _Decision:
        learner, team, name = self.learner, self.team, self.name
        observation = team.normalized_rows(name, position.observations)
        critic_states = self._critic_states(position.states)
        starts, alive = team.columns(name, position.episode_starts), team.columns(name, self.env.alive)
        states = getattr(learner, "_last_lstm_states", None)
        masks = action_masks(self.env, team, name) if is_maskable(learner.rollout_buffer) else None
        try:
            env_actions, actions, values, log_probs, extras, states = act(
                learner, observation, starts, masks, states, critic_states
            )
        except ValueError as error:
            if REFUSED_BY_TORCH not in str(error):
                raise
            raise bad_output(name, n) from error
        if states is not None:
            learner._last_lstm_states = states
        return _Decision(observation, critic_states, starts, alive, env_actions, actions, values, log_probs, extras)

    def _critic_states(self, states: np.ndarray | None) -> np.ndarray | None:
        """The learner's rows of what central critics see, (n_columns, state size)."""
        if self.states is None:
            return None
        assert states is not None
        return self.states.rows(self.name, states)

    def store(self, n: int, step: JointStep, ended: np.ndarray, final_states: np.ndarray | None) -> None:
        """See :class:`Actor`."""
        learner, decision = self.learner, self._decision
        assert decision is not None
        rewards, alive, values = self._rewards(decision, step, ended, final_states), decision.alive, decision.values
        if not alive.all():
            values = values * th.as_tensor(alive, device=values.device).reshape(-1, *[1] * (values.dim() - 1))
            rewards[~alive] = 0.0
        learner.rollout_buffer.add(
            channels_first(learner, decision.observation),
            decision.actions,
            rewards,
            decision.starts,
            values,
            decision.log_probs,
            **decision.extras,
            **({} if decision.critic_states is None else {"state": decision.critic_states}),
        )

    def _rewards(self, decision: _Decision, step: JointStep, ended: np.ndarray, final_states: np.ndarray | None) -> np.ndarray:
        """Rewards (n_columns,), normalised, with the bootstrapped value where an agent was truncated."""
        team, name, learner = self.team, self.name, self.learner
        rewards = normalized_rewards(team, name, step, decision.alive, ended)
        cut = team.columns(name, step.truncated & ~step.terminated)
        if cut.any():
            assert step.final_observations is not None
            final, states = team.normalized_rows(name, step.final_observations), self._critic_states(final_states)
            for column in np.flatnonzero(cut).tolist():
                # One row at a time as in SB3: a batched product can differ in the last bit.
                rewards[column] += (learner.gamma * _value_at(learner, final, states, column)).item()
        return rewards

    def finish(self, position: Position, acted: np.ndarray) -> None:
        """See :class:`Actor`."""
        learner, team, name = self.learner, self.team, self.name
        starts = team.columns(name, position.episode_starts)
        states: RNNStates | None = getattr(learner, "_last_lstm_states", None)
        observation = team.normalized_rows(name, position.observations)
        recurrent = () if states is None else (states.vf, starts)
        tensor = with_states(learner, observation_tensor(learner, observation), self._critic_states(position.states))
        last_values = _values(learner, tensor, *recurrent)
        learner.rollout_buffer.mask = np.stack([team.columns(name, row) for row in acted])
        learner.rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=starts)


def bad_output(name: str, n: int) -> NonFiniteError:
    """:return: error for the output of learner ``name`` in step ``n`` of the rollout"""
    return NonFiniteError(
        f"agent {name!r}, step {n} of the rollout: the policy's output is NaN or infinite, on finite observations"
    )


def action_masks(env: JointVecEnv, team: Team, name: str) -> np.ndarray:
    """
    Action masks of a learner that knows masks; all True if the env provides none.

    :param env: environment
    :param team: all learners
    :param name: name of the learner
    :return: bool (n_columns, mask size)
    """
    all_legal = np.ones((env.num_envs, team.learners[name].rollout_buffer.mask_dims), dtype=bool)
    return np.concatenate([env.action_masks.get(agent, all_legal) for agent in team.members[name]])


def normalized_rewards(team: Team, name: str, step: JointStep, alive: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """
    Rewards of a learner's agents, scaled if the learner has a normaliser.

    :param team: all learners
    :param name: name of the learner
    :param step: joint step
    :param alive: bool (n_columns,), agents that were alive before the step
    :param ended: bool (num_envs, n_agents), agents whose episode is over
    :return: new array (n_columns,)
    """
    rewards, normalizer = team.columns(name, step.rewards).copy(), team.normalizers.get(name)
    return rewards if normalizer is None else normalizer.reward(rewards, alive, team.columns(name, ended))


def act(
    learner: Any,
    observation: Any,
    starts: np.ndarray,
    masks: np.ndarray | None,
    states: RNNStates | None,
    critic_states: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, th.Tensor, th.Tensor, dict[str, Any], RNNStates | None]:
    """
    Sample actions.

    :param learner: on-policy learner
    :param observation: normalised observations (n_columns, ...)
    :param starts: bool (n_columns,), True where an episode begins
    :param masks: bool (n_columns, mask size), for learners that know masks
    :param states: recurrent states, for recurrent learners
    :param critic_states: what the critic sees (n_columns, state size), for learners with a central critic
    :return: actions for the env, actions for the buffer, values, log-densities, further arguments of the buffer's ``add``, and
        the next recurrent states
    """
    extras: dict[str, Any] = {}
    tensor = with_states(learner, observation_tensor(learner, observation), critic_states)
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
    return obs_as_tensor(channels_first(learner, observation), learner.device)


def with_states(learner: Any, observation: PyTorchObs, critic_states: np.ndarray | None) -> Any:
    """
    Input of a learner's policy.

    :param learner: on-policy learner
    :param observation: observations as the policy takes them
    :param critic_states: what the critic sees, (n_columns, state size); ``None`` if it sees the observations
    """
    if critic_states is None:
        return observation
    return ObservationAndState(observation, th.as_tensor(critic_states, device=learner.device))


def channels_first(learner: Any, observation: Any) -> Any:
    """
    Images with their channels first, as the policy expects them; everything else as it is.

    :param learner: on-policy learner
    :param observation: (n_columns, ...), or a dict of such
    """
    space = learner.observation_space
    if isinstance(space, spaces.Dict):
        return {key: maybe_transpose(value, space[key]) for key, value in observation.items()}
    return maybe_transpose(observation, space)


def _value_at(learner: Any, observation: Any, critic_states: np.ndarray | None, column: int) -> th.Tensor:
    """Value of one column's final observation, with its current recurrent state."""
    one = {key: value[column] for key, value in observation.items()} if isinstance(observation, dict) else observation[column]
    # As SB3 does: the layout of an image in memory decides about the last bit of a convolution.
    tensor = learner.policy.obs_to_tensor(channels_first(learner, one))[0]
    tensor = with_states(learner, tensor, None if critic_states is None else critic_states[column : column + 1])
    if not is_recurrent(learner.rollout_buffer):
        return _values(learner, tensor)
    states = tuple(state[:, column : column + 1].contiguous() for state in learner._last_lstm_states.vf)
    return _values(learner, tensor, states, np.zeros(1))


def _values(learner: Any, tensor: Any, states: Any = None, starts: np.ndarray | None = None) -> th.Tensor:
    recurrent = () if states is None else (states, th.tensor(starts, dtype=th.float32, device=learner.device))
    with th.no_grad():
        values: th.Tensor = learner.policy.predict_values(tensor, *recurrent)
    return values
