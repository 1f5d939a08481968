"""A learner's rollout as one batch, and the evaluation of its policy on it: feed-forward, masked and recurrent policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.distributions import Distribution

from sb3_matrl.on_policy.buffers import LSTM_STATES, is_maskable, is_recurrent
from sb3_matrl.on_policy.central_policies import ObservationAndState
from sb3_matrl.on_policy.rollout_images import whole
from sb3_matrl.on_policy.sequences import Mask, RolloutColumns
from sb3_matrl.utils.devices import gradients_in_evaluation_mode, to_device
from sb3_matrl.utils.distributions import ActionDistribution, join_distributions

# Size of a batch's observations, as floats, up to which they pass through a network at once; larger ones do so in chunks.
WHOLE_BYTES = 16 * 2**20
CHUNK_BYTES = 6 * 2**20
# Smallest part. Matrix products compute rows in blocks: parts of whole blocks give the bits of the whole batch.
CHUNK_ROWS = 16


@dataclass(frozen=True)
class AgentBatch:
    """
    One learner's rollout as tensors over its B rows, copy-major: n_steps * n_envs, times the agents that share it.

    :param observations: (B, ...), or a dict of such; images may be :class:`~sb3_matrl.on_policy.rollout_images.RolloutImages`,
        whose rows are tensors
    :param actions: (B,) int64 for Discrete, else float32 (B, action size)
    :param old_log_prob: (B,), log-density under the policy that collected the data
    :param old_values: (B,)
    :param advantages: (B,), GAE, not normalised
    :param returns: (B,), TD(lambda) targets of the critic
    :param mask: bool (B,), True where the agent acted
    :param action_masks: float (B, mask size), 1 for legal actions; ``None`` for learners without masks
    :param columns: order of the rows of a recurrent learner; ``None`` for others
    :param states: float32 (B, state size), what a central critic sees; ``None`` for learners without one
    """

    observations: Any
    actions: th.Tensor
    old_log_prob: th.Tensor
    old_values: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    mask: th.Tensor
    action_masks: th.Tensor | None = None
    columns: RolloutColumns | None = None
    states: th.Tensor | None = None

    @cached_property
    def acted(self) -> Mask:
        """The mask on the CPU, bool (B,), read from the device once."""
        return np.asarray(self.mask.cpu().numpy())


def agent_batch(learner: OnPolicyAlgorithm) -> AgentBatch:
    """The learner's full rollout buffer as one batch on its device; shares memory with the buffer on the CPU."""
    buffer: Any = learner.rollout_buffer
    buffer.flatten()

    def tensor(array: np.ndarray) -> th.Tensor:
        return to_device(array, learner.device)

    # SB3's own get() turns actions into float32 too; a Bernoulli's log-density takes no integers.
    discrete = isinstance(learner.action_space, spaces.Discrete)
    actions = tensor(buffer.actions.flatten() if discrete else buffer.actions.astype(np.float32, copy=False))
    return AgentBatch(
        observations=buffer.tensor("observations"),
        actions=actions.long() if discrete else actions,
        old_log_prob=buffer.tensor("log_probs").flatten(),
        old_values=buffer.tensor("values").flatten(),
        advantages=buffer.tensor("advantages").flatten(),
        returns=buffer.tensor("returns").flatten(),
        mask=tensor(buffer.flat_mask()),
        action_masks=buffer.tensor("action_masks") if is_maskable(buffer) else None,
        columns=_columns(buffer, learner.device) if is_recurrent(buffer) else None,
        states=None if buffer.states is None else buffer.tensor("states"),
    )


def _columns(buffer: Any, device: th.device) -> RolloutColumns:
    n_steps = buffer.buffer_size
    arrays = (np.ascontiguousarray(getattr(buffer, name)[::n_steps].swapaxes(0, 1)) for name in LSTM_STATES)
    first = [to_device(array, device) for array in arrays]
    states = RNNStates((first[0], first[1]), (first[2], first[3]))
    return RolloutColumns(n_steps, states, buffer.episode_starts.flatten() != 0, buffer.flat_mask())


