"""Updates of all learners, those with like networks at once: which learners are stacked, and their batches as stacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import explained_variance
from torch.distributions import Categorical, Normal

from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.on_policy.batch import AgentBatch, checks_on_cpu, log_prob_and_distribution
from sb3_matrl.on_policy.buffers import buffer_form, buffer_obstacle, is_recurrent, share_images
from sb3_matrl.on_policy.ppo_steps import can_read_once, clip_ranges, ppo_steps
from sb3_matrl.stacked.heads import NEVER
from sb3_matrl.stacked.kernels import KERNELS, choose_kernel, make_kernel
from sb3_matrl.stacked.lockstep import StepRecord, StepSettings
from sb3_matrl.stacked.minibatches import Columns, Epoch, StackedBatch
from sb3_matrl.stacked.native_kernel import native_stack_obstacle
from sb3_matrl.stacked.passes import Passes
from sb3_matrl.stacked.perceptrons import Perceptron, describe_perceptron, features_of, obstacle
from sb3_matrl.stacked.storage import Stack
from sb3_matrl.utils.distributions import ActionDistribution
from sb3_matrl.utils.suggest import unknown

BACKENDS = ("auto", "sb3", *KERNELS)
# Larger stacks do not fit into a core's cache, and smaller networks would wait for the largest one.
MAX_LEARNERS = 16
# On a GPU, where the start of an operation takes longer than its work, one stack does the work of several.
MAX_LEARNERS_ON_GPU = 64
# A learner of a stack may have at most this many times the features of another one.
_MAX_PADDING = 2.0


@dataclass(frozen=True)
class _Rollout:
    """
    What the actors of a stack computed in a rollout.

    :param parameters: parameters of the policies, (2 n, row size)
    :param outputs: outputs of the actors, (n, B, n_outputs)
    :param log_probs: log-densities of the actions, (n, B)
    """

    parameters: th.Tensor
    outputs: th.Tensor
    log_probs: th.Tensor


class LearnerStack:
    """
    Learners with like networks, which are updated and act together.

    :param names: names of the learners
    :param learners: the learners, with as many rows in their rollouts
    :param backend: ``"torch"``, ``"native"``, or ``"auto"`` for the faster one that is available
    :raises ValueError: if the backend is not available
    """

    def __init__(self, names: Sequence[str], learners: Sequence[OnPolicyAlgorithm], backend: str) -> None:
        self.names = tuple(names)
        self.learners = list(learners)
        self.stack = Stack([learner.policy for learner in learners])
        self.backend = choose_kernel(self.stack) if backend == "auto" else backend
        self.kernel = make_kernel(self.stack, self.backend)
        self._rollout: _Rollout | None = None

    def keep_rollout(self, parameters: th.Tensor, outputs: th.Tensor, log_probs: th.Tensor) -> None:
        """
        Keep the outputs of the actors in a rollout, so that the policies need not be evaluated on it again.

        :param parameters: parameters of the policies, (2 n, row size)
        :param outputs: (n, B, n_outputs), in the order of the batches' rows
        :param log_probs: log-densities of the actions, (n, B)
        """
        self._rollout = _Rollout(parameters, outputs, log_probs)

    @property
    def obstacle(self) -> str | None:
        """Reason why the stack cannot be used at present, or ``None``."""
        reasons = (self._obstacle_of(index, learner) for index, learner in enumerate(self.learners))
        return next((reason for reason in reasons if reason is not None), None)

    def _obstacle_of(self, index: int, learner: OnPolicyAlgorithm) -> str | None:
        """Reason why a learner must be updated by itself at present: it may have changed since the stack was made."""
        reason = obstacle(learner) or buffer_obstacle(learner)
        if reason is None and not self.stack.is_intact(index, learner.policy):
            return "its parameters were replaced"
        return reason

    def features(self, batches: Sequence[AgentBatch]) -> th.Tensor:
        """
        Observations as the networks take them.

        :param batches: batch of each learner
        :return: (n, B, n_inputs), zeros where a learner has fewer features
        """
        out = th.zeros(
            len(batches), len(batches[0].mask), self.stack.n_inputs, dtype=self.stack.dtype, device=self.stack.device
        )
        for row, learner, batch in zip(out, self.learners, batches, strict=True):
            features = features_of(learner.policy, batch.observations)
            row[:, : features.shape[1]] = features
        return out

    def batch(self, batches: Sequence[AgentBatch], weights: Sequence[th.Tensor] | None = None) -> StackedBatch:
        """
        Rollouts of the learners as one batch.

        :param batches: batch of each learner
        :param weights: weights of the surrogate losses, (B,) each; 1 if ``None``
        """
        dtype = self.stack.dtype
        names = ("old_log_prob", "old_values", "advantages", "returns")
        columns = {name: th.stack([getattr(batch, name) for batch in batches]).to(dtype) for name in names}
        columns["weights"] = th.ones_like(columns["returns"]) if weights is None else th.stack(list(weights)).to(dtype)
        return StackedBatch(
            self.features(batches), self._actions(batches), Columns(**columns), self._masks(batches), self._states(batches)
        )

    def _states(self, batches: Sequence[AgentBatch]) -> th.Tensor | None:
        """States (n, B, n_inputs) that central critics see, zeros where a learner's are smaller."""
        if batches[0].states is None:
            return None
        shape = (len(batches), len(batches[0].mask), self.stack.n_inputs)
        states = th.zeros(*shape, dtype=self.stack.dtype, device=self.stack.device)
        for row, batch in zip(states, batches, strict=True):
            assert batch.states is not None
            row[:, : batch.states.shape[1]] = batch.states
        return states

    def _actions(self, batches: Sequence[AgentBatch]) -> th.Tensor:
        """Actions (n, B, action size), zeros where a learner's are smaller."""
        shape = (len(batches), len(batches[0].mask), self.kernel.head.action_size)
        actions = th.zeros(*shape, dtype=self.stack.dtype, device=self.stack.device)
        for row, batch in zip(actions, batches, strict=True):
            own = batch.actions.reshape(shape[1], -1)
            row[:, : own.shape[1]] = own
        return actions

    def _masks(self, batches: Sequence[AgentBatch]) -> th.Tensor | None:
        if batches[0].action_masks is None:
            return None
        shape = (len(batches), len(batches[0].mask), self.stack.n_outputs)
        masks = th.zeros(*shape, dtype=th.bool, device=self.stack.device)
        for row, batch in zip(masks, batches, strict=True):
            assert batch.action_masks is not None
            row[:, : batch.action_masks.shape[1]] = batch.action_masks > 0.5
        return masks

    def log_probs_and_distributions(self, batches: Sequence[AgentBatch]) -> list[tuple[th.Tensor, ActionDistribution]]:
        """
        Log-densities of the batches' actions, (B,) each, and the action distributions.

        :param batches: batch of each learner
        """
        with th.no_grad():
            n, parameters = len(batches), self.stack.parameters()
            rows = th.unflatten(parameters, 0, (n, 2))[:, 0]
            log_std, kept, masks = rows[:, self.stack.log_std], self._kept(parameters, batches), self._masks(batches)
            if kept is not None:
                outputs, log_probs = kept.outputs, kept.log_probs
            else:
                outputs = self._outputs(Passes(self.stack, rows), self.features(batches))
                log_probs = self.kernel.head.evaluate(outputs, log_std, masks, self._actions(batches))[0]
            legal = outputs if masks is None else outputs.masked_fill(~masks, NEVER)
            shapes = self.stack.shapes
            return [(log_probs[i], _distribution(legal[i], log_std[i], shapes[i])) for i in range(n)]

    def _kept(self, parameters: th.Tensor, batches: Sequence[AgentBatch]) -> _Rollout | None:
        """The outputs of the last rollout, if these are its batches and the policies have not changed since then."""
        kept = self._rollout
        if kept is None or not th.equal(kept.parameters, parameters):
            return None
        same = all(th.equal(own, batch.old_log_prob.to(own)) for own, batch in zip(kept.log_probs, batches, strict=True))
        return kept if same else None

    def _outputs(self, passes: Passes, features: th.Tensor) -> th.Tensor:
        """Outputs of networks, (n, B, n_outputs)."""
        return th.cat([passes.forward(part) for part in th.split(features, passes.chunk_rows, dim=1)], dim=2).transpose(1, 2)


