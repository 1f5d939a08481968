"""Joint collection: one pass through the environment fills every agent's own SB3 rollout buffer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.type_aliases import PyTorchObs, RolloutBufferSamples
from stable_baselines3.common.utils import obs_as_tensor

from sb3_matrl.vec_env import JointObservation, JointStep, JointVecEnv


class MaskedRolloutMixin:
    """
    What a rollout buffer needs so that rows of an agent that did not act stay out of its losses.

    ``mask`` (n_steps, n_envs) is True where the agent acted. With an all-True mask everything is as in SB3, bit for
    bit, the draw of the permutation included.
    """

    mask: np.ndarray

    def flatten(self: Any) -> None:
        """Bring the arrays to (n_steps * n_envs, ...), copy-major, as SB3 does at the first :meth:`get`."""
        if self.generator_ready:
            return
        names = ["actions", "values", "log_probs", "advantages", "returns"]
        if isinstance(self.observations, dict):
            self.observations = {key: self.swap_and_flatten(value) for key, value in self.observations.items()}
        else:
            names.append("observations")
        for name in names:
            setattr(self, name, self.swap_and_flatten(getattr(self, name)))
        self.generator_ready = True

    def flat_mask(self: Any) -> np.ndarray:
        """The mask in the row order of the flattened arrays, shape (n_steps * n_envs,)."""
        return np.asarray(self.mask.swapaxes(0, 1).reshape(-1))

    def get(self: Any, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        if self.mask.all():
            yield from super().get(batch_size)  # type: ignore[misc]
            return
        assert self.full, "the rollout buffer is not full"
        self.flatten()
        order = np.random.permutation(np.flatnonzero(self.flat_mask()))
        step = batch_size or max(len(order), 1)
        for start in range(0, len(order), step):
            yield self._get_samples(order[start : start + step])


@cache
def masked_buffer_class(base: type[RolloutBuffer]) -> type[RolloutBuffer]:
    """
    The rollout buffer class ``base`` with a mask of live rows.

    :param base: SB3's ``RolloutBuffer``, ``DictRolloutBuffer`` or a subclass
    :raises TypeError: if it is none of these, or stores more than SB3 passes to ``add``
    """
    if not issubclass(base, (RolloutBuffer, DictRolloutBuffer)):
        raise TypeError(f"{base.__name__} is not a subclass of SB3's RolloutBuffer")
    more = [
        parameter.name for parameter in signature(base.add).parameters.values() if parameter.kind is Parameter.KEYWORD_ONLY
    ]
    if more:
        raise TypeError(
            f"{base.__name__} wants {', '.join(more)} at every step, which joint collection does not have: recurrent and "
            "action-masking algorithms cannot be learners"
        )
    return type(f"Masked{base.__name__}", (MaskedRolloutMixin, base), {})


def install_masked_buffer(learner: OnPolicyAlgorithm) -> None:
    """
    Hook a learner's rollout buffer: replace it by one of the same class and size that knows masks.

    Only the instance is replaced, ``learner.rollout_buffer_class`` is not: a saved learner refers to SB3 alone. A buffer
    that is hooked already stays as it is.
    """
    old = learner.rollout_buffer
    if isinstance(old, MaskedRolloutMixin):
        return
    learner.rollout_buffer = masked_buffer_class(type(old))(
        learner.n_steps,
        learner.observation_space,
        learner.action_space,
        device=learner.device,
        gamma=learner.gamma,
        gae_lambda=learner.gae_lambda,
        n_envs=learner.n_envs,
        **learner.rollout_buffer_kwargs,
    )
    learner.rollout_buffer.mask = np.ones((learner.n_steps, learner.n_envs), dtype=bool)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class AgentBatch:
    """
    One agent's rollout as tensors over the B = n_steps * n_envs joint samples, copy-major.

    :param observations: (B, ...), or a dict of such
    :param actions: (B,) int64 for Discrete, else float32 (B, action size)
    :param old_log_prob: (B,), log-density under the policy that collected the data
    :param old_values: (B,)
    :param advantages: (B,), GAE, not normalised
    :param returns: (B,), TD(lambda) targets of the critic
    :param mask: bool (B,), True where the agent acted
    """

    observations: PyTorchObs
    actions: th.Tensor
    old_log_prob: th.Tensor
    old_values: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    mask: th.Tensor


def agent_batch(learner: OnPolicyAlgorithm) -> AgentBatch:
    """The learner's full rollout buffer as one batch on its device; shares memory with the buffer on the CPU."""
    buffer: Any = learner.rollout_buffer
    buffer.flatten()

    def tensor(array: np.ndarray) -> th.Tensor:
        return th.as_tensor(array, device=learner.device)

    observations = buffer.observations
    # SB3's own get() turns actions into float32 too; a Bernoulli's log-density takes no integers.
    discrete = isinstance(learner.action_space, spaces.Discrete)
    actions = tensor(buffer.actions.flatten() if discrete else buffer.actions.astype(np.float32, copy=False))
    return AgentBatch(
        observations={k: tensor(v) for k, v in observations.items()}
        if isinstance(observations, dict)
        else tensor(observations),
        actions=actions.long() if discrete else actions,
        old_log_prob=tensor(buffer.log_probs).flatten(),
        old_values=tensor(buffer.values).flatten(),
        advantages=tensor(buffer.advantages).flatten(),
        returns=tensor(buffer.returns).flatten(),
        mask=tensor(buffer.flat_mask()),
    )


