"""
Mixtures of an agent's current and predicted policy (Sec. 2.2): densities, distributions, parameters.

``rho`` is always the weight on the CURRENT policy. Where a density is needed, the exact mixture is used; where one
distribution per state is needed, :func:`blend_logits` gives it; where network parameters are needed,
:func:`interpolate_parameters` does. The functions take and return tensors and ``torch.distributions``, and know nothing of
environments or SB3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch as th
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from sb3_matrl.utils.distributions import ActionDistribution


def mixture_ratios(ratios: th.Tensor, rho: th.Tensor) -> th.Tensor:
    """
    Density ratio of the exact mixture to the current policy, per sample: ``rho + (1 - rho) * pi_hat / pi``.

    :param ratios: (B, n), predicted over current density of the executed actions
    :param rho: (n,) in [0, 1]
    :return: (B, n)
    """
    return rho + (1.0 - rho) * ratios


def mixture_log_prob(log_prob: th.Tensor, predicted_log_prob: th.Tensor, rho: th.Tensor | float) -> th.Tensor:
    """
    Log-density of the exact mixture, ``log(rho pi + (1 - rho) pi_hat)``, stable for rho in {0, 1}.

    :param log_prob: log-density under the current policy, any shape
    :param predicted_log_prob: log-density under the predicted policy, same shape
    :param rho: weight(s) on the current policy, broadcastable
    """
    rho = th.as_tensor(rho, dtype=log_prob.dtype, device=log_prob.device)
    return th.logaddexp(rho.log() + log_prob, (1.0 - rho).log() + predicted_log_prob)


def leave_one_out_products(factors: th.Tensor) -> th.Tensor:
    """
    ``out[b, i] = prod_{j != i} factors[b, j]`` in O(B n), by prefix and suffix products, without division.

    :param factors: (B, n)
    :return: (B, n)
    """
    ones = th.ones_like(factors[:, :1])
    before = th.cumprod(th.cat([ones, factors[:, :-1]], dim=1), dim=1)
    after = th.cumprod(th.cat([ones, factors[:, 1:].flip(1)], dim=1), dim=1).flip(1)
    return before * after


def opponent_weights(ratios: th.Tensor, rho: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """
    Importance weights of the best response: target pibar_{-i} over behaviour pi_{-i}, before clipping.

    The paper prints the inverse ratio, pi / pibar; data come from pi_{-i} and the expectation is under pibar_{-i},
    so the ratio has to be pibar / pi.

    :param ratios: (B, n), unclipped
    :param rho: (n,)
    :param mask: bool (B, n); an agent's ratio counts as 1 where False
    :return: (B, n), column i is the product over the agents other than i
    """
    factors = mixture_ratios(ratios, rho)
    if mask is not None:
        factors = th.where(mask, factors, th.ones_like(factors))
    return leave_one_out_products(factors)


def blend_logits(current: ActionDistribution, predicted: ActionDistribution, rho: float) -> ActionDistribution:
    """
    One distribution per state that stands for ``rho * current + (1 - rho) * predicted``.

    Categorical and Bernoulli: exact. MultiDiscrete (a list) and vectors of Bernoullis: exact in every component's
    marginal. Gaussian: moment-matched (mean and variance of the mixture).

    :param current: distribution of the current policy over a batch of states
    :param predicted: distribution of the predicted policy over the same states, of the same kind
    :param rho: weight on the current policy, in [0, 1]
    :raises TypeError: if the two are of different or unsupported kinds
    """
    if isinstance(current, Categorical) and isinstance(predicted, Categorical):
        return Categorical(logits=mixture_log_prob(current.logits, predicted.logits, rho))
    if isinstance(current, Bernoulli) and isinstance(predicted, Bernoulli):
        return Bernoulli(probs=(rho * current.probs + (1.0 - rho) * predicted.probs).clamp(0.0, 1.0))
    if isinstance(current, Normal) and isinstance(predicted, Normal):
        mean = rho * current.loc + (1.0 - rho) * predicted.loc
        spread = rho * (1.0 - rho) * (current.loc - predicted.loc) ** 2
        return Normal(mean, (rho * current.variance + (1.0 - rho) * predicted.variance + spread).sqrt())
    if _both_lists(current, predicted):
        return [Categorical(logits=mixture_log_prob(a.logits, b.logits, rho)) for a, b in _paired(current, predicted)]
    raise TypeError(f"cannot blend {type(current).__name__} with {type(predicted).__name__}")


def kl(p: ActionDistribution, q: ActionDistribution) -> th.Tensor:
    """
    KL(p || q) per state, closed form, summed over the components of the action.

    :return: (B,)
    """
    if _both_lists(p, q):
        return th.stack([kl_divergence(a, b) for a, b in _paired(p, q)]).sum(dim=0)
    return _sum_components(kl_divergence(p, q))  # type: ignore[arg-type]


def total_variation(p: ActionDistribution, q: ActionDistribution) -> th.Tensor:
    """
    Total variation distance per state (Eq. 7), or an upper bound of it.

    Exact for Categorical, where ``TV = sum |p - q| / 2``. For the other kinds the bound ``min(1, sqrt(KL / 2))``
    (Pinsker), which keeps the lower bound of Remark 1 valid.

    :return: (B,)
    """
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        return 0.5 * (p.probs - q.probs).abs().sum(dim=-1)
    return (0.5 * kl(p, q).clamp(min=0.0)).sqrt().clamp(max=1.0)


def interpolate_parameters(
    current: Mapping[str, th.Tensor], predicted: Mapping[str, th.Tensor], rho: float
) -> dict[str, th.Tensor]:
    """
    Parameters of the aggregated policy, ``rho * theta + (1 - rho) * theta_hat``; exact copies at rho in {0, 1}.

    :param current: name -> parameter of the current policy
    :param predicted: the same names of the predicted policy
    """
    if rho == 1.0:
        return {name: value.clone() for name, value in current.items()}
    if rho == 0.0:
        return {name: value.clone() for name, value in predicted.items()}
    return {name: rho * value + (1.0 - rho) * predicted[name] for name, value in current.items()}


def effective_sample_size(weights: np.ndarray) -> float:
    """Share of samples that importance weights leave, ``(sum w)^2 / (B sum w^2)``, in (0, 1]; 1 for no samples."""
    total = float(np.square(weights).sum())
    return float(weights.sum() ** 2 / (len(weights) * total)) if total > 0.0 else 1.0


def _both_lists(p: object, q: object) -> bool:
    return isinstance(p, (list, tuple)) and isinstance(q, (list, tuple))


def _paired(p: ActionDistribution, q: ActionDistribution) -> list[tuple[Categorical, Categorical]]:
    assert isinstance(p, (list, tuple)) and isinstance(q, (list, tuple))
    return list(zip(p, q, strict=True))


def _sum_components(values: th.Tensor) -> th.Tensor:
    return values if values.dim() == 1 else values.flatten(start_dim=1).sum(dim=1)