def _distribution(outputs: th.Tensor, log_std: th.Tensor, shape: Perceptron) -> ActionDistribution:
    size = sum(shape.outputs)
    if not shape.discrete:
        mean = outputs[:, :size]
        return Normal(mean, log_std[:size].exp().expand_as(mean), validate_args=False)
    parts = [Categorical(logits=part, validate_args=False) for part in th.split(outputs[:, :size], list(shape.outputs), dim=1)]
    return parts if len(parts) > 1 else parts[0]


class JointUpdates:
    """
    The learners of a model, as stacks and one by one.

    :param learners: name -> learner
    :param backend: ``"sb3"`` updates all learners one by one, by SB3's own code; ``"torch"`` and ``"native"`` stack all that
        can be; ``"auto"`` stacks those of which there are at least two alike, by the native kernel where it is available, and
        leaves a single learner to SB3. Except with ``"sb3"``, a PPO on a GPU and RecurrentPPO, with ``"auto"`` on the CPU at
        least two of them, take SB3's steps by :mod:`sb3_matrl.on_policy.ppo_steps`
    :raises ValueError: if the backend is unknown or not available
    """

    def __init__(self, learners: Mapping[str, OnPolicyAlgorithm], backend: str) -> None:
        if backend not in BACKENDS:
            raise ValueError(unknown("backend", str(backend), BACKENDS))
        self.learners = dict(learners)
        self.backend = backend
        self._forms = {name: buffer_form(learner) for name, learner in self.learners.items()}
        #: name -> reason why the learner is not stacked
        self.obstacles: dict[str, str] = {}
        self.stacks = [] if backend == "sb3" else self._stacks(2 if backend == "auto" else 1)
        stacked = {name for one in self.stacks for name in one.names}
        share_images(learner for name, learner in self.learners.items() if name not in stacked)
        self.refresh()

    def _stacks(self, least: int) -> list[LearnerStack]:
        groups: dict[Any, list[str]] = {}
        for name, learner in self.learners.items():
            reason = obstacle(learner) or buffer_obstacle(learner)
            if reason is not None:
                self.obstacles[name] = reason
            else:
                groups.setdefault(_kind(learner), []).append(name)
        stacks = []
        for names in (part for group in groups.values() for part in self._of_similar_size(group)):
            if len(names) < least:
                self.obstacles |= dict.fromkeys(names, "no other learner is like it")
                continue
            on_cpu = self.learners[names[0]].device.type == "cpu"
            n_parts = math.ceil(len(names) / (MAX_LEARNERS if on_cpu else MAX_LEARNERS_ON_GPU))
            parts = np.array_split(np.array(names, dtype=object), n_parts)
            stacks += [LearnerStack(part, [self.learners[name] for name in part], self.backend) for part in map(list, parts)]
        return stacks

    def _of_similar_size(self, names: list[str]) -> list[list[str]]:
        """Split learners of a kind so that none has more than _MAX_PADDING times the features of another one."""
        shapes = {name: describe_perceptron(self.learners[name].policy) for name in names}
        sizes = {name: max(shape.inputs, shape.critic_inputs) for name, shape in shapes.items()}
        smallest: list[int] = []
        for size in sorted(set(sizes.values())):
            if not smallest or size > _MAX_PADDING * smallest[-1]:
                smallest.append(size)
        places = {name: sum(size >= least for least in smallest) for name, size in sizes.items()}
        return [[name for name in names if places[name] == place] for place in range(1, len(smallest) + 1)]

    def describe(self) -> str:
        """How the learners are updated, in one line."""
        parts = [f"{', '.join(one.names)} together by {one.backend!r}{_slower(one, self.backend)}" for one in self.stacks]
        recurrent = [name for name, learner in self.learners.items() if is_recurrent(learner.rollout_buffer)]
        own = [name for name in recurrent if self._steps_itself(self.learners[name])]
        if own:
            parts.append(f"{', '.join(own)} one by one, LSTMs read whole sequences")
        alone = [name for name in self.learners if all(name not in one.names for one in self.stacks) and name not in own]
        if alone:
            reasons = {self.obstacles[name] for name in alone if name in self.obstacles}
            if self.backend == "auto" and any(can_read_once(self.learners[name]) for name in recurrent if name in alone):
                reasons.add("backend 'torch' is faster for a recurrent learner, and equal to SB3 up to rounding")
            why = f" ({'; '.join(sorted(reasons))})" if reasons else ""
            parts.append(f"{', '.join(alone)} one by one by SB3{why}")
        return f"Using backend {self.backend!r}: {'; '.join(parts)}"

    def check_buffers(self) -> None:
        """
        :raises ValueError: if a learner's rollout buffer was exchanged for one that cannot be used
        """
        for name, learner in self.learners.items():
            if buffer_form(learner) != self._forms[name]:
                raise ValueError(
                    f"{name!r}: its rollout buffer was exchanged for a {type(learner.rollout_buffer).__name__} that joint "
                    "collection cannot fill: pass rollout_buffer_class and rollout_buffer_kwargs to the model's constructor"
                )

    def refresh(self) -> None:
        """Look for stacks that cannot be used at present, because somebody watches a learner's gradients, for example."""
        self._usable = [one for one in self.stacks if one.obstacle is None]

    def usable(self) -> tuple[list[LearnerStack], list[str]]:
        """Stacks that could be used at the last :meth:`refresh`, and the names of all other learners."""
        stacked = {name for one in self._usable for name in one.names}
        return self._usable, [name for name in self.learners if name not in stacked]

    def train(self, batches: Mapping[str, AgentBatch]) -> None:
        """
        The predicted step: every learner's own update, SB3's ``train``.

        :param batches: name -> the learner's rollout, whose buffer has been flattened
        """
        stacks, rest = self.usable()
        for name in rest:
            learner = self.learners[name]
            if learner.rollout_buffer.can_train:  # type: ignore[attr-defined]  # SB3's train() fails without any row
                self._train_alone(learner)
        for one in stacks:
            _train_stack(one, [batches[name] for name in one.names])

    def _train_alone(self, learner: OnPolicyAlgorithm) -> None:
        """SB3's ``train``, or its steps without waiting for a GPU and with whole sequences."""
        if self._steps_itself(learner):
            _log_training(learner, ppo_steps(learner))
            return
        with nullcontext() if self.backend == "sb3" else checks_on_cpu(learner.device):
            learner.train()

    def _steps_itself(self, learner: OnPolicyAlgorithm) -> bool:
        """Whether a learner that is not stacked takes the steps of :func:`ppo_steps`."""
        if self.backend == "sb3" or not can_read_once(learner):
            return False
        recurrent = sum(is_recurrent(one.rollout_buffer) for one in self.learners.values())
        return learner.device.type != "cpu" or (
            is_recurrent(learner.rollout_buffer) and recurrent >= (2 if self.backend == "auto" else 1)
        )

    def log_probs_and_distributions(
        self, batches: Mapping[str, AgentBatch]
    ) -> dict[str, tuple[th.Tensor, ActionDistribution]]:
        """
        Log-densities of the batches' actions, (B,) each, and action distributions, in evaluation mode and without gradients.

        :param batches: name -> batch of the learner
        """
        stacks, rest = self.usable()
        found = {name: log_prob_and_distribution(self.learners[name].policy, batches[name]) for name in rest}
        for one in stacks:
            found |= dict(zip(one.names, one.log_probs_and_distributions([batches[name] for name in one.names]), strict=True))
        return found


