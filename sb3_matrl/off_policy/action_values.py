"""Values of many actions per observation and the best of them; alike critics of several agents are evaluated together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from torch import nn

from sb3_matrl.off_policy.cross_entropy import cross_entropy_maximum

# Samples of an agent up to which alike critics are evaluated together: more of them are faster one agent at a time (CPU).
_MOST_TOGETHER = 640


class ActionValues:
    """
    Values of actions at fixed observations, without gradients.

    The part of a critic that depends on the observation alone, up to the first layer, is computed once.

    :param critics: critics that are alike (:func:`alike_critics`), or a single one
    :param observations: for each critic its agent's observations, (B, *shape) or a dict of such tensors
    """

    def __init__(self, critics: Sequence[ContinuousCritic], observations: Sequence[Any]) -> None:
        first, *others = (list(layers) for layers in zip(*map(_network, critics), strict=True))
        with th.no_grad():
            features = [c.extract_features(o, c.features_extractor) for c, o in zip(critics, observations, strict=True)]
            weight, bias = _linear(first)
            size = features[0].shape[-1]
            self._base = _product(bias, _together(features), weight[:, :size])[:, :, None]
            self._action_weight = weight[:, size:]
            self._layers = [_linear(layers) if isinstance(layers[0], nn.Linear) else layers[0] for layers in others]

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: scaled to [-1, 1], (n_critics, B, n_samples, size)
        :return: (n_critics, B, n_samples)
        """
        n, batch, samples, size = actions.shape
        with th.no_grad():
            values = th.bmm(actions.reshape(n, batch * samples, size), self._action_weight)
            values.view(n, batch, samples, -1).add_(self._base)
            for layer in self._layers:
                values = _product(layer[1], values, layer[0]) if isinstance(layer, tuple) else layer(values)
        return values.view(n, batch, samples)


def _product(biases: th.Tensor, rows: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """Outputs (n, B, outputs) of n linear layers; PyTorch is faster at a single product than at a batch of one."""
    if len(weights) == 1:
        return th.addmm(biases[0], rows[0], weights[0])[None]
    return th.baddbmm(biases, rows, weights)


def alike_critics(critics: Mapping[str, ContinuousCritic]) -> list[list[str]]:
    """
    Groups of agents whose critics have the same layers, so that they can be evaluated together.

    :param critics: agent -> critic
    :return: groups of agents, each in the given order
    """
    groups: dict[Hashable, list[str]] = {}
    for agent, critic in critics.items():
        groups.setdefault(_layers_of(critic) or agent, []).append(agent)
    return list(groups.values())


def best_actions(
    critics: Mapping[str, ContinuousCritic],
    groups: Sequence[Sequence[str]],
    observations: Mapping[str, Any],
    normals: Mapping[str, th.Tensor],
    n_elites: int,
) -> dict[str, th.Tensor]:
    """
    Best actions of all agents by the cross-entropy method.

    :param critics: agent -> critic
    :param groups: agents with alike critics, see :func:`alike_critics`
    :param observations: agent -> (B, \\*shape), or a dict of such tensors
    :param normals: agent -> standard normal numbers (iterations, B, n_samples, size)
    :param n_elites: number of the best samples that the next iteration's distribution is fitted to
    :return: agent -> (B, size), scaled to [-1, 1]
    """
    best: dict[str, th.Tensor] = {}
    for group in groups:
        _, rows, samples, _ = normals[group[0]].shape
        for part in [group] if rows * samples <= _MOST_TOGETHER else [[agent] for agent in group]:
            values = ActionValues([critics[agent] for agent in part], [observations[agent] for agent in part])
            draws = th.stack([normals[agent] for agent in part], dim=1)
            best.update(zip(part, cross_entropy_maximum(values, draws, n_elites), strict=True))
    return {agent: best[agent] for agent in critics}


def _layers_of(critic: ContinuousCritic) -> Hashable:
    """What alike critics have in common; ``None`` if a layer other than the linear ones has parameters."""
    network = list(_network(critic))
    if any(list(layer.parameters()) for layer in network if not isinstance(layer, nn.Linear)):
        return None
    return (critic.features_extractor.features_dim, *(repr(layer) for layer in network))


def _network(critic: ContinuousCritic) -> nn.Sequential:
    network = critic.q_networks[0]
    assert isinstance(network, nn.Sequential)
    return network


def _linear(layers: Sequence[nn.Module]) -> tuple[th.Tensor, th.Tensor]:
    """Weights (n, inputs, outputs) and biases (n, 1, outputs) of alike linear layers."""
    linears: Any = layers
    return _together([one.weight for one in linears]).transpose(1, 2), _together([one.bias[None] for one in linears])


def _together(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """Stack tensors; a single one is not copied."""
    return tensors[0][None] if len(tensors) == 1 else th.stack(list(tensors))
