"""Maximisation over continuous actions by the cross-entropy method (Rubinstein and Kroese 2004)."""

from __future__ import annotations

from collections.abc import Callable

import torch as th


def cross_entropy_maximum(value: Callable[[th.Tensor], th.Tensor], normals: th.Tensor, n_elites: int) -> th.Tensor:
    """
    Actions in [-1, 1] with the highest value that the cross-entropy method finds, as in COMIX (Peng et al. 2021, App. A).

    The samples are Gaussian before the tanh that bounds them. Each iteration evaluates a number of samples and fits mean
    and standard deviation to the best of them. The result is the best sample of the last iteration. Rows do not influence
    each other.

    :param value: function from actions (..., n_samples, size) to their values (..., n_samples)
    :param normals: standard normal numbers that the samples are made of, (iterations, ..., n_samples, size)
    :param n_elites: number of samples to which the Gaussian is fitted, from 2 to n_samples
    :return: (..., size)
    """
    mean, deviation = th.zeros_like(normals[0, ..., :1, :]), th.ones_like(normals[0, ..., :1, :])
    with th.no_grad():
        for draws in normals[:-1]:
            elites = _best(value, mean + deviation * draws, n_elites)
            mean, deviation = elites.mean(dim=-2, keepdim=True), elites.std(dim=-2, keepdim=True)
        return _best(value, mean + deviation * normals[-1], 1).squeeze(-2).tanh()


def _best(value: Callable[[th.Tensor], th.Tensor], samples: th.Tensor, n: int) -> th.Tensor:
    """The n samples (before the tanh) with the highest values, (..., n, size)."""
    places = value(samples.tanh()).topk(n, dim=-1).indices
    return samples.gather(-2, places[..., None].expand(*places.shape, samples.shape[-1]))
