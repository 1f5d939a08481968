"""Epochs of clipped policy-gradient steps for a stack of learners, with gradients written out: the ``torch`` backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_matrl.stacked.heads import CategoricalHead, GaussianHead, Head
from sb3_matrl.stacked.minibatches import Epoch, LockstepBatches, Minibatch, StackedBatch
from sb3_matrl.stacked.passes import Passes
from sb3_matrl.stacked.step_graphs import StepGraphs
from sb3_matrl.stacked.storage import Stack, after_step, before_step


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """
    Settings of one learner's gradient steps, with schedules evaluated.

    The loss of a row is
    ``-w min(q A, clip(q, 1 - eps, 1 + eps) A) - ent_coef H + vf_coef (V - R)^2 + kl_coef (q - 1 - log q)``
    with the ratio q of the new to the old density: PPO's for weights w of 1 and ``kl_coef=0``, see
    :class:`stable_baselines3.PPO` and :mod:`sb3_matrl.matrl.best_response`.

    :param learning_rate: learning rate of Adam
    :param betas: Adam's decay rates
    :param eps: Adam's term for stability
    :param clip_range: clip range of the ratio
    :param clip_range_vf: clip range of the value update; ``None`` for no clipping
    :param normalize_advantage: whether to normalise advantages per minibatch
    :param ent_coef: entropy coefficient
    :param vf_coef: value function coefficient
    :param kl_coef: coefficient of the estimated KL divergence from the old policy
    :param max_grad_norm: maximum norm of the gradient
    :param target_kl: limit on the KL divergence: steps end at 1.5 times this value; ``None`` for none
    """

    learning_rate: float
    betas: tuple[float, float]
    eps: float
    clip_range: float
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float
    kl_coef: float
    max_grad_norm: float
    target_kl: float | None


@dataclass(frozen=True)
class StepRecord:
    """
    Losses of one learner's minibatches, in order, (n_minibatches,) each; a last minibatch whose KL divergence was too large is
    included, though no step followed.

    :param policy_loss: clipped surrogate loss
    :param value_loss: mean squared error of the critic
    :param entropy: mean entropy
    :param clip_fraction: share of ratios outside the clip range
    :param approx_kl: estimated KL divergence from the old policy
    :param epochs: epoch of each minibatch
    :param stopped: whether ``target_kl`` ended the steps
    """

    policy_loss: np.ndarray
    value_loss: np.ndarray
    entropy: np.ndarray
    clip_fraction: np.ndarray
    approx_kl: np.ndarray
    epochs: np.ndarray
    stopped: bool


def _has_graphs(device: th.device, settings: Sequence[StepSettings]) -> bool:
    """Whether steps are recorded as CUDA graphs, which cannot ask whether to go on."""
    return device.type == "cuda" and all(one.target_kl is None for one in settings)


# Losses of a minibatch in the order of the tensors that hold them.
_LOSSES = ("policy_loss", "value_loss", "entropy", "clip_fraction", "approx_kl")


def make_head(stack: Stack) -> Head:
    """
    Action distributions of the policies of a stack.

    :param stack: layout of the networks
    """
    sizes = [shape.outputs for shape in stack.shapes]
    if stack.discrete:
        return CategoricalHead(sizes, stack.device)
    return GaussianHead(sizes, stack.dtype, stack.device)


class Lockstep:
    """
    Gradient steps of all learners of a stack, one minibatch of each at a time.

    :param stack: layout of the networks
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.head = make_head(stack)

    def update(
        self,
        optimizers: Sequence[th.optim.Optimizer],
        batch: StackedBatch,
        epochs: Sequence[Sequence[Epoch]],
        settings: Sequence[StepSettings],
    ) -> list[StepRecord]:
        """
        Take the steps of all epochs; the policies and their optimisers are changed in place.

        :param optimizers: Adam optimiser of each policy
        :param batch: rollouts of the learners
        :param epochs: learner -> minibatches of each of its epochs
        :param settings: settings of each learner
        """
        with th.no_grad():
            return _Run(self, optimizers, batch, epochs, settings).record()


