"""
Mixtures of an agent's policies (Sec. 2.2): densities, distributions, parameters.

Where a density is needed, the exact mixture is used (:func:`mixture_ratios`, :func:`mixture_log_prob`); where one distribution
per state is needed, :func:`blend_logits` gives it; where network parameters are needed, :func:`interpolate_parameters` does.
The last three take K policies, the current one first, and their weights, a row of ``sigma``; or the current policy, the
predicted policy and ``rho``, always the weight on the CURRENT policy. The functions take and return tensors and
``torch.distributions``, and know nothing of environments or SB3.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, overload

import numpy as np
import torch as th
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from sb3_matrl.utils.distributions import ActionDistribution

#: A row of ``sigma``: K weights that sum to one, numbers or tensors.
Weights = Sequence[th.Tensor | float] | th.Tensor | np.ndarray


def mixture_ratios(ratios: th.Tensor, profile: th.Tensor) -> th.Tensor:
    """
    Density ratio of the exact mixture to the current policy, per sample: ``sigma_0 + sum_k sigma_k pi_k / pi_0``.

    :param ratios: (B, n, K-1), densities of the executed actions under the strategies 1 to K-1 over that under strategy 0, the
        current policy; (B, n) for K = 2
    :param profile: sigma (n, K), a distribution over strategies per agent; or rho (n,), weights on the current policy, K = 2
    :return: (B, n), exactly 1 where an agent plays current, exactly the ratio where it plays another strategy
    """
    sigma = th.stack([profile, 1.0 - profile], dim=-1) if profile.dim() == 1 else profile
    each = ratios.unsqueeze(-1) if ratios.dim() == 2 else ratios
    return sigma[:, 0] + (sigma[:, 1:] * each).sum(dim=-1)


@overload
def mixture_log_prob(log_probs: Sequence[th.Tensor], weights: Weights, /) -> th.Tensor: ...
@overload
def mixture_log_prob(log_prob: th.Tensor, predicted_log_prob: th.Tensor, rho: th.Tensor | float) -> th.Tensor: ...
def mixture_log_prob(log_prob: Any, predicted_log_prob: Any, rho: Any = None) -> th.Tensor:
    """
    Log-density of the exact mixture, ``log(sum_k w_k pi_k)``, stable for weights 0 and 1.

    Called as ``mixture_log_prob(log_probs, weights)`` for K policies.

    :param log_prob: log-density under the current policy, any shape; or those of the K policies, of one shape
    :param predicted_log_prob: log-density under the predicted policy, same shape; or K weights that sum to one, broadcastable
    :param rho: weight(s) on the current policy, broadcastable
    :return: the same shape
    """
    if rho is not None:
        log_prob, predicted_log_prob = [log_prob, predicted_log_prob], [rho, 1.0 - rho]
    logs = [weight.log() for weight in _in_precision(predicted_log_prob, log_prob[0])]
    terms: list[th.Tensor] = [weight + value for weight, value in zip(logs, log_prob, strict=True)]
    return reduce(th.logaddexp, terms)


def _in_precision(weights: Weights, like: th.Tensor) -> list[th.Tensor]:
    """Weights in the precision of ``like``; two of them are complements there."""
    first, *others = (th.as_tensor(weight, dtype=like.dtype, device=like.device) for weight in weights)
    return [first, 1.0 - first] if len(others) == 1 else [first, *others]


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


def opponent_weights(ratios: th.Tensor, profile: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """
    Importance weights of the best response: target pibar_{-i} over behaviour pi_{-i}, before clipping.

    The paper prints the inverse ratio, pi / pibar; data come from pi_{-i} and the expectation is under pibar_{-i},
    so the ratio has to be pibar / pi.

    :param ratios: (B, n), or (B, n, K-1) as for :func:`mixture_ratios`, unclipped
    :param profile: rho (n,) or sigma (n, K)
    :param mask: bool (B, n); an agent's ratio counts as 1 where False
    :return: (B, n), column i is the product over the agents other than i
    """
    factors = mixture_ratios(ratios, profile)
    if mask is not None:
        factors = th.where(mask, factors, th.ones_like(factors))
    return leave_one_out_products(factors)


@overload
def blend_logits(distributions: Sequence[ActionDistribution], weights: Weights, /) -> ActionDistribution: ...
@overload
def blend_logits(current: ActionDistribution, predicted: ActionDistribution, rho: float) -> ActionDistribution: ...
def blend_logits(current: Any, predicted: Any, rho: Any = None) -> ActionDistribution:
    """
    One distribution per state that stands for the mixture ``sum_k w_k pi_k``.

    Categorical and Bernoulli: exact. MultiDiscrete (a list) and vectors of Bernoullis: exact in every component's
    marginal. Gaussian: moment-matched (mean and variance of the mixture). Called as ``blend_logits(distributions, weights)``
    for K policies.

    :param current: distribution of the current policy over a batch of states; or those of the K policies, of one kind
    :param predicted: distribution of the predicted policy over the same states; or K weights that sum to one
    :param rho: weight on the current policy, in [0, 1]
    :return: distribution of the same kind
    :raises TypeError: if the distributions are of different or unsupported kinds
    """
    return _blended(current, predicted) if rho is None else _blended([current, predicted], [rho, 1.0 - rho])


def _blended(distributions: Sequence[Any], weights: Weights) -> ActionDistribution:
    if all(isinstance(one, Categorical) for one in distributions):
        return Categorical(logits=mixture_log_prob([one.logits for one in distributions], weights))
    if all(isinstance(one, Bernoulli) for one in distributions):
        return Bernoulli(probs=_weighted((one.probs for one in distributions), weights).clamp(0.0, 1.0))
    if all(isinstance(one, Normal) for one in distributions):
        return _blended_normal(distributions, weights)
    if all(isinstance(one, (list, tuple)) for one in distributions):
        components = zip(*distributions, strict=True)
        return [Categorical(logits=mixture_log_prob([one.logits for one in each], weights)) for each in components]
    kinds = [type(one).__name__ for one in distributions]
    raise TypeError(f"cannot blend {kinds[0]} with {next((kind for kind in kinds if kind != kinds[0]), kinds[0])}")


def _blended_normal(normals: Sequence[Normal], weights: Weights) -> Normal:
    """Normal with the mixture's mean and variance, the mean variance plus the variance of the means."""
    pairs = itertools.combinations(zip(normals, weights, strict=True), 2)
    spread = [(one.loc - other.loc) ** 2 * (v * w) for (one, v), (other, w) in pairs]
    variance = _weighted((one.variance for one in normals), weights)
    mean = _weighted((one.loc for one in normals), weights)
    return Normal(mean, (variance + reduce(operator.add, spread, th.zeros_like(mean))).sqrt())


