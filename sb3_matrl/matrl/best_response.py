"""
Best response to the others' aggregated policies (Eq. 6), estimated on the same rollout.

The losses are pure functions of tensors; :func:`best_respond` runs the gradient steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import FloatSchedule
from torch.nn import functional as F

from sb3_matrl.common.argument_checks import check_range
from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.on_policy.batch import AgentBatch, evaluate, live_part, minibatches, take_rows
from sb3_matrl.on_policy.joint_updates import LearnerStack
from sb3_matrl.stacked.lockstep import StepRecord, StepSettings


@dataclass(frozen=True, kw_only=True)
class BestResponseConfig:
    """
    Settings of one learner's best response, named and documented as the arguments of :class:`~sb3_matrl.MATRL`, with schedules
    evaluated.

    :raises ValueError: if a value is out of its range
    """

    br_learning_rate: float
    br_n_epochs: int
    batch_size: int
    clip_range: float
    br_clip_range: float | None
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float
    br_kl_coef: float
    max_grad_norm: float
    target_kl: float | None

    def __post_init__(self) -> None:
        check_range("br_n_epochs", self.br_n_epochs)
        check_range("br_clip_range", self.br_clip_range)

    @classmethod
    def of(cls, arguments: LearnerArguments, learner: str, progress_remaining: float = 1.0) -> BestResponseConfig:
        """
        Settings of one learner at one moment of the training.

        :param arguments: constructor arguments by learner; ``br_learning_rate=None`` stands for ``learning_rate``
        :param learner: name of the learner
        :param progress_remaining: share of the training that is left, from 1 down to 0, at which schedules are evaluated
        """
        values = arguments.all_of((field.name for field in fields(cls)), learner)
        if values["br_learning_rate"] is None:
            values["br_learning_rate"] = arguments.of("learning_rate", learner)
        for name in ("br_learning_rate", "clip_range", "clip_range_vf"):
            if values[name] is not None:
                values[name] = FloatSchedule(values[name])(progress_remaining)
        return cls(**values)


@dataclass(frozen=True)
class BestResponseStats:
    """Means over the gradient steps of one best response; ``n_updates`` counts those steps."""

    policy_loss: float
    value_loss: float
    entropy: float
    clip_fraction: float
    approx_kl: float
    n_updates: int


def clip_weights(weights: th.Tensor, clip_range: float | None) -> th.Tensor:
    """Truncate importance weights to [max(0, 1 - cbar), 1 + cbar]; unchanged when ``clip_range`` is ``None``."""
    return weights if clip_range is None else weights.clamp(max(0.0, 1.0 - clip_range), 1.0 + clip_range)


def surrogate_loss(ratio: th.Tensor, advantages: th.Tensor, weights: th.Tensor, clip_range: float) -> th.Tensor:
    """
    ``-mean_b[ w_b min(q_b A_b, clip(q_b, 1-eps, 1+eps) A_b) ]``, PPO's clipped surrogate with one constant weight per
    sample. With weights of 1 it is PPO's loss.

    :param ratio: q (B,), pi_theta over the policy that collected the data
    :param advantages: (B,)
    :param weights: w (B,), without gradient
    :param clip_range: eps
    """
    clipped = th.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return -(weights * th.min(ratio * advantages, clipped * advantages)).mean()


def value_loss(values: th.Tensor, old_values: th.Tensor, returns: th.Tensor, clip_range_vf: float | None) -> th.Tensor:
    """Mean squared error to the TD(lambda) return, with SB3's optional clip of the update."""
    if clip_range_vf is not None:
        values = old_values + th.clamp(values - old_values, -clip_range_vf, clip_range_vf)
    return F.mse_loss(returns, values)


def approximate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """``mean[(q - 1) - log q]``: unbiased, non-negative estimate of KL(pi_old || pi_theta) from samples of pi_old."""
    return (th.exp(log_ratio) - 1.0 - log_ratio).mean()


@dataclass(frozen=True)
class BestResponse:
    """
    What one learner's best response starts from.

    :param policy: policy at the start of the best response; changed in place
    :param optimizer: optimiser of the best response, over ``policy.parameters()``
    :param batch: rollout of the agent, (B, ...)
    :param weights: (B,), clipped importance weights of the other agents
    :param config: settings
    """

    policy: ActorCriticPolicy
    optimizer: th.optim.Optimizer
    batch: AgentBatch
    weights: th.Tensor
    config: BestResponseConfig