class _Run:
    """One call of :meth:`Lockstep.update`: parameters, moments and settings as stacked tensors."""

    def __init__(
        self,
        kernel: Lockstep,
        optimizers: Sequence[th.optim.Optimizer],
        batch: StackedBatch,
        epochs: Sequence[Sequence[Epoch]],
        settings: Sequence[StepSettings],
    ) -> None:
        self.kernel, self.stack, self.n = kernel, kernel.stack, len(settings)
        self.optimizers, self.settings = optimizers, settings
        self.batches = LockstepBatches(batch, epochs, [one.normalize_advantage for one in settings])
        self.rows = self.stack.parameters()
        self.grads = self.stack.zeros()
        self.passes = Passes(self.stack, self.rows)
        self.first, self.second, steps = self.stack.moments(optimizers)
        self.steps = th.tensor(steps, dtype=th.float32, device=self.stack.device).unbind()
        self._by_learner = [list(one.view(self.n, -1)) for one in (self.rows, self.grads, self.first, self.second)]
        self.clip = self._column("clip_range")
        self.ent_coef, self.vf_coef, self.kl_coef = map(self._column, ("ent_coef", "vf_coef", "kl_coef"))
        self.max_norm = self._column("max_grad_norm").squeeze(1)
        self.clip_vf = self._clip_vf()
        self.active = [True] * self.n
        self.losses: list[th.Tensor] = []
        self.taken: list[tuple[int, list[bool]]] = []  # epoch of each minibatch, and which learners evaluated it
        self.graphs = StepGraphs(self._whole_step) if _has_graphs(self.stack.device, settings) else None

    def _column(self, name: str) -> th.Tensor:
        return th.tensor([[getattr(one, name)] for one in self.settings], dtype=self.stack.dtype, device=self.stack.device)

    def _clip_vf(self) -> th.Tensor | None:
        ranges = [one.clip_range_vf for one in self.settings]
        if all(value is None for value in ranges):
            return None
        column = [[float("inf") if value is None else value] for value in ranges]
        return th.tensor(column, dtype=self.stack.dtype, device=self.stack.device)

    def record(self) -> list[StepRecord]:
        """Take all steps, write the results back, and describe them."""
        try:
            for minibatch in self.batches:
                if not any(self.active):
                    break
                self._step(minibatch)
        finally:
            if self.graphs is not None:
                self.graphs.clear()
        self.stack.write_parameters(self.rows)
        self.stack.write_moments(self.optimizers, self.first, self.second, th.stack(self.steps).tolist())
        return self._records()

    def _step(self, minibatch: Minibatch) -> None:
        """Evaluate one minibatch of every learner, and step those that are not ended by their KL divergence."""
        if self.graphs is not None and all(minibatch.counts):
            self.taken.append((minibatch.epoch, self.active))
            before_step(self.optimizers)
            self.losses.append(self.graphs(minibatch))
            after_step(self.optimizers)
            return
        self.losses.append(self._gradients(minibatch))
        stepping = self._stepping(minibatch)
        if not any(stepping):
            return
        moving = [optimizer for optimizer, steps in zip(self.optimizers, stepping, strict=True) if steps]
        before_step(moving)
        self._move(stepping)
        after_step(moving)

    def _whole_step(self, minibatch: Minibatch) -> th.Tensor:
        """A step of all learners, without their hooks; returns the losses, (5, n)."""
        losses = self._gradients(minibatch)
        self._move(self.active)
        return losses

    def _gradients(self, minibatch: Minibatch) -> th.Tensor:
        """Compute the gradients of a minibatch in :attr:`grads`; return the losses, (5, n)."""
        self.passes.start_gradients()
        of_log_std, losses = [], []
        for part in minibatch.parts(self.passes.chunk_rows):
            deviations, loss = self._part(part)
            losses.append(loss)
            if deviations is not None:
                of_log_std.append(deviations)
        self.passes.read_gradients(self.grads)
        if not self.stack.discrete:
            th.unflatten(self.grads, 0, (self.n, 2))[:, 0, self.stack.log_std] = th.stack(of_log_std).sum(dim=0)
        return sum(losses[1:], losses[0])

    def _move(self, stepping: list[bool]) -> None:
        """Take the step of those learners for which it is wanted."""
        self._clip_gradients()
        self._adam(stepping)

    def _part(self, part: Minibatch) -> tuple[th.Tensor | None, th.Tensor]:
        """Add the gradients of some rows; return those of the deviations, and the rows' part of the losses, (5, n)."""
        n, batch, head = self.n, part.batch, self.kernel.head
        inputs = th.stack([batch.features, batch.features if batch.states is None else batch.states], dim=1).flatten(0, 1)
        outputs = th.unflatten(self.passes.forward(inputs), 0, (n, 2))
        log_std = th.unflatten(self.rows, 0, (n, 2))[:, 0, self.stack.log_std]
        log_prob, entropy, kept = head.evaluate(outputs[:, 0].transpose(1, 2), log_std, batch.masks, batch.actions)
        of_log_prob, of_values, losses = self._losses(part, log_prob, outputs[:, 1, 0], entropy)
        of_outputs, of_log_std = head.gradient(kept, of_log_prob, -self.ent_coef * part.shares)
        grad = th.zeros_like(outputs)
        grad[:, 0] = of_outputs.transpose(1, 2)
        grad[:, 1, 0] = of_values
        self.passes.backward(inputs, grad.flatten(0, 1))
        return of_log_std, losses

    def _losses(
        self, minibatch: Minibatch, log_prob: th.Tensor, values: th.Tensor, entropy: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Derivatives of the losses by the log-densities and by the values, (n, width) each, and the losses, (5, n)."""
        columns, shares = minibatch.batch.columns, minibatch.shares
        log_ratio = log_prob - columns.old_log_prob
        ratio = log_ratio.exp()
        distance = ratio - 1.0
        outside = distance.abs() > self.clip
        plain = columns.advantages * ratio
        clipped = columns.advantages * (1.0 + distance.clamp(-self.clip, self.clip))
        objective = th.minimum(plain, clipped)
        weighted = columns.weights * shares
        # The minimum has no slope where the clipped term is the smaller one.
        of_log_prob = plain.masked_fill(outside & (plain >= clipped), 0.0).mul_(weighted).neg_()
        of_log_prob += self.kl_coef * shares * distance
        error, of_values = self._value_errors(values, columns.old_values, columns.returns)
        of_values = of_values * (2.0 * self.vf_coef) * shares
        terms = th.stack([objective * columns.weights, error.square(), entropy, outside.to(ratio.dtype), distance - log_ratio])
        return of_log_prob, of_values, (terms * shares).sum(dim=2)

    def _value_errors(self, values: th.Tensor, old: th.Tensor, returns: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Errors of the critics' (clipped) values, and the errors where a value's change is not clipped, else 0."""
        if self.clip_vf is None:
            error = values - returns
            return error, error
        change = values - old
        error = old + change.clamp(-self.clip_vf, self.clip_vf) - returns
        return error, error.masked_fill(change.abs() > self.clip_vf, 0.0)

    def _stepping(self, minibatch: Minibatch) -> list[bool]:
        """Which learners take a step on this minibatch; learners whose KL divergence is too large end here."""
        evaluated = [active and count > 0 for active, count in zip(self.active, minibatch.counts, strict=True)]
        self.taken.append((minibatch.epoch, evaluated))
        if all(one.target_kl is None for one in self.settings):
            return evaluated
        divergences = self.losses[-1][4].tolist()
        for i, one in enumerate(self.settings):
            if evaluated[i] and one.target_kl is not None and divergences[i] > 1.5 * one.target_kl:
                self.active[i] = False
        return [before and active for before, active in zip(evaluated, self.active, strict=True)]

    def _clip_gradients(self) -> None:
        by_learner = self.grads.view(self.n, -1)
        norms = th.linalg.vector_norm(by_learner, dim=1)
        scales = (self.max_norm / (norms + 1e-6)).clamp_(max=1.0)
        if self.stack.device.type != "cpu" or not bool((scales == 1.0).all()):
            by_learner.mul_(scales[:, None])

    def _adam(self, stepping: list[bool]) -> None:
        """One step of Adam; learners with the same settings in one call."""
        together: dict[tuple[float, tuple[float, float], float], list[int]] = {}
        for i, one in enumerate(self.settings):
            if stepping[i]:
                together.setdefault((one.learning_rate, one.betas, one.eps), []).append(i)
        for (learning_rate, betas, eps), members in together.items():
            rows, grads, first, second = ([of[i] for i in members] for of in self._by_learner)
            steps = [self.steps[i] for i in members]
            th._foreach_add_(steps, 1.0)
            th._fused_adam_(
                *(rows, grads, first, second, [], steps),
                lr=learning_rate,
                beta1=betas[0],
                beta2=betas[1],
                weight_decay=0.0,
                eps=eps,
                amsgrad=False,
                maximize=False,
            )

    def _records(self) -> list[StepRecord]:
        if not self.losses:
            return [StepRecord(**dict.fromkeys(_LOSSES, np.zeros(0)), epochs=np.zeros(0, int), stopped=False)] * self.n
        losses = th.stack(self.losses).cpu().double().numpy()  # (n_minibatches, 5, n)
        epochs = np.array([epoch for epoch, _ in self.taken])
        evaluated = np.array([flags for _, flags in self.taken])
        records = []
        for i in range(self.n):
            mine = losses[evaluated[:, i], :, i] * [-1.0, 1.0, 1.0, 1.0, 1.0]
            named = dict(zip(_LOSSES, mine.T, strict=True))
            records.append(StepRecord(**named, epochs=epochs[evaluated[:, i]], stopped=not self.active[i]))
        return records