def take_rows(batch: AgentBatch, index: np.ndarray | slice) -> AgentBatch:
    """The batch restricted to some rows; itself for ``slice(None)``."""
    if isinstance(index, slice) and index == slice(None):
        return batch
    observations = batch.observations
    return AgentBatch(
        {k: v[index] for k, v in observations.items()} if isinstance(observations, dict) else observations[index],
        *(getattr(batch, name)[index] for name in _ROW_FIELDS),
    )


_ROW_FIELDS = ("actions", "old_log_prob", "old_values", "advantages", "returns", "mask")


@dataclass(frozen=True)
class Position:
    """
    Where a rollout begins or ended, carried from one rollout to the next.

    :param observations: agent -> (num_envs, ...)
    :param episode_starts: bool (num_envs, n_agents), the agent's next row opens an episode of its own
    :param alive: bool (num_envs, n_agents), the agents that act next
    """

    observations: JointObservation
    episode_starts: np.ndarray
    alive: np.ndarray


@dataclass(frozen=True)
class _Choice:
    """One agent's decision in all copies: what goes to the environment, and what goes into its buffer."""

    env_actions: np.ndarray
    actions: np.ndarray
    values: th.Tensor
    log_probs: th.Tensor


OnStep = Callable[[dict[str, Any]], bool]


def collect_rollout(
    env: JointVecEnv, learners: Mapping[str, OnPolicyAlgorithm], position: Position, n_steps: int, on_step: OnStep
) -> tuple[Position, bool]:
    """
    Play ``n_steps`` joint steps in every copy and fill all learners' rollout buffers, advantages included.

    A truncated agent's last reward is bootstrapped with its own value of its final observation; a terminated one's is
    not. Rows of agents that did not act are masked.

    :param env: has been reset
    :param learners: agent -> learner, in the environment's order
    :param position: where to start
    :param n_steps: steps per copy, the size of the buffers
    :param on_step: called after every step with the local variables that SB3's callbacks read; False stops
    :return: where the rollout ended, and whether it is complete (False when ``on_step`` stopped it)
    """
    _start(learners, env.num_envs)
    masks = np.empty((n_steps, env.num_envs, len(learners)), dtype=bool)
    for n in range(n_steps):
        _resample_noise(learners, n, env.num_envs)
        choices = {name: _act(learner, position.observations[name]) for name, learner in learners.items()}
        actions = {name: choice.env_actions for name, choice in choices.items()}
        new_obs, rewards, dones, infos = env.step(actions)  # type: ignore[arg-type]
        step = env.last_step
        assert step is not None
        ended = step.terminated | step.truncated | step.dones[:, None] | ~position.alive
        previous, position = position, Position(step.observations, ended, step.alive)
        seen = {"n_steps": n, "actions": actions, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos}
        if not on_step(seen):
            return position, False
        masks[n] = previous.alive
        _store(learners, choices, previous, step)
    _finish(learners, position, masks)
    return position, True