def best_respond_together(
    stack: LearnerStack, tasks: Sequence[BestResponse], rng: np.random.Generator
) -> list[BestResponseStats]:
    """
    The best responses of the learners of a stack, as :func:`best_respond` one by one.

    :param stack: learners with like networks
    :param tasks: best response of each learner
    :param rng: random generator of the minibatches
    :return: means over the gradient steps, of each learner
    """
    epochs = []
    for task in tasks:
        task.policy.set_training_mode(True)
        n_epochs = task.config.br_n_epochs if task.batch.acted.any() else 0
        epochs.append([list(minibatches(task.batch, task.config.batch_size, rng)) for _ in range(n_epochs)])
    batch = stack.batch([task.batch for task in tasks], [task.weights for task in tasks])
    optimizers = [task.optimizer for task in tasks]
    records = stack.kernel.update(optimizers, batch, epochs, [_step_settings(task) for task in tasks])
    return list(map(_stats_of_steps, records))


def _step_settings(task: BestResponse) -> StepSettings:
    config, (group,) = task.config, task.optimizer.param_groups
    group["lr"] = config.br_learning_rate
    names = {field.name for field in fields(StepSettings)} & {field.name for field in fields(config)}
    return StepSettings(
        **{name: getattr(config, name) for name in names},
        learning_rate=config.br_learning_rate,
        betas=group["betas"],
        eps=group["eps"],
        kl_coef=config.br_kl_coef,
    )


def _stats_of_steps(record: StepRecord) -> BestResponseStats:
    """Means over the minibatches that a step followed."""
    n_steps = len(record.epochs) - int(record.stopped)
    if not n_steps:
        return BestResponseStats(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    names = (field.name for field in fields(BestResponseStats) if field.name != "n_updates")
    return BestResponseStats(**{name: float(getattr(record, name)[:n_steps].mean()) for name in names}, n_updates=n_steps)


def best_respond(task: BestResponse, rng: np.random.Generator) -> BestResponseStats:
    """
    A few weighted, clipped policy-gradient steps on the agent's own rollout.

    :param task: the learner's best response
    :param rng: random generator of the minibatches
    :return: means over the gradient steps
    """
    policy, optimizer, batch, weights, config = task.policy, task.optimizer, task.batch, task.weights, task.config
    policy.set_training_mode(True)
    for group in optimizer.param_groups:
        group["lr"] = config.br_learning_rate
    records: list[th.Tensor] = []
    for _ in range(config.br_n_epochs if batch.acted.any() else 0):
        for index in minibatches(batch, config.batch_size, rng):
            record = _gradient_step(policy, optimizer, batch, weights, config, index)
            if record is None:
                return _summary(records)
            records.append(record)
    return _summary(records)


def _gradient_step(
    policy: ActorCriticPolicy,
    optimizer: th.optim.Optimizer,
    batch: AgentBatch,
    weights: th.Tensor,
    config: BestResponseConfig,
    index: np.ndarray | slice,
) -> th.Tensor | None:
    """One Adam step on some rows; ``None`` (and no step) when ``target_kl`` is exceeded."""
    rows = take_rows(batch, index)
    values, log_prob, entropies = evaluate(policy, rows)
    # Without a closed form, the entropy is estimated from the actions.
    columns = (values, log_prob, -log_prob if entropies is None else entropies, weights[index])
    rows, (values, log_prob, entropies, row_weights) = live_part(rows, *columns)
    entropy, advantages = entropies.mean(), rows.advantages
    if config.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - rows.old_log_prob
    ratio = th.exp(log_ratio)
    policy_objective = surrogate_loss(ratio, advantages, row_weights, config.clip_range)
    critic_loss = value_loss(values, rows.old_values, rows.returns, config.clip_range_vf)
    loss = policy_objective - config.ent_coef * entropy + config.vf_coef * critic_loss
    if config.br_kl_coef != 0.0:
        loss = loss + config.br_kl_coef * approximate_kl(log_ratio)
    with th.no_grad():
        kl_estimate = approximate_kl(log_ratio)
        clip_fraction = ((ratio - 1.0).abs() > config.clip_range).float().mean()
    if config.target_kl is not None and float(kl_estimate) > 1.5 * config.target_kl:
        return None
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    th.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    optimizer.step()
    # Kept as tensors: reading them here would synchronise the device at every step.
    return th.stack([policy_objective.detach(), critic_loss.detach(), entropy.detach(), clip_fraction, kl_estimate])


def _summary(records: list[th.Tensor]) -> BestResponseStats:
    if not records:
        return BestResponseStats(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    policy_loss, critic_loss, entropy, clip_fraction, approx_kl = th.stack(records).mean(dim=0).tolist()
    return BestResponseStats(policy_loss, critic_loss, entropy, clip_fraction, approx_kl, len(records))