def take_rows(batch: AgentBatch, index: np.ndarray | slice) -> AgentBatch:
    """
    The batch restricted to some rows; itself for ``slice(None)``.

    :param batch: batch of a learner
    :param index: indices of the rows; whole sequences for a recurrent learner
    """
    if isinstance(index, slice) and index == slice(None):
        return batch
    rows = index if isinstance(index, slice) else to_device(index, batch.mask.device)  # once for all tensors
    taken = {field.name: _taken(getattr(batch, field.name), rows) for field in fields(batch) if field.name != "columns"}
    columns = None if batch.columns is None else batch.columns.take(np.arange(len(batch.mask))[index])
    return AgentBatch(**taken, columns=columns)


def _taken(value: Any, index: Any) -> Any:
    if isinstance(value, dict):
        return {key: array[index] for key, array in value.items()}
    return None if value is None else value[index]


def live_part(batch: AgentBatch, *columns: th.Tensor) -> tuple[AgentBatch, tuple[th.Tensor, ...]]:
    """
    The rows in which the agent acted, for losses; all rows of a learner that is not recurrent.

    :param batch: batch whose observations and actions have been read; they are left as they are
    :param columns: further tensors (B, ...)
    """
    live = None if batch.columns is None else batch.columns.live_rows
    if live is None:
        return batch, columns
    names = ("old_log_prob", "old_values", "advantages", "returns")
    return replace(batch, **{name: getattr(batch, name)[live] for name in names}), tuple(one[live] for one in columns)