def _start(learners: Mapping[str, OnPolicyAlgorithm], n_envs: int) -> None:
    for learner in learners.values():
        learner.policy.set_training_mode(False)
        learner.rollout_buffer.reset()
        if learner.use_sde:
            learner.policy.reset_noise(n_envs)


def _resample_noise(learners: Mapping[str, OnPolicyAlgorithm], n: int, n_envs: int) -> None:
    for learner in learners.values():
        if learner.use_sde and learner.sde_sample_freq > 0 and n % learner.sde_sample_freq == 0:
            learner.policy.reset_noise(n_envs)


def _observation_tensor(learner: OnPolicyAlgorithm, observation: Any) -> PyTorchObs:
    return obs_as_tensor(_transposed(learner, observation), learner.device)


def _transposed(learner: OnPolicyAlgorithm, observation: Any) -> Any:
    """Images as the policy wants them (channels first), everything else as it is."""
    space = learner.observation_space
    if isinstance(space, spaces.Dict):
        return {key: maybe_transpose(value, space[key]) for key, value in observation.items()}
    return maybe_transpose(observation, space)


def _act(learner: OnPolicyAlgorithm, observation: Any) -> _Choice:
    with th.no_grad():
        sampled, values, log_probs = learner.policy(_observation_tensor(learner, observation))
    actions = sampled.cpu().numpy()
    env_actions = to_env_actions(learner.policy, learner.action_space, actions)
    if isinstance(learner.action_space, spaces.Discrete):
        actions = actions.reshape(-1, 1)
    return _Choice(env_actions, actions, values, log_probs)


def to_env_actions(policy: ActorCriticPolicy, space: spaces.Space[Any], actions: np.ndarray) -> np.ndarray:
    """Actions as the environment takes them: Box actions unscaled (squashed policies) or clipped, as SB3 does."""
    if isinstance(space, spaces.MultiBinary):
        return actions.astype(space.dtype)  # SB3 samples floats
    if not isinstance(space, spaces.Box):
        return actions
    return policy.unscale_action(actions) if policy.squash_output else np.clip(actions, space.low, space.high)


def _store(
    learners: Mapping[str, OnPolicyAlgorithm], choices: Mapping[str, _Choice], position: Position, step: JointStep
) -> None:
    for i, (name, learner) in enumerate(learners.items()):
        rewards = step.rewards[:, i].copy()
        cut = step.truncated[:, i] & ~step.terminated[:, i]
        for copy in np.flatnonzero(cut):
            # One row at a time as in SB3: a batched product can differ in the last bit.
            assert step.final_observations is not None
            final = _rows(step.final_observations[name], slice(copy, copy + 1))
            rewards[copy] += (learner.gamma * _values(learner, final)).item()
        choice, alive = choices[name], position.alive[:, i]
        values = choice.values
        if not alive.all():
            values = values * th.as_tensor(alive, device=values.device).reshape(-1, *[1] * (values.dim() - 1))
            rewards[~alive] = 0.0
        learner.rollout_buffer.add(
            _transposed(learner, position.observations[name]),
            choice.actions,
            rewards,
            position.episode_starts[:, i],
            values,
            choice.log_probs,
        )


def _rows(observation: Any, index: slice) -> Any:
    if isinstance(observation, dict):
        return {key: value[index] for key, value in observation.items()}
    return observation[index]


def _values(learner: OnPolicyAlgorithm, observation: Any) -> th.Tensor:
    with th.no_grad():
        return learner.policy.predict_values(_observation_tensor(learner, observation))


def _finish(learners: Mapping[str, OnPolicyAlgorithm], position: Position, masks: np.ndarray) -> None:
    """Advantages and returns of every buffer, and its mask."""
    for i, (name, learner) in enumerate(learners.items()):
        last_values = _values(learner, position.observations[name])
        buffer: Any = learner.rollout_buffer
        buffer.compute_returns_and_advantage(last_values=last_values, dones=position.episode_starts[:, i])
        buffer.mask = masks[:, :, i]


def live_rows(batches: Sequence[AgentBatch]) -> th.Tensor:
    """The agents' masks side by side, bool (B, n)."""
    return th.stack([batch.mask for batch in batches], dim=1)
