"""Actions of categorical policies: samples, greedy actions, and samples that let gradients through."""

from __future__ import annotations

import torch as th
from torch.nn import functional


def masked_logits(logits: th.Tensor, mask: th.Tensor | None) -> th.Tensor:
    """
    Logits with minus infinity for illegal actions.

    :param logits: (..., A)
    :param mask: bool (..., A), legal actions; ``None`` if all are legal
    :return: (..., A)
    """
    return logits if mask is None else logits.masked_fill(~mask, -th.inf)


def gumbel_noise(like: th.Tensor) -> th.Tensor:
    """
    Standard Gumbel noise -log(E) with E exponential, from torch's global generator.

    :param like: tensor whose shape, dtype and device the noise has
    """
    return -th.empty_like(like).exponential_().clamp_min_(th.finfo(like.dtype).tiny).log_()


def sample_actions(logits: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """
    Samples of the softmax over legal actions (Gumbel-max trick).

    :param logits: (..., A)
    :param mask: bool (..., A), or ``None``
    :return: int64 (...)
    """
    return (masked_logits(logits, mask) + gumbel_noise(logits)).argmax(dim=-1)


def greedy_one_hot(logits: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """
    The most likely legal action, one-hot.

    :param logits: (..., A)
    :param mask: bool (..., A), or ``None``
    :return: (..., A), in the logits' dtype
    """
    return one_hot(masked_logits(logits, mask).argmax(dim=-1), logits)


def gumbel_softmax(logits: th.Tensor, noise: th.Tensor, temperature: float, mask: th.Tensor | None = None) -> th.Tensor:
    """
    Relaxed one-hot samples softmax((logits + noise) / temperature) (Jang et al. 2017, Maddison et al. 2017).

    :param logits: (..., A)
    :param noise: Gumbel noise, (..., A)
    :param temperature: positive number; samples approach one-hot vectors as it approaches 0
    :param mask: bool (..., A), or ``None``
    :return: (..., A), each row sums to 1; 0 for illegal actions
    """
    return ((masked_logits(logits, mask) + noise) / temperature).softmax(dim=-1)


def straight_through(logits: th.Tensor, noise: th.Tensor, temperature: float, mask: th.Tensor | None = None) -> th.Tensor:
    """
    One-hot samples with the gradient of the relaxed ones (straight-through Gumbel-softmax, Jang et al. 2017, Sec. 2.2).

    :param logits: (..., A)
    :param noise: Gumbel noise, (..., A)
    :param temperature: positive number, temperature of the relaxed samples
    :param mask: bool (..., A), or ``None``
    :return: (..., A), exactly one-hot; its gradient is that of :func:`gumbel_softmax`
    """
    soft = gumbel_softmax(logits, noise, temperature, mask)
    return one_hot(soft.argmax(dim=-1), soft) + (soft - soft.detach())


def one_hot(actions: th.Tensor, like: th.Tensor) -> th.Tensor:
    """
    :param actions: int64 (...)
    :param like: tensor (..., A) whose number of actions and dtype the result has
    :return: (..., A)
    """
    return functional.one_hot(actions, like.shape[-1]).to(like.dtype)