def minibatches(batch: AgentBatch, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray | slice]:
    """
    Indices for :func:`take_rows` that pass once over the batch, in random order.

    A minibatch has ``batch_size`` rows in which the agent acted. If all rows count and fit into one minibatch, they are not
    copied. Sequences stay whole: a minibatch has as many as have about ``batch_size`` rows, at least one.

    :param batch: batch of a learner
    :param batch_size: rows per minibatch
    :param rng: random generator of the order
    """
    mask = batch.acted
    if mask.all() and len(mask) <= batch_size:
        yield slice(None)
        return
    if batch.columns is not None:
        n_steps = batch.columns.n_steps
        rows = np.arange(len(mask)).reshape(-1, n_steps)
        order = rng.permutation(np.flatnonzero(mask.reshape(-1, n_steps).any(axis=1)))
        step = max(1, batch_size // n_steps)
        yield from (rows[order[start : start + step]].reshape(-1) for start in range(0, len(order), step))
        return
    order = rng.permutation(np.flatnonzero(mask))
    yield from (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def evaluate(policy: ActorCriticPolicy, batch: AgentBatch) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
    """
    Values (B,), log-densities of the actions (B,) and entropies (B,) (``None`` if there is no closed form).

    :param policy: policy of the learner
    :param batch: batch of the learner
    """
    observations = whole(batch.observations)
    inputs: Any = observations if batch.states is None else ObservationAndState(observations, batch.states)
    with checks_on_cpu(batch.mask.device), _further_arguments(policy, batch) as further:
        values, log_prob, entropy = policy.evaluate_actions(inputs, batch.actions, **further)
    return values.flatten(), log_prob, entropy


@contextmanager
def _further_arguments(policy: Any, batch: AgentBatch) -> Iterator[dict[str, Any]]:
    """What recurrent and maskable policies are told beyond observations and actions."""
    if batch.columns is None:
        yield {} if batch.action_masks is None else {"action_masks": batch.action_masks}
    else:
        with batch.columns.through(policy) as arguments:
            yield arguments


@contextmanager
def checks_on_cpu(device: th.device) -> Iterator[None]:
    """
    Inside, PyTorch's distributions check their parameters on the CPU only: on a GPU, every check would wait until the GPU has
    done all its work. Numbers that are not finite are found after the update.

    :param device: device of the distributions
    """
    checks: bool = Distribution._validate_args
    Distribution.set_default_validate_args(checks and device.type == "cpu")
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checks)


def action_distribution(policy: ActorCriticPolicy, batch: AgentBatch) -> ActionDistribution:
    """Action distributions of the policy in the rows of the batch, with gradients if they are enabled."""
    return _torch_distribution(_distribution(policy, batch))


def log_prob_and_distribution(policy: ActorCriticPolicy, batch: AgentBatch) -> tuple[th.Tensor, ActionDistribution]:
    """
    Log-densities of the batch's actions (B,), and the action distributions, in evaluation mode and without gradients.

    :param policy: policy of the learner
    :param batch: batch of the learner
    """
    policy.set_training_mode(False)
    log_probs, distributions = [], []
    with th.no_grad():
        for rows in chunks(policy, batch):
            part = take_rows(batch, rows)
            distribution = _distribution(policy, part)
            log_probs.append(distribution.log_prob(part.actions))
            distributions.append(_torch_distribution(distribution))
    return log_probs[0] if len(log_probs) == 1 else th.cat(log_probs), join_distributions(distributions)


def chunks(policy: ActorCriticPolicy, batch: AgentBatch) -> list[np.ndarray | slice]:
    """
    Parts of a batch that pass through a network one after the other, so that images take no more memory than in SB3's
    minibatches. All rows at once, if their observations are not larger than :data:`WHOLE_BYTES` in the network. The results of
    the parts are those of the whole batch: to the last bit for feed-forward policies, up to rounding for recurrent ones.

    :param policy: policy of the learner
    :param batch: batch of the learner
    :return: indices for :func:`take_rows`, whole sequences for a recurrent learner
    """
    n_rows = len(batch.mask)
    row_bytes = 4 * spaces.utils.flatdim(policy.observation_space)  # float32
    if n_rows * row_bytes <= WHOLE_BYTES:
        return [slice(None)]
    # Powers of two, because convolutions keep memory for every batch size that they have seen.
    if batch.columns is not None:
        whole = batch.columns.n_steps
        step = 2 ** int(np.log2(max(CHUNK_BYTES // (row_bytes * whole), 1))) * whole
        return list(np.split(np.arange(n_rows), range(step, n_rows, step)))
    step = max(CHUNK_ROWS, 2 ** int(np.log2(max(CHUNK_BYTES // row_bytes, 1))))
    starts = range(0, max(n_rows - CHUNK_ROWS, 1), step)  # a shorter rest joins the part before it
    return [slice(start, end) for start, end in pairwise([*starts, n_rows])]


def _distribution(policy: Any, batch: AgentBatch) -> Any:
    with checks_on_cpu(batch.mask.device), _further_arguments(policy, batch) as further:
        if batch.columns is not None:
            return policy.get_distribution(whole(batch.observations), further["lstm_states"].pi, further["episode_starts"])[0]
        return policy.get_distribution(whole(batch.observations), **further)


def _torch_distribution(distribution: Any) -> ActionDistribution:
    """The torch distribution inside SB3's; sb3-contrib's masked ones for several components have a list of another name."""
    inner: ActionDistribution = getattr(distribution, "distribution", None) or distribution.distributions
    return inner


def actor_parameter_names(policy: ActorCriticPolicy) -> list[str]:
    """
    Names of the parameters that shape the action distribution, shared feature extractors included.

    Found by differentiating the distribution's log-density and entropy, so any policy class works.
    """
    training = policy.training
    policy.set_training_mode(False)  # a BatchNorm layer takes no batch of one in training mode
    named = [(name, value) for name, value in policy.named_parameters() if value.requires_grad]
    with gradients_in_evaluation_mode(policy):
        distribution = _example_distribution(policy)
        actions = distribution.get_actions(deterministic=True)
        objective = distribution.log_prob(actions).sum()
        entropy = distribution.entropy()
        if entropy is not None:
            objective = objective + entropy.sum()
        gradients = th.autograd.grad(objective, [value for _, value in named], allow_unused=True)
    with th.no_grad():
        _example_distribution(policy)  # policies keep their last distribution; one with gradients could not be copied
    policy.set_training_mode(training)
    return [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is not None]


def _example_distribution(policy: Any) -> Any:
    """The distribution for one observation of zeros, at the beginning of an episode."""
    observation: Any = _example_observation(policy)
    if not isinstance(policy, RecurrentActorCriticPolicy):
        return policy.get_distribution(observation)
    lstm = policy.lstm_actor
    state = th.zeros(lstm.num_layers, 1, lstm.hidden_size, device=policy.device)
    return policy.get_distribution(observation, (state, state), th.zeros(1, device=policy.device))[0]


def _example_observation(policy: ActorCriticPolicy) -> PyTorchObs:
    """A batch of one zero observation, as a tensor or a dict of tensors."""

    def zero(space: spaces.Space[Any]) -> np.ndarray:
        return np.zeros(space.shape or (), dtype=space.dtype)

    space = policy.observation_space
    if isinstance(space, spaces.Dict):
        return policy.obs_to_tensor({key: zero(value) for key, value in space.spaces.items()})[0]
    return policy.obs_to_tensor(zero(space))[0]
