"""Joint collection: one pass through the environment fills every learner's own SB3 rollout buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor

from sb3_matrl.common.finite import REFUSED_BY_TORCH, NonFiniteError
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.normalize import Normalizer
from sb3_matrl.on_policy.buffers import is_maskable, is_recurrent
from sb3_matrl.vec_env import JointObservation, JointStep, JointVecEnv


@dataclass(frozen=True)
class Team:
    """
    Who chooses the actions of whom.

    :param learners: name -> learner, with a column of its rollout buffer for every copy of each of its agents, agent by agent
    :param members: name of the learner -> its agents
    :param normalizers: name of the learner -> its normaliser; none for a learner that takes everything raw
    :param frozen: agent -> who plays it without learning
    """

    learners: Mapping[str, OnPolicyAlgorithm]
    members: Mapping[str, tuple[str, ...]]
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)
    frozen: Mapping[str, FrozenAgent] = field(default_factory=dict)


@dataclass(frozen=True)
class Position:
    """
    Where a rollout begins or ended, carried from one rollout to the next; who acts, the env itself knows.

    :param observations: learner -> (n_columns, ...), normalised; frozen agent -> (num_envs, ...), raw
    :param episode_starts: bool (num_envs, n_agents), the agent's next row opens an episode of its own
    """

    observations: JointObservation
    episode_starts: np.ndarray


@dataclass(frozen=True)
class _Choice:
    """One learner's decisions in all its columns: what goes to the environment, and what goes into its buffer."""

    env_actions: np.ndarray
    actions: np.ndarray
    values: th.Tensor
    log_probs: th.Tensor
    extras: dict[str, Any]


OnStep = Callable[[dict[str, Any]], bool]


def first_position(env: JointVecEnv, team: Team, observations: JointObservation) -> Position:
    """
    Where training begins: new episodes everywhere.

    :param env: has just been reset
    :param team: its normalisers count these observations
    :param observations: what the reset returned
    """
    for name, normalizer in team.normalizers.items():
        normalizer.begin()
        normalizer.observe(_stacked(observations, team.members[name]), _columns(env, team.members[name], env.alive))
    return Position(viewed(team, observations), np.ones_like(env.alive))


def viewed(team: Team, observations: JointObservation) -> JointObservation:
    """
    Observations as the learners see them, by the statistics of now; those of frozen agents raw.

    :param team: who plays
    :param observations: agent -> (num_envs, ...)
    """
    views = {name: _stacked(observations, members) for name, members in team.members.items()}
    views |= {name: normalizer.normalize(views[name]) for name, normalizer in team.normalizers.items()}
    return views | {agent: observations[agent] for agent in team.frozen}


def collect_rollout(env: JointVecEnv, team: Team, position: Position, n_steps: int, on_step: OnStep) -> tuple[Position, bool]:
    """
    Play ``n_steps`` joint steps in every copy and fill all learners' rollout buffers, advantages included.

    A truncated agent's last reward is bootstrapped with its own value of its final observation; a terminated one's is
    not. Rows in which an agent did not act are masked.

    :param env: has been reset
    :param team: who plays
    :param position: where to start
    :param n_steps: steps per copy, the size of the buffers
    :param on_step: called after every step with the local variables that SB3's callbacks read; False stops
    :return: where the rollout ended, and whether it is complete (False when ``on_step`` stopped it)
    :raises NonFiniteError: if a policy's output is NaN or infinite
    """
    _start(team.learners)
    acted = np.empty((n_steps, env.num_envs, len(env.agents)), dtype=bool)
    for n in range(n_steps):
        _resample_noise(team.learners, n)
        alive, acted[n] = env.alive, env.acting
        choices = {name: _choose(env, team, position, name, n) for name in team.learners}
        actions = _joint_actions(env, team, position, choices)
        new_obs, rewards, dones, infos = env.step(actions)  # type: ignore[arg-type]
        step = env.last_step
        assert step is not None
        ended = step.terminated | step.truncated | step.dones[:, None] | ~alive
        seen = {"n_steps": n, "actions": actions, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos}
        if not on_step(seen):
            return Position(viewed(team, step.observations), ended), False
        for name, normalizer in team.normalizers.items():
            members = team.members[name]
            normalizer.observe(_stacked(step.observations, members), _columns(env, members, step.alive))
        for name in team.learners:
            _store(env, team, name, choices[name], position, step, alive, ended)
        position = Position(viewed(team, step.observations), ended)
    _finish(env, team, position, acted)
    return position, True