def _slower(one: LearnerStack, wanted: str) -> str:
    """Why a stack on the CPU is not updated by the faster kernel."""
    if wanted != "auto" or one.backend != "torch" or one.stack.device.type != "cpu":
        return ""
    return f" ({native_stack_obstacle(one.stack)})"


def _kind(learner: Any) -> tuple[Any, ...]:
    """Learners of the same kind can be in one stack."""
    shape = describe_perceptron(learner.policy)
    several = shape.outputs if shape.discrete and len(shape.outputs) > 1 else ()
    return (
        *(type(learner), learner.device, shape.hidden, shape.activation, shape.slope, shape.discrete, shape.dtype, several),
        *(learner.n_steps * learner.n_envs, learner.n_epochs, learner.batch_size, type(learner.policy)),
    )


def _train_stack(one: LearnerStack, batches: Sequence[AgentBatch]) -> None:
    """What ``PPO.train`` and ``MaskablePPO.train`` do, for all learners of a stack."""
    epochs, settings = [], []
    for name, learner in zip(one.names, one.learners, strict=True):
        ppo: Any = learner
        ppo.policy.set_training_mode(True)
        ppo._update_learning_rate(ppo.policy.optimizer)
        settings.append(_ppo_settings(name, ppo))
        can_train = ppo.rollout_buffer.can_train
        drawn = [ppo.rollout_buffer.minibatches(ppo.batch_size) if can_train else [] for _ in range(ppo.n_epochs)]
        epochs.append([_whole(epoch, len(batches[0].mask)) for epoch in drawn])
    optimizers = [learner.policy.optimizer for learner in one.learners]
    records = one.kernel.update(optimizers, one.batch(batches), epochs, settings)
    for learner, record in zip(one.learners, records, strict=True):
        if len(record.epochs):
            _log_training(learner, record)


