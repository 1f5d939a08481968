"""Learners of a stack that act together: one pass for all per step, values and log-densities once per rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_matrl.common.agents import Position, Team
from sb3_matrl.on_policy.actors import (
    action_masks,
    bad_output,
    channels_first,
    normalized_rewards,
    observation_tensor,
    to_env_actions,
)
from sb3_matrl.on_policy.buffers import is_maskable
from sb3_matrl.on_policy.critic_states import CriticStates
from sb3_matrl.on_policy.joint_updates import LearnerStack
from sb3_matrl.stacked.passes import Passes
from sb3_matrl.stacked.perceptrons import features_of
from sb3_matrl.vec_env import JointStep, JointVecEnv


@dataclass(frozen=True)
class _Cut:
    """
    Episodes of one learner's agents that were truncated in one step.

    :param n: index of the step in the rollout
    :param columns: columns of the agents
    :param inputs: their final observations, or the final states, as the critic takes them, (n cut, inputs of critics)
    """

    n: int
    columns: np.ndarray
    inputs: th.Tensor


class StackActor:
    """
    Learners of a stack that act together, see :class:`~sb3_matrl.on_policy.actors.Actor`.

    Noise is drawn for the whole rollout from torch's global generator.

    :param env: environment
    :param team: all learners
    :param stack: learners with like networks
    :param states: source of the states that central critics see; ``None`` if the learners have none
    """

    def __init__(self, env: JointVecEnv, team: Team, stack: LearnerStack, states: CriticStates | None = None) -> None:
        self.env, self.team, self.stack, self.states = env, team, stack, states
        self.learners: list[Any] = list(stack.learners)
        self.buffers: list[Any] = [learner.rollout_buffer for learner in self.learners]
        self.n_columns = self.learners[0].n_envs
        self._plain = [_is_plain(learner.observation_space) for learner in self.learners]
        self._scaled = [name in team.normalizers for name in stack.names]

    def start(self, n_steps: int) -> None:
        """See :class:`~sb3_matrl.on_policy.actors.Actor`."""
        stack, n, columns = self.stack.stack, len(self.learners), self.n_columns
        for learner in self.learners:
            learner.policy.set_training_mode(False)
            learner.rollout_buffer.reset()
        rows = self._parameters = stack.parameters()
        actors, critics = th.unflatten(rows, 0, (n, 2)).unbind(1)
        self._log_std = actors[:, stack.log_std]
        self._actor_passes = Passes(stack, actors, stack.actor_inputs)
        self._critic_passes = Passes(stack, critics, stack.critic_inputs)
        self._features = rows.new_zeros(n, columns, stack.actor_inputs)
        self._noise = self.stack.kernel.head.noise(n_steps, n, columns, stack.n_outputs, like=rows)
        self._outputs = th.empty_like(self._noise)
        self._actions = rows.new_zeros(n_steps, n, columns, self.stack.kernel.head.action_size)
        masked = is_maskable(self.buffers[0])
        self._masks = th.zeros(self._noise.shape, dtype=th.bool, device=rows.device) if masked else None
        # What the environment says of all agents, (n_steps, num_envs, n_agents).
        shape = (n_steps, self.env.num_envs, len(self.env.agents))
        self._starts, self._alive = np.empty(shape, dtype=bool), np.empty(shape, dtype=bool)
        self._rewards = np.empty(shape, dtype=np.float32)
        self._cuts: list[list[_Cut]] = [[] for _ in self.learners]

    def act(self, position: Position, n: int) -> dict[str, np.ndarray]:
        """See :class:`~sb3_matrl.on_policy.actors.Actor`."""
        self._starts[n], self._alive[n] = position.episode_starts, self.env.alive
        for i, name in enumerate(self.stack.names):
            rows = channels_first(self.learners[i], self.team.normalized_rows(name, position.observations))
            buffer = self.buffers[i]
            buffer.observations[n] = rows.reshape(buffer.observations.shape[1:])
            self._write_features(self._features[i], i, rows)
            if self.states is not None:
                buffer.states[n] = self._states_of(name, position.states)
            if self._masks is not None:
                masks = action_masks(self.env, self.team, name)
                buffer.action_masks[n] = masks
                self._masks[n, i, :, : masks.shape[1]] = th.as_tensor(masks, device=self._masks.device)
        self._outputs[n] = self._actor_passes.forward(self._features).transpose(1, 2)
        masks_now = None if self._masks is None else self._masks[n]
        self._actions[n] = self.stack.kernel.head.sample(self._outputs[n], self._log_std, masks_now, self._noise[n])
        return self._env_actions(n)

    def _write_features(self, out: th.Tensor, i: int, rows: np.ndarray) -> None:
        """Write observations (n_columns, ...) of learner ``i`` as its networks take them."""
        if self._plain[i]:
            features = th.from_numpy(rows.reshape(len(rows), -1))
        else:
            features = features_of(self.learners[i].policy, observation_tensor(self.learners[i], rows))
        out[:, : features.shape[1]] = features

    def _states_of(self, name: str, states: np.ndarray | None) -> np.ndarray:
        """A learner's rows of what central critics see, (n_columns, state size)."""
        assert self.states is not None and states is not None
        return self.states.rows(name, states)

    def _critic_inputs(self, i: int, observations: Any, states: np.ndarray | None) -> th.Tensor:
        """
        What the critic of learner ``i`` takes.

        :param observations: normalised observations, (rows, ...)
        :param states: (rows, state size); ``None`` if the critic sees the observations
        :return: (rows, inputs of critics), zeros where this one has fewer
        """
        out = self._features.new_zeros(len(observations), self.stack.stack.critic_inputs)
        if states is None:
            self._write_features(out, i, observations)
        else:
            out[:, : states.shape[1]] = th.from_numpy(states)
        return out

    def _env_actions(self, n: int) -> dict[str, np.ndarray]:
        """agent -> actions (num_envs, *action shape) as the environment takes them."""
        found: dict[str, np.ndarray] = {}
        actions = self._actions[n].cpu().numpy()
        if self.stack.stack.discrete:
            actions = actions.astype(np.int64)
        elif not np.isfinite(actions).all():
            raise bad_output(self.stack.names[int(np.argwhere(~np.isfinite(actions))[0][0])], n)
        for i, (name, learner) in enumerate(zip(self.stack.names, self.learners, strict=True)):
            space, members = learner.action_space, self.team.members[name]
            size = self.buffers[i].action_dim
            own = actions[i, :, 0] if isinstance(space, spaces.Discrete) else actions[i, :, :size]
            own = to_env_actions(learner.policy, space, own.reshape(len(own), *space.shape))
            if len(members) == 1:
                found[members[0]] = own
            else:
                found |= zip(members, np.split(own, len(members)), strict=True)
        return found

    def store(self, n: int, step: JointStep, ended: np.ndarray, final_states: np.ndarray | None) -> None:
        """See :class:`~sb3_matrl.on_policy.actors.Actor`."""
        self._rewards[n] = step.rewards
        for i, name in enumerate(self.stack.names):
            if self._scaled[i]:
                alive = self.team.columns(name, self._alive[n])
                self.buffers[i].rewards[n] = normalized_rewards(self.team, name, step, alive, ended)
        if step.final_observations is not None:
            self._store_cuts(n, step, final_states)

    def _store_cuts(self, n: int, step: JointStep, final_states: np.ndarray | None) -> None:
        """Keep the final observations or states of truncated agents, whose values are bootstrapped."""
        assert step.final_observations is not None
        for i, name in enumerate(self.stack.names):
            columns = np.flatnonzero(self.team.columns(name, step.truncated & ~step.terminated & self._alive[n]))
            if len(columns):
                final = self.team.normalized_rows(name, step.final_observations)
                states = None if self.states is None else self._states_of(name, final_states)[columns]
                self._cuts[i].append(_Cut(n, columns, self._critic_inputs(i, final[columns], states)))

    def finish(self, position: Position, acted: np.ndarray) -> None:
        """See :class:`~sb3_matrl.on_policy.actors.Actor`."""
        self._check_outputs()
        head, n_steps = self.stack.kernel.head, len(acted)
        masks = None if self._masks is None else _by_learner(self._masks)
        outputs, actions = _by_learner(self._outputs), _by_learner(self._actions)
        densities = head.evaluate(outputs, self._log_std, masks, actions)[0]
        log_probs = _by_step(densities, n_steps)
        self.stack.keep_rollout(
            self._parameters, _copy_major(outputs, n_steps), _copy_major(densities[..., None], n_steps)[..., 0]
        )
        inputs = th.stack([self._rollout_inputs(i) for i in range(len(self.learners))])
        values = _by_step(self._values(inputs), n_steps)
        last_values = self._values(th.stack([self._last_inputs(i, position) for i in range(len(self.learners))]))
        bootstraps = self._bootstraps()
        for i, (name, buffer) in enumerate(zip(self.stack.names, self.buffers, strict=True)):
            self._fill(i, values[i], log_probs[i])
            for cut, value in zip(self._cuts[i], bootstraps[i], strict=True):
                buffer.rewards[cut.n, cut.columns] += buffer.gamma * value
            buffer.mask = self._columns(name, acted)
            starts = self.team.columns(name, position.episode_starts)
            buffer.compute_returns_and_advantage(last_values=last_values[i], dones=starts)

    def _fill(self, i: int, values: np.ndarray, log_probs: np.ndarray) -> None:
        """Fill the buffer of learner ``i``; the rows of dead agents have rewards and values of 0."""
        name, buffer = self.stack.names[i], self.buffers[i]
        alive = self._columns(name, self._alive)
        buffer.episode_starts[:] = self._columns(name, self._starts)
        if not self._scaled[i]:
            buffer.rewards[:] = self._columns(name, self._rewards)
        buffer.rewards[~alive] = 0.0
        actions = self._actions[:, i, :, : buffer.action_dim].cpu().numpy()
        buffer.actions[:] = actions.reshape(buffer.actions.shape)
        buffer.values[:] = values * alive
        buffer.log_probs[:] = log_probs
        buffer.pos, buffer.full = len(values), True

    def _columns(self, name: str, values: np.ndarray) -> np.ndarray:
        """Columns of a learner's agents, from (n_steps, num_envs, n_agents) to (n_steps, n_columns)."""
        places = [self.team.agents.index(agent) for agent in self.team.members[name]]
        return values[:, :, places].swapaxes(1, 2).reshape(len(values), -1)

    def _check_outputs(self) -> None:
        """
        :raises NonFiniteError: if an output of an actor is NaN or infinite; names the first one
        """
        if bool(th.isfinite(self._outputs.sum())) or bool((finite := th.isfinite(self._outputs)).all()):
            return
        n, i = (~finite).nonzero()[0][:2].tolist()
        raise bad_output(self.stack.names[i], n)

    def _rollout_inputs(self, i: int) -> th.Tensor:
        """What the critic of learner ``i`` sees in the rollout, step by step, (n_steps * n_columns, inputs of critics)."""
        observations, states = self.buffers[i].observations, self.buffers[i].states
        flat = observations.reshape(-1, *observations.shape[2:])
        return self._critic_inputs(i, flat, None if states is None else states.reshape(-1, states.shape[2]))

    def _last_inputs(self, i: int, position: Position) -> th.Tensor:
        """What the critic of learner ``i`` sees after the rollout, (n_columns, inputs of critics)."""
        name = self.stack.names[i]
        states = None if self.states is None else self._states_of(name, position.states)
        return self._critic_inputs(i, self.team.normalized_rows(name, position.observations), states)

    def _values(self, inputs: th.Tensor) -> th.Tensor:
        """Values of what critics see, (n, B, inputs of critics), by each learner's critic, (n, B)."""
        passes = self._critic_passes
        return th.cat([passes.forward(part)[:, 0] for part in th.split(inputs, passes.chunk_rows, dim=1)], dim=1)

    def _bootstraps(self) -> list[list[np.ndarray]]:
        """Values of the final observations of each learner's truncated agents, in the order of its cuts."""
        sizes = [[len(cut.columns) for cut in cuts] for cuts in self._cuts]
        longest = max(map(sum, sizes))
        if not longest:
            return [[] for _ in self._cuts]
        inputs = self._features.new_zeros(len(self._cuts), longest, self.stack.stack.critic_inputs)
        for row, cuts, own in zip(inputs, self._cuts, sizes, strict=True):
            if cuts:
                row[: sum(own)] = th.cat([cut.inputs for cut in cuts])
        values = self._values(inputs)
        return [
            [one.cpu().numpy() for one in th.split(row[: sum(own)], own)] if own else []
            for row, own in zip(values, sizes, strict=True)
        ]


def _is_plain(space: spaces.Space[Any]) -> bool:
    """Whether observations are numbers that the networks take as they are."""
    return isinstance(space, spaces.Box) and not is_image_space(space)


def _by_learner(values: th.Tensor) -> th.Tensor:
    """From (n_steps, n, n_columns, size) to (n, n_steps * n_columns, size)."""
    return values.transpose(0, 1).flatten(1, 2)


def _by_step(values: th.Tensor, n_steps: int) -> np.ndarray:
    """From (n, n_steps * n_columns) to (n, n_steps, n_columns)."""
    return th.unflatten(values, 1, (n_steps, -1)).cpu().numpy()


def _copy_major(values: th.Tensor, n_steps: int) -> th.Tensor:
    """From rows step by step to rows copy by copy, the order of SB3's flattened buffers: (n, n_steps * n_columns, size)."""
    return th.unflatten(values, 1, (n_steps, -1)).transpose(1, 2).flatten(1, 2)