def _stacked(observations: JointObservation, members: Sequence[str]) -> Any:
    """The members' observations one after the other: (len(members) * num_envs, ...)."""
    first = observations[members[0]]
    if len(members) == 1:
        return first
    if isinstance(first, dict):
        return {key: np.concatenate([observations[agent][key] for agent in members]) for key in first}
    return np.concatenate([observations[agent] for agent in members])


def _columns(env: JointVecEnv, members: Sequence[str], values: np.ndarray) -> np.ndarray:
    """The members' columns of an array (num_envs, n_agents), one after the other."""
    return values[:, [env.agents.index(agent) for agent in members]].T.reshape(-1)


def _start(learners: Mapping[str, OnPolicyAlgorithm]) -> None:
    for learner in learners.values():
        learner.policy.set_training_mode(False)
        learner.rollout_buffer.reset()
        if learner.use_sde:
            learner.policy.reset_noise(learner.n_envs)


def _resample_noise(learners: Mapping[str, OnPolicyAlgorithm], n: int) -> None:
    for learner in learners.values():
        if learner.use_sde and learner.sde_sample_freq > 0 and n % learner.sde_sample_freq == 0:
            learner.policy.reset_noise(learner.n_envs)


def _observation_tensor(learner: OnPolicyAlgorithm, observation: Any) -> PyTorchObs:
    return obs_as_tensor(_transposed(learner, observation), learner.device)


def _transposed(learner: OnPolicyAlgorithm, observation: Any) -> Any:
    """Images as the policy wants them (channels first), everything else as it is."""
    space = learner.observation_space
    if isinstance(space, spaces.Dict):
        return {key: maybe_transpose(value, space[key]) for key, value in observation.items()}
    return maybe_transpose(observation, space)


def _choose(env: JointVecEnv, team: Team, position: Position, name: str, n: int) -> _Choice:
    learner, members = team.learners[name], team.members[name]
    starts = _columns(env, members, position.episode_starts)
    try:
        return _act(learner, position.observations[name], starts, _action_masks(env, learner, members))
    except ValueError as error:
        if REFUSED_BY_TORCH not in str(error):
            raise
        raise NonFiniteError(
            f"agent {name!r}, step {n} of the rollout: the policy's output is NaN or infinite, on finite observations"
        ) from error


def _action_masks(env: JointVecEnv, learner: Any, members: Sequence[str]) -> np.ndarray | None:
    """Of a learner that knows masks, (n_columns, mask size); everything is legal where the env has told none."""
    if not is_maskable(learner.rollout_buffer):
        return None
    everything = np.ones((env.num_envs, learner.rollout_buffer.mask_dims), dtype=bool)
    return np.concatenate([env.action_masks.get(agent, everything) for agent in members])


def _act(learner: Any, observation: Any, starts: np.ndarray, masks: np.ndarray | None) -> _Choice:
    extras: dict[str, Any] = {}
    tensor = _observation_tensor(learner, observation)
    with th.no_grad():
        if is_recurrent(learner.rollout_buffer):
            extras = {"lstm_states": learner._last_lstm_states}
            begins = th.tensor(starts, dtype=th.float32, device=learner.device)
            sampled, values, log_probs, learner._last_lstm_states = learner.policy(tensor, learner._last_lstm_states, begins)
        elif is_maskable(learner.rollout_buffer):
            extras = {"action_masks": masks}
            sampled, values, log_probs = learner.policy(tensor, action_masks=masks)
        else:
            sampled, values, log_probs = learner.policy(tensor)
    actions = sampled.cpu().numpy()
    env_actions = to_env_actions(learner.policy, learner.action_space, actions)
    if isinstance(learner.action_space, spaces.Discrete):
        actions = actions.reshape(-1, 1)
    return _Choice(env_actions, actions, values, log_probs, extras)