def _whole(epoch: list[np.ndarray], n_rows: int) -> Epoch:
    """One minibatch of all rows needs no order, because losses are means."""
    return [slice(None)] if len(epoch) == 1 and len(epoch[0]) == n_rows else epoch


def _ppo_settings(name: str, ppo: Any) -> StepSettings:
    (group,) = ppo.policy.optimizer.param_groups
    clip_range, clip_range_vf = clip_ranges(ppo)
    # The native kernel would not notice it.
    if math.isnan(clip_range) or (clip_range_vf is not None and math.isnan(clip_range_vf)):
        raise NonFiniteError(f"agent {name!r}, predicted step: its clip range is nan")
    return StepSettings(
        learning_rate=group["lr"],
        betas=group["betas"],
        eps=group["eps"],
        clip_range=clip_range,
        clip_range_vf=clip_range_vf,
        normalize_advantage=ppo.normalize_advantage,
        ent_coef=ppo.ent_coef,
        vf_coef=ppo.vf_coef,
        kl_coef=0.0,
        max_grad_norm=ppo.max_grad_norm,
        target_kl=ppo.target_kl,
    )


def _log_training(learner: Any, record: StepRecord) -> None:
    """Record what SB3's ``train`` records."""
    learner._n_updates += int(record.epochs[-1]) + 1
    last_epoch = record.epochs == record.epochs[-1]
    buffer, log = learner.rollout_buffer, learner.logger.record
    clip_range, clip_range_vf = clip_ranges(learner)
    log("train/entropy_loss", -record.entropy.mean())
    log("train/policy_gradient_loss", record.policy_loss.mean())
    log("train/value_loss", record.value_loss.mean())
    log("train/approx_kl", record.approx_kl[last_epoch].mean())
    log("train/clip_fraction", record.clip_fraction.mean())
    last = record.policy_loss[-1] - learner.ent_coef * record.entropy[-1] + learner.vf_coef * record.value_loss[-1]
    log("train/loss", last)
    log("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
    if hasattr(learner.policy, "log_std"):
        log("train/std", th.exp(learner.policy.log_std).mean().item())
    log("train/n_updates", learner._n_updates, exclude="tensorboard")
    log("train/clip_range", clip_range)
    if clip_range_vf is not None:
        log("train/clip_range_vf", clip_range_vf)
