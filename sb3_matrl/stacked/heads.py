"""Log-densities and entropies of stacked action distributions, their gradients, and actions from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch as th

# Logit of a choice that does not exist or is illegal, as in sb3-contrib: its probability is zero.
NEVER = -1e8
_LOG_SQRT_2_PI = 0.5 * math.log(2.0 * math.pi)


class Head(Protocol):
    """
    Action distributions of n agents, given by the outputs of their actors.

    Shapes: outputs (n, B, n_outputs); actions (n, B, action size) of the outputs' type; log-densities and entropies (n, B).
    ``log_std`` is (n, n_outputs) for Gaussians, empty otherwise; ``masks`` bool (n, B, n_outputs), or ``None``.
    """

    action_size: int

    def noise(self, *shape: int, like: th.Tensor) -> th.Tensor:
        """Draw noise for :meth:`sample` from torch's global generator, (*shape, n_outputs)."""
        ...

    def sample(self, outputs: th.Tensor, log_std: th.Tensor, masks: th.Tensor | None, noise: th.Tensor) -> th.Tensor:
        """Actions of the distributions."""
        ...

    def evaluate(
        self, outputs: th.Tensor, log_std: th.Tensor, masks: th.Tensor | None, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, Any]:
        """Log-densities, entropies, and what :meth:`gradient` needs."""
        ...

    def gradient(self, kept: Any, of_log_prob: th.Tensor, of_entropy: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        """
        Gradient of a loss with respect to the outputs, and to ``log_std``.

        :param kept: third result of :meth:`evaluate`
        :param of_log_prob: derivative of the loss with respect to the log-densities, (n, B)
        :param of_entropy: derivative with respect to the entropies, (n, B) or (n, 1)
        """
        ...


class CategoricalHead:
    """
    Discrete actions (one choice) and MultiDiscrete actions (several choices, alike for all agents).

    :param sizes: agent -> sizes of its choices; agents with one choice may have different numbers of options
    :param device: device of the networks
    """

    def __init__(self, sizes: Sequence[tuple[int, ...]], device: th.device) -> None:
        n_outputs = max(map(sum, sizes))
        self.action_size = len(sizes[0])
        widths = sizes[0] if self.action_size > 1 else (n_outputs,)
        bounds = [0, *th.tensor(widths).cumsum(0).tolist()]
        self._parts = [slice(start, end) for start, end in pairwise(bounds)]
        exists = th.arange(n_outputs) < th.tensor([sum(one) for one in sizes])[:, None]
        # (n, 1, n_outputs), or None if all agents have all options
        self._exists = None if bool(exists.all()) else exists[:, None].to(device)

    def _possible(self, masks: th.Tensor | None) -> th.Tensor | None:
        """Choices that exist and are legal, (n, B or 1, n_outputs); ``None`` if all are."""
        if self._exists is None:
            return masks
        return self._exists if masks is None else masks & self._exists

    def _legal(self, outputs: th.Tensor, masks: th.Tensor | None) -> th.Tensor:
        possible = self._possible(masks)
        return outputs if possible is None else outputs.masked_fill(~possible, NEVER)

    def noise(self, *shape: int, like: th.Tensor) -> th.Tensor:
        """Gumbel noise, see :class:`Head`."""
        # -log(Exponential(1)) is Gumbel(0, 1).
        return like.new_empty(shape).exponential_().log_().neg_()

    def sample(self, outputs: th.Tensor, log_std: th.Tensor, masks: th.Tensor | None, noise: th.Tensor) -> th.Tensor:
        """See :class:`Head`."""
        perturbed = self._legal(outputs, masks) + noise
        chosen = [perturbed[..., part].argmax(dim=-1, keepdim=True) for part in self._parts]
        return (chosen[0] if len(chosen) == 1 else th.cat(chosen, dim=-1)).to(outputs.dtype)

    def evaluate(
        self, outputs: th.Tensor, log_std: th.Tensor, masks: th.Tensor | None, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, Any]:
        """See :class:`Head`."""
        legal, index = self._legal(outputs, masks), actions.long()
        kept, log_probs, entropies = [], [], []
        for k, part in enumerate(self._parts):
            logits = th.log_softmax(legal[..., part], dim=-1)
            probs, chosen = logits.exp(), index[..., k : k + 1]
            entropy = -(probs * logits).sum(dim=-1)
            log_probs.append(logits.gather(-1, chosen).squeeze(-1))
            entropies.append(entropy)
            kept.append((logits, probs, chosen, entropy))
        return sum(log_probs[1:], log_probs[0]), sum(entropies[1:], entropies[0]), (kept, self._possible(masks))

    def gradient(self, kept: Any, of_log_prob: th.Tensor, of_entropy: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        """See :class:`Head`."""
        parts, possible = kept
        grads, chosen_grad = [], of_log_prob[..., None]
        for logits, probs, chosen, entropy in parts:
            # d entropy / d logit = -p (log p + entropy); d log p(a) / d logit = [logit of a] - p
            grad = (logits + entropy[..., None]).mul_(of_entropy[..., None]).add_(chosen_grad).mul_(probs).neg_()
            grads.append(grad.scatter_add_(-1, chosen, chosen_grad))
        joined = grads[0] if len(grads) == 1 else th.cat(grads, dim=-1)
        return joined if possible is None else joined.masked_fill_(~possible, 0.0), None


class GaussianHead:
    """
    Box actions: independent Gaussians whose deviations do not depend on the observation.

    :param sizes: agent -> dimensions of its actions, a tuple of one number
    :param dtype: type of the parameters
    :param device: device of the networks
    """

    def __init__(self, sizes: Sequence[tuple[int, ...]], dtype: th.dtype, device: th.device) -> None:
        self.action_size = max(map(sum, sizes))
        dimensions = th.tensor([sum(one) for one in sizes])
        exists = th.arange(self.action_size) < dimensions[:, None]
        self._all = bool(exists.all())
        self._exists = exists.to(device, dtype)
        self._constant = (dimensions.to(dtype) * _LOG_SQRT_2_PI).to(device)

    def noise(self, *shape: int, like: th.Tensor) -> th.Tensor:
        """Standard normal noise, see :class:`Head`."""
        return like.new_empty(shape).normal_()

    def sample(self, outputs: th.Tensor, log_std: th.Tensor, masks: th.Tensor | None, noise: th.Tensor) -> th.Tensor:
        """See :class:`Head`."""
        return th.addcmul(outputs, log_std.exp()[:, None], noise)

    def evaluate(
        self, outputs: th.Tensor, log_std: th.Tensor, masks: th.Tensor | None, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, Any]:
        """See :class:`Head`."""
        scaled = (actions - outputs).mul_((-log_std).exp()[:, None])
        if not self._all:
            scaled.mul_(self._exists[:, None])
        total = (log_std * self._exists).sum(dim=1)
        log_prob = scaled.square().sum(dim=-1).mul_(-0.5).sub_((total + self._constant)[:, None])
        half = 0.5 * self._exists.sum(dim=1)
        entropy = (half + self._constant + total)[:, None].expand_as(log_prob)
        return log_prob, entropy, (scaled, log_std)

    def gradient(self, kept: Any, of_log_prob: th.Tensor, of_entropy: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        """See :class:`Head`."""
        scaled, log_std = kept
        of_outputs = scaled * (-log_std).exp()[:, None] * of_log_prob[..., None]
        of_log_std = (scaled.square().sub_(1.0) * of_log_prob[..., None]).sum(dim=1)
        total = of_entropy.expand_as(of_log_prob).sum(dim=1, keepdim=True)
        return of_outputs, (of_log_std + total) * self._exists