def _weighted(values: Iterable[th.Tensor], weights: Weights) -> th.Tensor:
    terms: list[th.Tensor] = [value * weight for value, weight in zip(values, weights, strict=True)]
    return reduce(operator.add, terms)


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


@overload
def interpolate_parameters(parameters: Sequence[Mapping[str, th.Tensor]], weights: Weights, /) -> dict[str, th.Tensor]: ...
@overload
def interpolate_parameters(
    current: Mapping[str, th.Tensor], predicted: Mapping[str, th.Tensor], rho: float
) -> dict[str, th.Tensor]: ...
def interpolate_parameters(current: Any, predicted: Any, rho: Any = None) -> dict[str, th.Tensor]:
    """
    Parameters of the aggregated policy, ``sum_k w_k theta_k``; an exact copy of a policy whose weight is 1.

    Called as ``interpolate_parameters(parameters, weights)`` for K policies.

    :param current: name -> parameter of the current policy; or such a mapping for each of the K policies
    :param predicted: the same names of the predicted policy; or K weights that sum to one
    :param rho: weight on the current policy, in [0, 1]
    :return: name -> new tensor
    """
    policies, weights = (current, predicted) if rho is None else ([current, predicted], [rho, 1.0 - rho])
    used = [(policy, float(weight)) for policy, weight in zip(policies, weights, strict=True) if weight != 0.0]
    if len(used) == 1:
        return {name: value.clone() for name, value in used[0][0].items()}
    shares = [weight for _, weight in used]
    return {name: _weighted((policy[name] for policy, _ in used), shares) for name in policies[0]}


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
