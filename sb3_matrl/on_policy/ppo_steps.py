"""
SB3's update of a single PPO, MaskablePPO or RecurrentPPO with losses that are read once, for networks on a GPU, and for LSTMs,
which read whole sequences here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from torch.nn import functional

from sb3_matrl.on_policy.batch import checks_on_cpu
from sb3_matrl.on_policy.buffers import SequenceSamples, gives_sequences, is_maskable, is_recurrent
from sb3_matrl.on_policy.sequences import takes_whole_sequences
from sb3_matrl.stacked.lockstep import StepRecord


def can_read_once(learner: Any) -> bool:
    """
    Whether :func:`ppo_steps` can take the place of a learner's ``train``: that of PPO, MaskablePPO or RecurrentPPO, not
    replaced, without ``target_kl``, which decides after every minibatch. A recurrent one has sb3-contrib's policy and buffer.

    :param learner: SB3 or sb3-contrib on-policy algorithm
    """
    train = getattr(learner.train, "__func__", None)
    if train is RecurrentPPO.train:
        can_take = takes_whole_sequences(learner.policy) and gives_sequences(learner.rollout_buffer)
    else:
        can_take = train in (PPO.train, MaskablePPO.train)
    return can_take and learner.target_kl is None


def clip_ranges(ppo: Any) -> tuple[float, float | None]:
    """
    Clip ranges of the ratio and of the values at this moment of the training; ``None`` for no clipping of values.

    :param ppo: PPO or MaskablePPO
    """
    progress = ppo._current_progress_remaining
    return ppo.clip_range(progress), None if ppo.clip_range_vf is None else ppo.clip_range_vf(progress)


def ppo_steps(learner: Any) -> StepRecord:
    """
    The gradient steps of a learner's ``train``, with the same numbers; those of RecurrentPPO up to rounding.

    SB3 reads several losses of every minibatch, and waits for the GPU each time; here they are read after the last one.
    RecurrentPPO's LSTMs read whole sequences. Nothing is logged.

    :param learner: learner with a full rollout buffer, see :func:`can_read_once`
    :return: the losses of all minibatches
    """
    learner.policy.set_training_mode(True)
    learner._update_learning_rate(learner.policy.optimizer)
    losses: list[th.Tensor] = []
    epochs: list[int] = []
    for epoch in range(learner.n_epochs):
        for samples in _minibatches(learner):
            with checks_on_cpu(learner.device):
                losses.append(_step(learner, samples, *clip_ranges(learner)))
            epochs.append(epoch)
    policy_loss, value_loss, entropy, clip_fraction, approx_kl = th.stack(losses).cpu().double().numpy().T
    return StepRecord(
        policy_loss=policy_loss,
        value_loss=value_loss,
        entropy=entropy,
        clip_fraction=clip_fraction,
        approx_kl=approx_kl,
        epochs=np.array(epochs),
        stopped=False,
    )


def _minibatches(learner: Any) -> Iterator[Any]:
    buffer = learner.rollout_buffer
    yield from (buffer.sequences if is_recurrent(buffer) else buffer.get)(learner.batch_size)


def _step(learner: Any, samples: Any, clip_range: float, clip_range_vf: float | None) -> th.Tensor:
    """One step on a minibatch, with SB3's operations in SB3's order; returns the losses as in :class:`StepRecord`."""
    policy = learner.policy
    rows, (values, log_prob, entropy) = _evaluated(learner, samples)
    values, advantages = values.flatten(), rows.advantages
    if learner.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - rows.old_log_prob
    ratio = th.exp(log_ratio)
    clipped = th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -th.min(advantages * ratio, advantages * clipped).mean()
    if clip_range_vf is not None:
        values = rows.old_values + th.clamp(values - rows.old_values, -clip_range_vf, clip_range_vf)
    value_loss = functional.mse_loss(rows.returns, values)
    mean_entropy = th.mean(-log_prob if entropy is None else entropy)
    loss = policy_loss + learner.ent_coef * -mean_entropy + learner.vf_coef * value_loss
    policy.optimizer.zero_grad()
    loss.backward()
    th.nn.utils.clip_grad_norm_(policy.parameters(), learner.max_grad_norm)
    policy.optimizer.step()
    with th.no_grad():
        clip_fraction = th.mean((th.abs(ratio - 1) > clip_range).float())
        approx_kl = th.mean((th.exp(log_ratio) - 1) - log_ratio)
        return th.stack([policy_loss, value_loss, mean_entropy, clip_fraction, approx_kl])


def _evaluated(learner: Any, samples: Any) -> tuple[Any, Any]:
    """Rows of a minibatch in which the agent acted, with values, log-densities of the actions, and entropies if known."""
    recurrent = isinstance(samples, SequenceSamples)
    rows = samples.rows if recurrent else samples
    actions = rows.actions.long().flatten() if isinstance(learner.action_space, spaces.Discrete) else rows.actions
    if not recurrent:
        masks = {"action_masks": rows.action_masks} if is_maskable(learner.rollout_buffer) else {}
        return rows, learner.policy.evaluate_actions(rows.observations, actions, **masks)
    with samples.sequences.through(learner.policy) as further:
        found = learner.policy.evaluate_actions(rows.observations, actions, **further)
    live = samples.live
    if live is None:
        return rows, found
    names = ("old_values", "old_log_prob", "advantages", "returns")
    acted = rows._replace(**{name: getattr(rows, name)[live] for name in names})
    return acted, tuple(None if one is None else one[live] for one in found)