def to_env_actions(policy: ActorCriticPolicy, space: spaces.Space[Any], actions: np.ndarray) -> np.ndarray:
    """Actions as the environment takes them: Box actions unscaled (squashed policies) or clipped, as SB3 does."""
    if isinstance(space, spaces.MultiBinary):
        return actions.astype(space.dtype)  # SB3 samples floats
    if not isinstance(space, spaces.Box):
        return actions
    return policy.unscale_action(actions) if policy.squash_output else np.clip(actions, space.low, space.high)


def _joint_actions(env: JointVecEnv, team: Team, position: Position, choices: Mapping[str, _Choice]) -> dict[str, np.ndarray]:
    """agent -> (num_envs, *action shape), in the env's order."""
    actions: dict[str, np.ndarray] = {}
    for name, members in team.members.items():
        actions |= dict(zip(members, np.split(choices[name].env_actions, len(members)), strict=True))
    for agent, frozen in team.frozen.items():
        starts = _columns(env, (agent,), position.episode_starts)
        actions[agent] = frozen.act(position.observations[agent], starts, env.action_masks.get(agent))
    return {agent: actions[agent] for agent in env.agents}


def _store(
    env: JointVecEnv,
    team: Team,
    name: str,
    choice: _Choice,
    position: Position,
    step: JointStep,
    was_alive: np.ndarray,
    ended: np.ndarray,
) -> None:
    """One row of a learner's buffer, for the decisions before ``step``."""
    learner, members, normalizer = team.learners[name], team.members[name], team.normalizers.get(name)
    alive = _columns(env, members, was_alive)
    rewards = _columns(env, members, step.rewards).copy()
    if normalizer is not None:
        rewards = normalizer.reward(rewards, alive, _columns(env, members, ended))
    cut = _columns(env, members, step.truncated & ~step.terminated)
    if cut.any():
        assert step.final_observations is not None
        final = _stacked(step.final_observations, members)
        final = final if normalizer is None else normalizer.normalize(final)
        for column in np.flatnonzero(cut).tolist():
            # One row at a time as in SB3: a batched product can differ in the last bit.
            rewards[column] += (learner.gamma * _value_at(learner, final, column)).item()
    values = choice.values
    if not alive.all():
        values = values * th.as_tensor(alive, device=values.device).reshape(-1, *[1] * (values.dim() - 1))
        rewards[~alive] = 0.0
    learner.rollout_buffer.add(
        _transposed(learner, position.observations[name]),
        choice.actions,
        rewards,
        _columns(env, members, position.episode_starts),
        values,
        choice.log_probs,
        **choice.extras,
    )


def _value_at(learner: Any, observation: Any, column: int) -> th.Tensor:
    """The value of one column's final observation, its recurrent state carried on."""
    row = slice(column, column + 1)
    one = {key: value[row] for key, value in observation.items()} if isinstance(observation, dict) else observation[row]
    if not is_recurrent(learner.rollout_buffer):
        return _values(learner, one)
    states = tuple(state[:, row].contiguous() for state in learner._last_lstm_states.vf)
    return _values(learner, one, states, np.zeros(1))


def _values(learner: Any, observation: Any, states: Any = None, starts: np.ndarray | None = None) -> th.Tensor:
    recurrent = () if states is None else (states, th.tensor(starts, dtype=th.float32, device=learner.device))
    with th.no_grad():
        values: th.Tensor = learner.policy.predict_values(_observation_tensor(learner, observation), *recurrent)
    return values


def _finish(env: JointVecEnv, team: Team, position: Position, acted: np.ndarray) -> None:
    """Advantages and returns of every buffer, and its mask."""
    for name, learner in team.learners.items():
        members = team.members[name]
        starts = _columns(env, members, position.episode_starts)
        states: RNNStates | None = getattr(learner, "_last_lstm_states", None)
        observation = position.observations[name]
        last_values = _values(learner, observation) if states is None else _values(learner, observation, states.vf, starts)
        buffer: Any = learner.rollout_buffer
        columns = [env.agents.index(agent) for agent in members]
        buffer.mask = acted[:, :, columns].swapaxes(1, 2).reshape(len(acted), -1)
        buffer.compute_returns_and_advantage(last_values=last_values, dones=starts)
